"""A bundle as a Triton model repository: one folder for each file that Triton can run.

    REPOSITORY/resnet50_int8/config.pbtxt, labels.txt, 1/model.onnx      backend onnxruntime
    REPOSITORY/resnet50_int8_trt/config.pbtxt, labels.txt, 1/model.plan  backend tensorrt, of an engine in the bundle

Every folder is written whole or not at all, and none before all are ready; other models there are left alone.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from exporter.bundle.write_folder import bundle_folder, check_output, marked_by_first_line
from exporter.deploy.triton_config import FILE_OF_BACKEND, HEADER, VERSION, Serving, TritonModel, config_text
from exporter.errors import ExportError
from runtimes.bundle.described_file import load_unchanged
from runtimes.bundle.file_names import LABELS_NAME, MODEL_FILES
from runtimes.bundle.manifest import Manifest, check_holds, file_entry, read_labels
from runtimes.errors import BundleError
from runtimes.trt.engine_sidecar import load_sidecar

CONFIG = "config.pbtxt"


TRITON_MODEL = marked_by_first_line("Triton model of this tool", CONFIG, HEADER)


@dataclass(frozen=True, slots=True)
class TritonPlan:
    """Plan of a model repository: every folder with its file, and why engines of the bundle are left out."""

    models: tuple[tuple[TritonModel, Path], ...]
    skipped: tuple[str, ...]


def write_triton_repository(
    bundle: Path,
    repository: Path,
    *,
    precisions: Sequence[str] | None = None,
    name: str | None = None,
    serving: Serving | None = None,
    force: bool = False,
) -> TritonPlan:
    """Write the models of a bundle into a Triton model repository; for the arguments see `resnet_export.triton`.

    Raises:
        BundleError: If the folder is no bundle or was changed, or an engine was.
        ExportError: If the options do not fit the bundle, or the disk cannot be written; nothing is left behind.
        OutputExistsError: If a model is there already, and `force` is off or it is another tool's.
    """
    serving = serving or Serving()
    manifest = load_unchanged(bundle)
    plan = plan_triton_repository(bundle, manifest, precisions=precisions, name=name)
    texts = [config_text(model, manifest, serving) for model, _ in plan.models]
    for model, _ in plan.models:
        check_output(repository / model.name, force=force, kind=TRITON_MODEL)
    with ExitStack() as stack:
        for (model, file), text in zip(plan.models, texts, strict=True):
            folder = stack.enter_context(bundle_folder(repository / model.name, kind=TRITON_MODEL))
            version = folder / VERSION
            version.mkdir()
            shutil.copyfile(file, version / FILE_OF_BACKEND[model.backend])
            if model.has_labels:
                shutil.copyfile(bundle / LABELS_NAME, folder / LABELS_NAME)
            (folder / CONFIG).write_text(text, encoding="utf-8")
    return plan


def plan_triton_repository(
    bundle: Path, manifest: Manifest, *, precisions: Sequence[str] | None = None, name: str | None = None
) -> TritonPlan:
    """Return which folders a bundle gives, and which of its engines Triton cannot run."""
    chosen = _chosen(bundle, manifest, precisions)
    base = _model_name(name or str(manifest.model.get("id", "model")))
    labels = _labels_fit(bundle, manifest)
    models: list[tuple[TritonModel, Path]] = []
    skipped: list[str] = []
    for precision in chosen:
        called = base if precisions is not None and len(chosen) == 1 else f"{base}_{precision}"
        model = TritonModel(called, "onnxruntime", manifest.batch, labels)
        onnx = bundle / MODEL_FILES[precision]
        models.append((model, onnx))
        rtx = onnx.with_name(f"{onnx.stem}.rtx.engine")
        if rtx.exists():
            skipped.append(f"{rtx.name}: a TensorRT-RTX engine, which Triton's tensorrt backend does not load")
        engine = onnx.with_name(f"{onnx.stem}.engine")
        if engine.exists():
            models.append((_engine_model(engine, manifest, onnx.name, f"{called}_trt", labels), engine))
    return TritonPlan(tuple(models), tuple(skipped))


def _chosen(bundle: Path, manifest: Manifest, precisions: Sequence[str] | None) -> list[str]:
    if precisions is not None and not precisions:
        raise ValueError("precisions: got none, expected some of the bundle's, or None for all")
    check_holds(bundle, manifest, precisions or ())
    return [precision for precision in manifest.precisions if precisions is None or precision in precisions]


def _model_name(name: str) -> str:
    """Return a folder name: Triton addresses models by URL, so `timm:resnet18.a1_in1k` becomes `resnet18.a1_in1k`."""
    cleaned = re.sub(r"[^A-Za-z0-9_.-]+", "_", name.rpartition(":")[2]).strip("._-")
    if not cleaned:
        raise ExportError(f"--name {name!r}: expected letters, digits, _, - or .")
    return cleaned


def _labels_fit(bundle: Path, manifest: Manifest) -> bool:
    """Tell whether place i of the one output is class i: not of feature maps, of the K best scores, of one number."""
    labels = read_labels(bundle, manifest)
    if labels is None or len(manifest.outputs) != 1 or len(manifest.outputs[0].shape) != 2 or manifest.gives_one_number:
        return False
    return manifest.outputs[0].shape[1] == len(labels)


def _engine_model(engine: Path, manifest: Manifest, onnx_name: str, name: str, labels: bool) -> TritonModel:
    """Return the model of an engine, after making sure that it is the one its sidecar describes, of this bundle."""
    sidecar = load_sidecar(engine)
    got = file_entry(engine)
    if (got.sha256, got.size_bytes) != (sidecar.engine_sha256, sidecar.engine_size_bytes):
        raise BundleError(f"{engine}: changed since it was built; build it again (resnet-export build)")
    if sidecar.facts.onnx_sha256 != manifest.files[onnx_name].sha256:
        raise BundleError(f"{engine}: built from another {onnx_name}; build it again (resnet-export build)")
    return TritonModel(name, "tensorrt", sidecar.facts.batch, labels)
