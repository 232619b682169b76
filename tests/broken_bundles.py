"""Bundles whose INT8 file was changed after the export, their hashes made to fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import onnx
from onnx import numpy_helper

from runtimes.bundle.manifest import file_entry


def with_scaled_activations(bundle: Path, copy: Path, factor: float, of: Callable[[str], bool] = bool) -> Path:
    """Return a copy in which activation scales are multiplied; `of` tells for which tensors."""
    shutil.copytree(bundle, copy)
    path = copy / "model.int8.onnx"
    model = onnx.load(path)
    for constant in model.graph.initializer:
        if constant.name.endswith(".scale") and not constant.dims and of(constant.name.removesuffix(".scale")):
            constant.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(constant) * factor, constant.name))
    onnx.save(model, path)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][path.name] = asdict(file_entry(path))
    (copy / "manifest.json").write_text(json.dumps(manifest))
    return copy
