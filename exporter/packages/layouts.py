"""The layouts by name, and how a folder of one is written: whole or not at all, from unchanged bundles."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.bundle.write_folder import FolderKind, bundle_folder, check_output
from exporter.errors import ExportError
from exporter.packages.huggingface import write_huggingface
from exporter.packages.mlflow_model import write_mlflow
from exporter.packages.ort_model_package import write_ort_model_package
from runtimes.bundle.described_file import load_unchanged
from runtimes.bundle.file_names import GOLDEN_NAME, LABELS_NAME, MANIFEST_NAME
from runtimes.bundle.manifest import Manifest

OURS = "resnet_export"
"""Folder inside a package for what its format has no place for; `manifest.json` of a model package is another's."""

KEPT = (MANIFEST_NAME, LABELS_NAME, GOLDEN_NAME)

Bundle = tuple[Path, Manifest]


@dataclass(frozen=True, slots=True)
class Layout:
    """One format."""

    title: str
    write: Callable[[Sequence[Bundle], Path], dict[str, str]]
    takes_several: bool = False


LAYOUTS = {
    "huggingface": Layout("Hugging Face's and onnx-community's", write_huggingface),
    "ort-model-package": Layout("ONNX Runtime's model package", write_ort_model_package, takes_several=True),
    "mlflow": Layout("MLflow's ONNX flavor", write_mlflow),
}


_SIGN = f"{OURS}/{MANIFEST_NAME}"
PACKAGE = FolderKind("package of this tool", _SIGN, lambda folder: (folder / _SIGN).is_file())


def write_package(bundles: Sequence[Path], output: Path, *, layout: str, force: bool = False) -> dict[str, str]:
    """Write bundles of one model in a layout; return what each file, relative to `output`, is for.

    Raises:
        BundleError: If a folder is no bundle or was changed.
        ExportError: If the bundles do not fit the layout, or the disk cannot be written; nothing is left behind.
        MissingDependencyError: If the layout's own library is not installed.
        OutputExistsError: If something is there already, and `force` is off or it is no such package.
    """
    chosen = LAYOUTS[layout]
    if len(bundles) > 1 and not chosen.takes_several:
        raise ExportError(f"--layout {layout} takes one bundle, got {len(bundles)}")
    loaded = [(bundle, load_unchanged(bundle)) for bundle in bundles]
    for other in loaded[1:]:
        _check_same_model(loaded[0], other)
    check_output(output, force=force, kind=PACKAGE)
    with bundle_folder(output, force=force, kind=PACKAGE) as folder:
        written = chosen.write(loaded, folder)
        (folder / OURS).mkdir()
        for name in KEPT:
            if (loaded[0][0] / name).is_file():
                shutil.copyfile(loaded[0][0] / name, folder / OURS / name)
    return written


def _check_same_model(first: Bundle, other: Bundle) -> None:
    """Raise unless two bundles hold the same model: same classes, pictures, inputs and outputs."""
    for what in ("model", "preprocessing", "inputs", "outputs"):
        if getattr(first[1], what) != getattr(other[1], what):
            raise ExportError(
                f"{other[0]} is not another file of {first[0]}'s model: its {what} differs; give two exports of one "
                "model, such as --target tensorrt and --target onnxruntime"
            )
