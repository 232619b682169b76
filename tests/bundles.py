"""Small bundles put together from a model, as `resnet-export` writes them, for tests of what reads bundles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from exporter.bundle.tool_entry import TOOL_NAME
from exporter.bundle.write_folder import file_entries, write_manifest
from exporter.passes.add_pre_post import finish_graph
from exporter.passes.pre_post_options import Finish
from runtimes.bundle.manifest import BatchRange, Manifest, TensorEntry
from runtimes.preprocessing.transform import Interpolation, Preprocessing, normalize

FILES = {"fp32": "model.onnx", "fp16": "model.fp16.onnx", "int8": "model.int8.onnx"}
DIGITS = Preprocessing((32, 32), None, Interpolation.BILINEAR, (0.306, 0.306, 0.306), (0.324, 0.324, 0.324))


def write_bundle(
    folder: Path,
    models: Mapping[str, ModelProto],
    *,
    preprocessing: Preprocessing = DIGITS,
    finish: Finish | None = None,
    labels: Sequence[str] | None = tuple("0123456789"),
    target: str = "tensorrt",
    pixels: np.ndarray | None = None,
    **changes: object,
) -> Path:
    """Write a bundle of models by precision; `changes` are fields of the manifest."""
    folder.mkdir(parents=True)
    finish = finish or Finish()
    finished = {
        name: finish_graph(model, finish, preprocessing=preprocessing) if finish != Finish() else model
        for name, model in models.items()
    }
    for precision, model in finished.items():
        onnx.save_model(model, folder / FILES[precision])
    if labels is not None:
        (folder / "labels.txt").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")
    if pixels is None:
        height, width = preprocessing.input_size
        pixels = np.random.default_rng(20261122).integers(0, 256, (16, height, width, 3), dtype=np.uint8)
    given = pixels if finish.uint8_input else normalize(preprocessing, pixels)
    np.savez_compressed(folder / "golden.npz", input=given)
    graph = next(iter(finished.values())).graph
    fields: dict[str, object] = {
        "model": {"id": "cifar_resnet20", "num_classes": 10},
        "preprocessing": preprocessing,
        "inputs": tuple(map(tensor_entry, graph.input)),
        "outputs": tuple(map(tensor_entry, graph.output)),
        "batch": BatchRange(1, 8, 32),
        "target": target,
        "opset": 20,
        "ir_version": 10,
        "tool": {"name": TOOL_NAME, "version": "0"},
        "libraries": {},
        "options": {"softmax": finish.softmax, "topk": finish.topk},
        "folding": {},
        "quantization": None,
        "parity": {},
    }
    write_manifest(folder, Manifest(**{**fields, **changes, "files": file_entries(folder)}))
    return folder


def tensor_entry(info: onnx.ValueInfoProto) -> TensorEntry:
    kind = info.type.tensor_type
    shape = tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim)
    return TensorEntry(info.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name, shape)


def small_classifier(size: int = 8, classes: int = 10, seed: int = 0) -> ModelProto:
    """A Conv, a ReLU, a mean and a Gemm: quick to run, and every class can win."""
    from onnx import TensorProto, helper, numpy_helper

    random = np.random.default_rng(seed)
    weights = {
        "conv.weight": random.normal(size=(16, 3, 3, 3)),
        "conv.bias": random.normal(size=16),
        "fc.weight": random.normal(size=(classes, 16)),
        "fc.bias": random.normal(size=classes) * 0.1,
    }
    nodes = [
        helper.make_node("Conv", ["input", "conv.weight", "conv.bias"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["features"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["logits"], transB=1),
    ]
    for node in nodes:
        node.name = node.output[0]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(values.astype(np.float32), name) for name, values in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return onnx.shape_inference.infer_shapes(model, strict_mode=True)
