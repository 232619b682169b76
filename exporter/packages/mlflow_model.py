"""MLflow's ONNX flavor, written by mlflow: `mlflow.onnx.load_model` and `mlflow.pyfunc.load_model` read it.

One file goes into it: what ONNX Runtime's CPU provider runs best, which is where MLflow runs models. How pictures are
prepared stands in the model's metadata, because a flavor has no place for it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from runtimes.bundle.file_names import MODEL_FILES
from runtimes.bundle.manifest import Manifest, read_labels
from runtimes.inference.runtime_registry import RUNTIMES
from runtimes.machine.installed_versions import installed_versions
from runtimes.metrics.answer_kind import KEY
from runtimes.needed_library import needed_library


def write_mlflow(bundles: Sequence[tuple[Path, Manifest]], folder: Path) -> dict[str, str]:
    """Write the model.

    Raises:
        MissingDependencyError: If mlflow is not installed.
    """
    told = '--layout mlflow is written by mlflow ({err}); pip install "resnet-export[mlflow]"'
    mlflow = needed_library("mlflow", told)
    needed_library("mlflow.onnx", told)
    import onnx

    ((bundle, manifest),) = bundles
    wanted = RUNTIMES["cpu"].precisions_for(manifest)
    precision = next((word for word in wanted if MODEL_FILES[word] in manifest.files), "fp32")
    mlflow.onnx.save_model(
        onnx.load(bundle / MODEL_FILES[precision]),
        str(folder),
        pip_requirements=_requirements(),
        onnx_execution_providers=["CPUExecutionProvider"],
        signature=_signature(mlflow, manifest),
        metadata=_metadata(bundle, manifest, precision),
        save_as_external_data=False,
    )
    return {"MLmodel": "the flavor, signature and metadata", "model.onnx": f"{precision}, for ONNX Runtime's CPU"}


def _requirements() -> list[str]:
    """Return what a server needs to load the model; the distribution of ONNX Runtime that is installed here."""
    libraries = ("onnx",), ("onnxruntime", "onnxruntime-gpu"), ("numpy",)
    return [
        f"{name}=={version}" for names in libraries for name, version in list(installed_versions(names).items())[:1]
    ]


def _signature(mlflow: Any, manifest: Manifest) -> Any:
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    def spec(entry: Any) -> Any:
        shape = tuple(size if isinstance(size, int) else -1 for size in entry.shape)
        return TensorSpec(np.dtype(entry.dtype), shape, entry.name)

    inputs, outputs = (Schema(list(map(spec, entries))) for entries in (manifest.inputs, manifest.outputs))
    return ModelSignature(inputs=inputs, outputs=outputs)


def _metadata(bundle: Path, manifest: Manifest, precision: str) -> dict[str, str]:
    told = {
        "model": str(manifest.model.get("id", "")),
        "precision": precision,
        "preprocessing": json.dumps(manifest.preprocessing.to_json()),
    }
    if manifest.answers is not None:
        told[KEY] = manifest.answers.value
    if (labels := read_labels(bundle, manifest)) is not None:
        told["labels"] = json.dumps(labels)
    return told
