"""A bundle as a web page that classifies pictures in the browser: files of its own, no server's help, no CDN.

DIR/index.html, app.js, prepare.js, resample.js   the page; pictures are prepared as the manifest says
DIR/onnxruntime/                                  onnxruntime-web, its WebAssembly for the CPU
DIR/model.*.onnx, facts.json, golden.bin          the model, what the page knows of it, and its self-check
DIR/serve.py                                      serves the folder; any web server does
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from exporter.bundle.write_folder import FolderKind, bundle_folder, check_output, json_object
from exporter.deploy.onnxruntime_web import onnxruntime_web
from exporter.errors import ExportError
from runtimes.bundle.described_file import load_unchanged
from runtimes.bundle.file_names import GOLDEN_NAME, MODEL_FILES
from runtimes.bundle.manifest import Manifest, check_holds, read_labels
from runtimes.inference.classification import FEATURES_TOLD, ONE_NUMBER_TOLD, PROBABILITIES
from runtimes.io.npz import load_npz
from runtimes.metrics.answer_kind import AnswerKind
from runtimes.protocol import Array, outputs_of

FACTS = "facts.json"
MADE_BY = "resnet-export web"
PAGE = ("index.html", "app.js", "prepare.js", "resample.js", "serve.py")
NUM_GOLDEN = 4
"""Pictures of the self-check: as many as a page loads without a pause."""


WEB_PAGE = FolderKind(
    "web page of this tool",
    f"{FACTS} with made_by",
    lambda folder: json_object(folder / FACTS).get("made_by") == MADE_BY,
)


@dataclass(frozen=True, slots=True)
class WebReport:
    """Result: the model's file, its precision and why that one."""

    file: str
    precision: str
    reason: str


def write_web(
    bundle: Path,
    output: Path,
    *,
    precision: str | None = None,
    open_runtime: Any,
    package: Path | None = None,
    force: bool = False,
) -> WebReport:
    """Write the page.

    Args:
        bundle: A bundle folder; its files must be unchanged.
        output: The folder to write.
        precision: A key of `MODEL_FILES`; None takes INT8 in ONNX Runtime's dialect, else FP32: the fastest there.
        open_runtime: Opens a file as a plain session of ONNX Runtime: `OrtRuntime`.
        package: Archive of onnxruntime-web; see `onnxruntime_web`.
        force: Replace a page that this tool wrote.

    Raises:
        BundleError: If the folder is no bundle or was changed.
        ExportError: If the page cannot prepare its pictures or read its answers, or onnxruntime-web is not to be had.
        OutputExistsError: If something is there already, and `force` is off or it is no such page.
    """
    manifest = load_unchanged(bundle)
    check_output(output, force=force, kind=WEB_PAGE)
    chosen, reason = _chosen(bundle, manifest, precision)
    _check_page_can(bundle, manifest)
    file = MODEL_FILES[chosen]
    inputs = load_npz(bundle / GOLDEN_NAME)["input"][:NUM_GOLDEN]
    scores = manifest.outputs[0].name
    with open_runtime(bundle / file) as runtime:
        answers = np.concatenate([outputs_of(runtime, image[np.newaxis])[scores] for image in inputs])
    assets = onnxruntime_web(package)
    with bundle_folder(output, force=force, kind=WEB_PAGE) as folder:
        for name in PAGE:
            (folder / name).write_bytes((resources.files("exporter.deploy") / "web_page" / name).read_bytes())
        (folder / "onnxruntime").mkdir()
        for name, content in assets.items():
            (folder / "onnxruntime" / name).write_bytes(content)
        shutil.copyfile(bundle / file, folder / file)
        (folder / "golden.bin").write_bytes(np.ascontiguousarray(inputs).tobytes())
        facts = page_facts(bundle, manifest, file, inputs, answers)
        (folder / FACTS).write_text(json.dumps(facts, indent=1, ensure_ascii=False), encoding="utf-8")
    return WebReport(file, chosen, reason)


def page_facts(bundle: Path, manifest: Manifest, file: str, inputs: Array, answers: Array) -> Mapping[str, Any]:
    """Return what the page knows of its model, as JSON holds it."""
    output = manifest.outputs[0].name
    model = str(manifest.model.get("id", "model"))
    return {
        "made_by": MADE_BY,
        "title": model,
        "about": f"{file} in onnxruntime-web, on this computer's processor.",
        "file": file,
        "preprocessing": manifest.preprocessing.to_json(),
        "input": {"name": manifest.inputs[0].name, "dtype": manifest.inputs[0].dtype},
        "output": output,
        "has_softmax": output == PROBABILITIES or not (manifest.answers or AnswerKind.LOGITS).needs_softmax,
        "labels": read_labels(bundle, manifest),
        "golden": {"file": "golden.bin", "shape": list(inputs.shape), "answers": answers.tolist()},
    }


def _chosen(bundle: Path, manifest: Manifest, precision: str | None) -> tuple[str, str]:
    if precision is not None:
        check_holds(bundle, manifest, [precision])
        return precision, "as asked"
    if MODEL_FILES["int8"] in manifest.files and not manifest.int8_for_tensorrt:
        return "int8", "INT8 in ONNX Runtime's dialect runs in integer kernels there"
    return "fp32", "FP32: INT8 in TensorRT's dialect is no faster there; --target onnxruntime writes one that is"


def _check_page_can(bundle: Path, manifest: Manifest) -> None:
    """Raise where the page could not do what `runtimes` does."""
    told = manifest.preprocessing.to_json()
    resize = told["resize"]
    if told["color_order"] != "RGB":
        raise ExportError(f"{bundle}: takes {told['color_order']} pictures; the page prepares RGB only")
    if isinstance(resize, dict) and not {"shorter_side"} >= resize.keys() and not {"height", "width"} >= resize.keys():
        raise ExportError(
            f"{bundle}: its pictures are resized by {', '.join(resize)}; the page knows a shorter side and an exact "
            "size"
        )
    if len(manifest.inputs) != 1 or len(manifest.outputs) != 1 or len(manifest.outputs[0].shape) != 2:
        raise ExportError(
            f"{bundle}: its outputs are {', '.join(entry.name for entry in manifest.outputs)}; the page reads one "
            "table of scores [N, classes]; export without --features and --topk"
        )
    if manifest.answers is AnswerKind.FEATURES:
        raise ExportError(f"{bundle}: {FEATURES_TOLD}")
    if manifest.gives_one_number:
        raise ExportError(f"{bundle}: {ONE_NUMBER_TOLD}")
