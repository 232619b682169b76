"""How many bytes the tensors of a model take, and how much its layers compute, per image.

That decides how many images are run at once, and how many a model is refined on.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import onnx
from onnx import ModelProto, NodeProto, TypeProto

from calibration.errors import CalibrationError
from exporter.graph.onnx_graph import all_tensor_types, attribute

FLOAT32_BYTES = 4


def made_bytes_per_image(model: ModelProto) -> int:
    """Return the bytes of everything that the model's nodes make of one image; only its batch axis may be symbolic.

    Raises:
        CalibrationError: If the size of a tensor is not known.
    """
    sizes = _sizes(model)
    made = [name for node in model.graph.node for name in node.output if name]
    _refuse_unknown([name for name in made if sizes.get(name, 0) == 0])
    return sum(sizes[name] for name in made)


def live_bytes_per_image(model: ModelProto) -> int:
    """Return the most bytes of one image that are alive at a time; only the batch axis may be symbolic.

    Raises:
        CalibrationError: If the size of a tensor is not known.
    """
    return max(live_bytes_of_nodes(model), default=0)


def live_bytes_of_nodes(model: ModelProto) -> list[int]:
    """Return, by node, the bytes of one image that are alive while it runs; only the batch axis may be symbolic.

    Raises:
        CalibrationError: If the size of a tensor is not known.
    """
    sizes = _sizes(model)
    last_use = {name: place for place, node in enumerate(model.graph.node) for name in node.input}
    live = {info.name: sizes[info.name] for info in model.graph.input if info.name in last_use}
    of_nodes = []
    for place, node in enumerate(model.graph.node):
        live.update((name, sizes.get(name, 0)) for name in node.output if name)
        _refuse_unknown([name for name, size in live.items() if size == 0])
        of_nodes.append(sum(live.values()))
        for name in [name for name in live if last_use.get(name, -1) <= place]:
            del live[name]
    return of_nodes


def multiply_adds(model: ModelProto, layers: Collection[str]) -> Mapping[str, int]:
    """Return how many multiplications a layer does for one image, by name.

    One output value of Conv [O, I / groups, kH, kW] takes I / groups * kH * kW of them, one of Gemm or MatMul as many
    as it has inputs.

    Raises:
        CalibrationError: If the size of an output is not known.
    """
    sizes = _sizes(model)
    shapes = {tensor.name: tensor.dims for tensor in model.graph.initializer}
    nodes = [node for node in model.graph.node if node.name in layers]
    _refuse_unknown([node.output[0] for node in nodes if sizes.get(node.output[0], 0) == 0])
    return {node.name: sizes[node.output[0]] // FLOAT32_BYTES * _per_output(node, shapes) for node in nodes}


def _per_output(node: NodeProto, shapes: Mapping[str, Sequence[int]]) -> int:
    shape = shapes[node.input[1]]
    if node.op_type == "Conv":
        return math.prod(shape[1:])
    return shape[-1 if attribute(node, "transB", 0) else -2]


def _sizes(model: ModelProto) -> dict[str, int]:
    return {name: _bytes_per_image(kind) for name, kind in all_tensor_types(model).items()}


def _refuse_unknown(names: list[str]) -> None:
    if names:
        raise CalibrationError(
            f"the size of tensor {names[0]!r} is not known; export with a fixed input size, only the batch axis "
            "may be symbolic"
        )


def _bytes_per_image(kind: TypeProto) -> int:
    """Return the bytes of a tensor along all axes but the batch, 0 where these are not known.

    The batch is the axis without a size, wherever it lies: attention puts query, key and value before it. Windows are
    multiplied into it, so that a few tensors of Hiera's stem count for less than they hold.
    """
    tensor = kind.tensor_type
    sizes = [dim.dim_value for dim in tensor.shape.dim]
    if not tensor.HasField("shape") or sizes.count(0) > 1:
        return 0
    itemsize = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).itemsize
    return int(itemsize * math.prod(size for size in sizes if size))
