"""Find residual additions and tell the main path from the shortcut.

TensorRT runs Conv + Add + ReLU as one INT8 kernel when the convolution's own output carries no Q/DQ and the *other*
operand of the Add does: that operand then decides the kernel's INT8 input, and the Q after the ReLU its output.
With Q/DQ on neither side the Add runs in float, with Q/DQ on both sides the fusion breaks.
Source: NVIDIA, tensorflow-quantization toolkit, "add custom Q/DQ cases" (ResNetV1QDQCase).

Which operand is the main path:
    one operand is a convolution's output that nothing else reads  ->  that one
    both are (a projection shortcut)  ->  the one with more convolutions since the two paths parted
    neither is  ->  no kernel to fuse with; the Add stays as it is
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from exporter.graph import GraphIndex, index_graph


@dataclass(frozen=True, slots=True)
class ResidualAdd:
    """One residual addition.

    Attributes:
        name: Name of the Add node.
        main: Tensor from the main path's last convolution.
        shortcut: Tensor from the shortcut.
        shortcut_index: Which input of the Add the shortcut is, 0 or 1.
    """

    name: str
    main: str
    shortcut: str
    shortcut_index: int


@dataclass(frozen=True, slots=True)
class Residuals:
    """All additions of two computed tensors: those matched, and why the others were not."""

    matched: tuple[ResidualAdd, ...]
    skipped: tuple[str, ...]


def find_residual_adds(model: ModelProto) -> Residuals:
    """Return the residual additions of a folded float model, in graph order."""
    index = index_graph(model.graph)
    matched: list[ResidualAdd] = []
    skipped: list[str] = []
    for node in model.graph.node:
        if node.op_type != "Add" or any(_is_constant(name, index) for name in node.input):
            continue
        main = _main_operand(node, index)
        if main is None:
            skipped.append(f"{node.name}: neither operand is the output of a convolution that only this Add reads")
        else:
            matched.append(ResidualAdd(node.name, node.input[main], node.input[1 - main], 1 - main))
    return Residuals(tuple(matched), tuple(skipped))


def _is_constant(tensor: str, index: GraphIndex) -> bool:
    producer = index.producer.get(tensor)
    return tensor in index.initializer or (producer is not None and producer.op_type == "Constant")


def _main_operand(add: NodeProto, index: GraphIndex) -> int | None:
    from_conv = [_is_private_conv_output(name, index) for name in add.input]
    if from_conv == [True, True]:
        depths = _convs_since_fork(add.input[0], add.input[1], index)
        return 0 if depths[0] >= depths[1] else 1
    return from_conv.index(True) if True in from_conv else None


def _is_private_conv_output(tensor: str, index: GraphIndex) -> bool:
    producer = index.producer.get(tensor)
    return (
        producer is not None
        and producer.op_type == "Conv"
        and len(index.uses[tensor]) == 1
        and tensor not in index.outputs
    )


def _convs_since_fork(first: str, second: str, index: GraphIndex) -> tuple[int, int]:
    """Count, per operand, the convolutions on its longest way back to what both operands come from."""
    ancestors = (_ancestors(first, index), _ancestors(second, index))
    shared = ancestors[0] & ancestors[1]
    return _longest_way(first, shared, ancestors[0], index), _longest_way(second, shared, ancestors[1], index)


def _ancestors(tensor: str, index: GraphIndex) -> set[str]:
    seen = {tensor}
    pending = [tensor]
    while pending:
        producer = index.producer.get(pending.pop())
        for name in producer.input if producer is not None else ():
            if name and name not in seen and name not in index.initializer:
                seen.add(name)
                pending.append(name)
    return seen


def _longest_way(tensor: str, shared: set[str], ancestors: set[str], index: GraphIndex) -> int:
    """Count convolutions along the longest path from `tensor` back to a tensor in `shared`, without recursion."""
    private = [name for name in ancestors if name not in shared and name in index.producer]
    depth: dict[str, int] = {}
    for name in sorted(private, key=lambda made: index.position[made]):
        producer = index.producer[name]
        before = max((depth.get(source, 0) for source in producer.input), default=0)
        depth[name] = before + (producer.op_type == "Conv")
    return depth.get(tensor, 0)
