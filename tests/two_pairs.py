"""A layer whose input goes through two Q/DQ pairs in a row, of different scales."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper


def pair_behind_pair(first: float, second: float) -> tuple[ModelProto, np.ndarray, np.ndarray]:
    """Return a MatMul behind two INT8 pairs of these scales, inputs [5, 64], and its answers by NumPy."""
    random = np.random.default_rng(5)
    weights = random.normal(size=(64, 8)).astype(np.float32)
    x = random.normal(size=(5, 64)).astype(np.float32)
    constants = {"first": np.float32(first), "second": np.float32(second), "zero": np.int8(0), "weights": weights}
    nodes, name = [], "input"
    for scale in ("first", "second"):
        quantized, dequantized = f"{scale}.levels", f"{scale}.values"
        nodes.append(helper.make_node("QuantizeLinear", [name, scale, "zero"], [quantized]))
        nodes.append(helper.make_node("DequantizeLinear", [quantized, scale, "zero"], [dequantized]))
        name = dequantized
    nodes.append(helper.make_node("MatMul", [name, "weights"], ["out"]))
    ends = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 64])]
    ends.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 8]))
    tensors = [numpy_helper.from_array(np.asarray(values), name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "two_pairs", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    values = x
    for scale in (np.float32(first), np.float32(second)):
        values = np.clip(np.rint(values / scale), -128, 127).astype(np.float32) * scale
    return model, x, values @ weights
