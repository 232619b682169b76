"""ONNX Runtime's model package: one folder, one variant per execution provider, chosen by ONNX Runtime itself.

Our two INT8 dialects are exactly that: given bundles of both, the CPU gets ONNX Runtime's and TensorRT its own. Written
and validated by ONNX Runtime's own authoring library, which is in Python from 1.32 on.

Source: ONNX Runtime 1.32, model_package/README.md and core/session/model_package/README.md.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtimes.bundle.file_names import MODEL_FILES
from runtimes.bundle.manifest import Manifest
from runtimes.bundle.precision import is_int8
from runtimes.errors import MissingDependencyError
from runtimes.inference.runtime_registry import RUNTIMES
from runtimes.needed_library import needed_library
from runtimes.ort.int8_kernels import PRECISE_OPTION

COMPONENT = "classifier"
VARIANTS = {"cpu": "cpu", "cuda": "gpu", "ort-tensorrt": "gpu", "ort-tensorrt-rtx": "gpu"}
"""Word of the runtime, which is the variant's name, to the kind of device."""


def write_ort_model_package(bundles: Sequence[tuple[Path, Manifest]], folder: Path) -> dict[str, str]:
    """Write a variant for every execution provider that a bundle has a file for.

    Raises:
        MissingDependencyError: If ONNX Runtime is missing or older than 1.32.
    """
    package = _new_package()
    manifest = bundles[0][1]
    package.set_metadata(name=str(manifest.model.get("id", "model")), description="Written by resnet-export.")
    chosen = {word: found for word in VARIANTS if (found := _file_for(word, bundles)) is not None}
    package.set_component_inline(COMPONENT, json.dumps({"component_name": COMPONENT, "variants": {}}))
    package.commit(str(folder))
    package.close()
    written = {}
    for word, (bundle, precision) in chosen.items():
        (folder / word).mkdir()
        shutil.copyfile(bundle / MODEL_FILES[precision], folder / word / "model.onnx")
        written[f"{word}/model.onnx"] = f"{precision}, for {RUNTIMES[word].aliases[0]}"
    package = type(package).open(str(folder))
    for word, (_, precision) in chosen.items():
        package.set_variant(COMPONENT, word, json.dumps(_variant(word, precision)))
    package.commit()
    package.close()
    return written


def _variant(word: str, precision: str) -> dict[str, Any]:
    """Return what the package says of one variant.

    INT8 on the CPU carries the option without which it saturates on x86 without VNNI: where a package will run is not
    known when it is written.
    """
    options = dict([PRECISE_OPTION]) if word == "cpu" and is_int8(precision) else {}
    return {
        "variant_directory": word,
        "ep": RUNTIMES[word].aliases[0],
        "device": VARIANTS[word],
        "executor_info": {"ort": {"model_file": "model.onnx", "session_options": options}},
        "additional_metadata": {"precision": precision},
    }


def _file_for(word: str, bundles: Sequence[tuple[Path, Manifest]]) -> tuple[Path, str] | None:
    """Return the best file for a runtime: what the first bundle that has its most preferred precision holds."""
    ranked = []
    for place, (bundle, manifest) in enumerate(bundles):
        wanted = RUNTIMES[word].precisions_for(manifest)
        for precision in wanted:
            if MODEL_FILES[precision] in manifest.files:
                ranked.append((not is_int8(precision), wanted.index(precision), place, bundle, precision))
                break
    if not ranked:
        return None
    *_, bundle, precision = min(ranked, key=lambda found: found[:3])
    return bundle, precision


def _new_package() -> Any:
    onnxruntime = needed_library(
        "onnxruntime",
        "--layout ort-model-package is written by ONNX Runtime, which is not installed ({err}); pip install "
        '"onnxruntime>=1.32"',
    )
    if not hasattr(onnxruntime, "ModelPackage"):
        raise MissingDependencyError(
            f"--layout ort-model-package: ONNX Runtime {onnxruntime.__version__} cannot write model packages from "
            'Python; pip install "onnxruntime>=1.32"'
        )
    return onnxruntime.ModelPackage()
