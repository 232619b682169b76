"""A bundle as a folder for DeepStream's nvinfer: configuration, labels, and an ONNX file that nvinfer feeds rightly.

The written file is run on ONNX Runtime, on the bundle's own pictures prepared as nvinfer prepares them, and must answer
like the bundle's file on pictures prepared as in training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exporter.bundle.write_folder import bundle_folder, check_output, marked_by_first_line
from exporter.deploy import nvinfer_config
from exporter.deploy.nvinfer_normalization import NOTHING, NvinferNormalization, apply_nvinfer, nvinfer_normalization
from exporter.errors import ExportCheckError, ExportError
from exporter.graph.read_model import read_model
from runtimes.bundle.described_file import load_unchanged
from runtimes.bundle.file_names import GOLDEN_NAME, MODEL_FILES
from runtimes.bundle.manifest import Manifest, check_holds, read_labels
from runtimes.bundle.precision import LOWEST_FIRST, is_int8
from runtimes.io.npz import load_npz
from runtimes.metrics.answer_kind import AnswerKind, kind_in
from runtimes.preprocessing.transform import normalize
from runtimes.protocol import Array, Runtime, outputs_of

if TYPE_CHECKING:
    from onnx import ModelProto


MAX_PROBABILITY_DIFFERENCE = {"graph": 1e-5, "config": 1e-5, "single-scale": None}
"""Largest |difference| of a probability by how the normalization is done; None: told, not judged.
float32 sums of 1000 exponentials differ by 1e-6."""

MAX_RELATIVE_FEATURE_DIFFERENCE = 1e-3
"""Of the largest |feature|."""

MAX_ROUNDED_DIFFERENCE = 0.02
"""Of a probability in FP16 and INT8 where nvinfer normalizes: another last bit may round to another level."""


DEEPSTREAM_FOLDER = marked_by_first_line("DeepStream folder of this tool", nvinfer_config.CONFIG, nvinfer_config.HEADER)


@dataclass(frozen=True, slots=True)
class DeepStreamReport:
    """Files that were written, and the evidence.

    Attributes:
        normalized_by: "config" (nvinfer alone), "graph" (the file, from levels 0-255) or "single-scale" (nvinfer alone,
            with one factor for channels that have several).
        single_scale_deviation: How far one factor is off training's normalization, in normalized units.
        max_abs_diff: Largest |difference| of a probability (or feature).
        agreement: Share of the pictures with the same best class; None of features.
    """

    file: str
    precision: str
    normalized_by: str
    single_scale_deviation: float
    num_images: int
    max_abs_diff: float
    agreement: float | None
    warnings: tuple[str, ...]


def write_deepstream(
    bundle: Path,
    output: Path,
    *,
    precision: str | None = None,
    settings: nvinfer_config.NvinferSettings | None = None,
    single_scale: bool = False,
    open_runtime: Callable[[ModelProto], Runtime],
    force: bool = False,
) -> DeepStreamReport:
    """Write the folder; for the arguments see `resnet_export.deepstream`. `open_runtime` opens INT8 as written.

    Raises:
        BundleError: If the folder is no bundle or was changed.
        ExportError: If nvinfer cannot run this bundle, with the way out, or the disk cannot be written.
        ExportCheckError: If the written file does not answer like the bundle's; nothing is written then.
        OutputExistsError: If the output is there already, and `force` is off or it is something else.
    """
    from exporter.deploy.nvinfer_graph import graph_for_nvinfer

    settings = settings or nvinfer_config.NvinferSettings()
    manifest = load_unchanged(bundle)
    if precision is None:  # INT8 with FP16 around it is for strongly typed networks
        names = [name for name in LOWEST_FIRST if settings.strongly_typed or name != "int8-fp16"]
        precision = next(name for name in names if name in manifest.precisions)
    _check_fits(bundle, manifest, precision, settings)
    check_output(output, force=force, kind=DEEPSTREAM_FOLDER)
    preprocessing = manifest.preprocessing
    best = nvinfer_normalization(preprocessing)
    normalized_by = "config" if best.is_exact else "single-scale" if single_scale else "graph"
    normalization = NOTHING if normalized_by == "graph" else best
    is_classifier = _is_classes(manifest)
    original = read_model(bundle / MODEL_FILES[precision])
    kind = _kind(original, manifest)
    softmax = is_classifier and kind.needs_softmax
    written = graph_for_nvinfer(original, preprocessing, normalize=normalized_by == "graph", softmax=softmax)
    pixels = _pictures(bundle, manifest)
    diff, agreement = _compare(
        original, written, manifest, pixels, normalization=normalization, kind=kind, open_runtime=open_runtime
    )
    _judge(diff, agreement, is_classifier, normalized_by, precision)
    labels, warnings = _label_line(bundle, manifest) if is_classifier else (None, [])
    if normalized_by == "single-scale":
        off = f"normalized levels are off by up to {best.max_deviation:.3g}"
        warnings.append(f"one net-scale-factor for three stds: {off}; without --single-scale the model normalizes")
    model = nvinfer_config.NvinferModel(
        file=MODEL_FILES[precision],
        precision=precision,
        outputs=tuple(output.name for output in written.graph.output),
        is_classifier=is_classifier,
        has_labels=labels is not None,
        normalization=normalization,
        notes=_notes(manifest, normalized_by, best, len(pixels), diff),
    )
    texts = {nvinfer_config.CONFIG: nvinfer_config.config_text(model, preprocessing, settings)}
    if labels is not None:
        texts[nvinfer_config.LABELS] = labels
    if is_int8(precision) and not settings.strongly_typed:
        texts[nvinfer_config.CALIBRATION] = "not read: the model holds its own scales (Q/DQ)\n"
    _write(output, model.file, written, texts)
    return DeepStreamReport(
        model.file, precision, normalized_by, best.max_deviation, len(pixels), diff, agreement, tuple(warnings)
    )


def _write(output: Path, file: str, model: ModelProto, texts: Mapping[str, str]) -> None:
    import onnx

    with bundle_folder(output, kind=DEEPSTREAM_FOLDER) as folder:
        onnx.save_model(model, folder / file)
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")


def _check_fits(bundle: Path, manifest: Manifest, precision: str, settings: nvinfer_config.NvinferSettings) -> None:
    check_holds(bundle, manifest, [precision])
    if is_int8(precision) and not manifest.int8_for_tensorrt:
        raise ExportError(
            f"{bundle} was exported for {manifest.target}: TensorRT, and so nvinfer, does not read its INT8 model; "
            "export again with --target tensorrt or a jetpack, or take --precision fp32"
        )
    if [entry.name for entry in manifest.outputs] == ["scores", "indices"]:
        raise ExportError(
            "nvinfer's classifier takes the best of all probabilities itself and cannot read scores and indices; "
            "export again without --topk"
        )
    if GOLDEN_NAME not in manifest.files:
        raise ExportError(
            f"{bundle} holds no {GOLDEN_NAME}, on whose pictures the file for nvinfer is checked; export again"
        )
    batch = manifest.inputs[0].shape[0]
    if isinstance(batch, int) and batch != settings.batch:
        raise ExportError(f"--batch {settings.batch}: the file takes exactly {batch} images; give --batch {batch}")


def _is_classes(manifest: Manifest) -> bool:
    is_table = len(manifest.outputs) == 1 and len(manifest.outputs[0].shape) == 2 and not manifest.gives_one_number
    return is_table and not manifest.options.get("features") and manifest.answers is not AnswerKind.FEATURES


def _kind(original: ModelProto, manifest: Manifest) -> AnswerKind:
    """Return what the file gives: as its graph ends, else as the export saw it."""
    from exporter.graph.output_kind import output_kind

    kind = output_kind(original)
    return kind if kind is not AnswerKind.LOGITS else kind_in(manifest.model) or kind


def _pictures(bundle: Path, manifest: Manifest) -> NDArray[np.uint8]:
    """Return the pictures that the bundle was checked on, uint8 [n, H, W, 3]."""
    from runtimes.preprocessing.restore_pixels import pixels_of

    images = load_npz(bundle / GOLDEN_NAME)["input"]
    return images if images.dtype == np.uint8 else pixels_of(manifest.preprocessing, images)


def _compare(
    original: ModelProto,
    written: ModelProto,
    manifest: Manifest,
    pixels: NDArray[np.uint8],
    *,
    normalization: NvinferNormalization,
    kind: AnswerKind,
    open_runtime: Callable[[ModelProto], Runtime],
) -> tuple[float, float | None]:
    """Return the largest |difference| of the outputs and the share of equal best classes."""
    given: Array = pixels if manifest.inputs[0].dtype == "uint8" else normalize(manifest.preprocessing, pixels)
    with open_runtime(original) as reference, open_runtime(written) as candidate:
        expected = outputs_of(reference, given)
        got = outputs_of(candidate, apply_nvinfer(normalization, pixels))
    if not _is_classes(manifest):
        return max(_relative(expected[name], got[name]) for name in expected), None
    before, after = next(iter(expected.values())).astype(np.float64), next(iter(got.values()))
    before = kind.probabilities(before)
    same = before.argmax(axis=1) == after.argmax(axis=1)
    return float(np.abs(before - after).max()), float(same.mean())


def _relative(expected: Array, got: Array) -> float:
    largest = float(np.abs(expected).max())
    return float(np.abs(expected.astype(np.float64) - got).max()) / max(largest, 1e-30)


def _judge(diff: float, agreement: float | None, is_classifier: bool, normalized_by: str, precision: str) -> None:
    """Raise unless the written file answers like the bundle's."""
    allowed = MAX_PROBABILITY_DIFFERENCE[normalized_by]
    if allowed is None:
        return
    if normalized_by == "config" and precision != "fp32":
        allowed = MAX_ROUNDED_DIFFERENCE
    if not is_classifier:
        allowed = max(allowed, MAX_RELATIVE_FEATURE_DIFFERENCE)
    if not diff <= allowed:
        raise ExportCheckError(
            f"the file for nvinfer does not answer like the bundle's: largest |difference| {diff:.3g}, allowed "
            f"{allowed:.3g}, agreement {agreement}; nothing was written"
        )


def _label_line(bundle: Path, manifest: Manifest) -> tuple[str | None, list[str]]:
    """Return nvinfer's labels file: the classes of one output on one line, separated by semicolons."""
    if (labels := read_labels(bundle, manifest)) is None:
        return None, []
    changed = [label for label in labels if ";" in label]
    told = f"{len(changed)} labels hold a semicolon, which separates labels here; it became a comma"
    warnings = [told] if changed else []
    return ";".join(label.replace(";", ",") for label in labels) + "\n", warnings


def _notes(
    manifest: Manifest, normalized_by: str, best: NvinferNormalization, num_images: int, diff: float
) -> tuple[str, ...]:
    preprocessing = manifest.preprocessing
    mean, std = (", ".join(f"{value:g}" for value in values) for values in (preprocessing.mean, preprocessing.std))
    how = {
        "config": (
            "Normalization: by nvinfer, net-scale-factor = 1 / (255 std) and offsets = 255 mean: over all 256 levels",
            f"at most {best.max_deviation:.2g} (normalized units) from training's.",
        ),
        "graph": (
            "Normalization: in the model, which takes levels 0-255, because nvinfer has one net-scale-factor and this",
            f"model three stds; one factor would be off by up to {best.max_deviation:.3g} (normalized units).",
        ),
        "single-scale": (
            "Normalization: NOT training's. nvinfer has one net-scale-factor and this model three stds; normalized",
            f"levels are off by up to {best.max_deviation:.3g}. Without --single-scale the model does it exactly.",
        ),
    }[normalized_by]
    return (
        f"Model: {manifest.model.get('id')}, mean {mean}, std {std} (R, G, B, scale 0-1).",
        *how,
        f"Checked with ONNX Runtime on {num_images} pictures prepared so: largest |difference| {diff:.2g}.",
        "nvinfer itself was not run.",
    )
