"""A layer whose weights are INT8 and whose input is float: runtimes make the input INT8, too, unless told otherwise."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper


def weight_only_layer(kind: str) -> tuple[ModelProto, np.ndarray, np.ndarray]:
    """Return a MatMul or Gemm of INT8 weights, inputs [3, 64], and its answers by NumPy.

    One input is 1000 where the weights are 0: the answers do not see it, the others are lost beside it in INT8.
    """
    random = np.random.default_rng(0)
    levels = random.integers(-127, 128, (64, 8)).astype(np.int8)
    levels[0] = 0
    x = random.normal(size=(3, 64)).astype(np.float32)
    x[:, 0] = 1000
    constants = {"levels": levels, "scales": np.full(8, 0.01, np.float32), "zeros": np.zeros(8, np.int8)}
    nodes = [
        helper.make_node("DequantizeLinear", list(constants), ["weights"], axis=1),
        helper.make_node(kind, ["input", "weights"], ["out"]),
    ]
    ends = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 64])]
    ends.append(helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 8]))
    tensors = [numpy_helper.from_array(values, name) for name, values in constants.items()]
    graph = helper.make_graph(nodes, "weight_only", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return model, x, x @ (levels * np.float32(0.01))
