"""GlobalAveragePool as AveragePool with a window of the whole feature map, for accelerators that pool by windows only.

    mean over H x W of x  =  AveragePool(x), kernel H x W, no padding

TensorRT's parser makes a reduction of GlobalAveragePool, which the DLA does not have; a pooling layer it has, with
windows of 1 to 8. Source: NVIDIA Deep-Learning-Accelerator-SW operators/README.md; NvInfer.h 10.3, DLA restrictions.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx
from onnx import ModelProto

from exporter.graph.onnx_graph import copy_model, infer_shapes, tensor_shapes


@dataclass(frozen=True, slots=True, eq=False)
class PooledByWindow:
    """The model without global pools, and by node the window (height, width) of every pool that was rewritten."""

    model: ModelProto
    windows: dict[str, tuple[int, int]]


def average_pool_from_global(model: ModelProto) -> PooledByWindow:
    """Return a copy in which every GlobalAveragePool is an AveragePool with the same output.

    Raises:
        ValueError: If the height or width of a pool's input is not fixed.
    """
    result = copy_model(model)
    windows: dict[str, tuple[int, int]] = {}
    nodes = [node for node in result.graph.node if node.op_type == "GlobalAveragePool"]
    shapes = tensor_shapes(model)
    if any(node.input[0] not in shapes for node in nodes):
        shapes = tensor_shapes(infer_shapes(model))
    for node in nodes:
        height, width = (shapes.get(node.input[0], ()) or ("?",) * 4)[2:]
        if not isinstance(height, int) or not isinstance(width, int):
            raise ValueError(  # noqa: TRY004 - the model is at fault, not the caller's type
                f"{node.name}: its input is {height} x {width}; a window needs a fixed height and width"
            )
        node.op_type = "AveragePool"
        node.attribute.append(onnx.helper.make_attribute("kernel_shape", [height, width]))
        windows[node.name] = (height, width)
    return PooledByWindow(result, windows)
