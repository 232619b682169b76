"""How many bytes the tensors of a model take, per image: what decides how many images are run at once."""

from __future__ import annotations

import math

import onnx
from onnx import ModelProto, TypeProto

from calibration.errors import CalibrationError
from exporter.graph.onnx_graph import all_tensor_types


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
