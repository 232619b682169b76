"""Find residual additions and tell the main path from the shortcut.

TensorRT runs Conv + Add + ReLU as one INT8 kernel when the convolution's own output carries no Q/DQ and the *other*
operand of the Add does: that operand then decides the kernel's INT8 input, and the Q after the ReLU its output.
With Q/DQ on neither side the Add runs in float, with Q/DQ on both sides the fusion breaks.
Source: NVIDIA, tensorflow-quantization toolkit, "add custom Q/DQ cases" (ResNetV1QDQCase).

Which operand is the main path:
    one operand is the main path's kernel, a tensor that nothing else reads  ->  that one
    both are (a projection shortcut)  ->  the one with more weighted layers since the two paths parted
    neither is  ->  no kernel to fuse with; the Add stays as it is

A main path's kernel is a Conv, or the Mul that applies a gate (SE): there Conv + Add cannot be one kernel, because the
gate needs the whole feature map first, but Mul + Add + ReLU + Q is one pointwise kernel, and with the shortcut
quantized it reads and writes INT8 instead of float. `ResidualAdd.kernel` says which.

Blocks with LayerNormalization (ConvNeXt, Hiera) keep their stream in float: nothing rescales it from block to block,
a few channels grow far beyond the others (measured on such networks by Bondarenko et al. 2021, arXiv:2109.12948, and
Lin et al. 2022, FQ-ViT, arXiv:2111.13824), and one INT8 scale for all channels would lose the rest.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from calibration.placement.channel_gates import Gates, find_gates, tensors_behind
from exporter.graph.onnx_graph import GraphIndex, index_graph

NO_CONV = "neither operand is the output of a convolution that only this Add reads"
LAYER_NORM = (
    "the stream between blocks with LayerNorm or GroupNorm stays in float: a few of its channels grow far beyond the "
    "others"
)


@dataclass(frozen=True, slots=True)
class ResidualAdd:
    """One residual addition.

    Attributes:
        name: Name of the Add node.
        main: Tensor from the main path's last convolution.
        shortcut: Tensor from the shortcut.
        shortcut_index: Which input of the Add the shortcut is, 0 or 1.
        kernel: "Conv" where the Add can become part of the convolution's kernel, "Mul" where a gate lies between and
            the Add is part of a pointwise kernel.
    """

    name: str
    main: str
    shortcut: str
    shortcut_index: int
    kernel: str = "Conv"


@dataclass(frozen=True, slots=True)
class Residuals:
    """All additions of two computed tensors: those matched, and why the others were not."""

    matched: tuple[ResidualAdd, ...]
    skipped: tuple[str, ...]


def find_residual_adds(model: ModelProto) -> Residuals:
    """Return the residual additions of a folded float model, in graph order.

    Additions of a constant, and of pooled values (a head that adds two kinds of global pool), are no candidates.
    """
    index = index_graph(model.graph)
    gates = find_gates(model)
    matched: list[ResidualAdd] = []
    skipped: list[str] = []
    constants = {name for node in model.graph.node if node.op_type == "Constant" for name in node.output}
    given = index.initializer.keys() | constants | gates.pooled
    for node in model.graph.node:
        if node.op_type != "Add" or not given.isdisjoint(node.input):
            continue
        main = _main_operand(node, index, gates)
        if main is None:
            reason = LAYER_NORM if _normalizes_layers(node.input[0], node.input[1], index) else NO_CONV
            skipped.append(f"{node.name}: {reason}")
        elif _normalizes_layers(node.input[main], node.input[1 - main], index):
            skipped.append(f"{node.name}: {LAYER_NORM}")
        else:
            kernel = index.producer[node.input[main]].op_type
            matched.append(ResidualAdd(node.name, node.input[main], node.input[1 - main], 1 - main, kernel))
    return Residuals(tuple(matched), tuple(skipped))


def _normalizes_layers(first: str, second: str, index: GraphIndex) -> bool:
    """Tell whether a LayerNormalization lies on either path since the two parted."""
    if all(maker.op_type != "LayerNormalization" for maker in index.producer.values()):
        return False
    ancestors = (_ancestors(first, index), _ancestors(second, index))
    makers = (index.producer.get(name) for name in ancestors[0] ^ ancestors[1])
    return any(maker is not None and maker.op_type == "LayerNormalization" for maker in makers)


def _main_operand(add: NodeProto, index: GraphIndex, gates: Gates) -> int | None:
    is_kernel = [_is_private_kernel(name, index, gates) for name in add.input]
    if is_kernel == [True, True]:
        depths = _convs_since_fork(add.input[0], add.input[1], index)
        return 0 if depths[0] >= depths[1] else 1
    return is_kernel.index(True) if True in is_kernel else None


def _is_private_kernel(tensor: str, index: GraphIndex, gates: Gates) -> bool:
    producer = index.producer.get(tensor)
    return (
        producer is not None
        and (producer.op_type == "Conv" or producer.name in gates.operand)
        and len(index.uses[tensor]) == 1
        and tensor not in index.outputs
    )


def _convs_since_fork(first: str, second: str, index: GraphIndex) -> tuple[int, int]:
    """Count, per operand, the convolutions on its longest way back to what both operands come from."""
    ancestors = (_ancestors(first, index), _ancestors(second, index))
    shared = ancestors[0] & ancestors[1]
    return _longest_way(first, shared, ancestors[0], index), _longest_way(second, shared, ancestors[1], index)


def _ancestors(tensor: str, index: GraphIndex) -> set[str]:
    return tensors_behind(tensor, index, lambda name: bool(name) and name not in index.initializer)


def _longest_way(tensor: str, shared: set[str], ancestors: set[str], index: GraphIndex) -> int:
    """Count convolutions along the longest path from `tensor` back to a tensor in `shared`, without recursion."""
    private = [name for name in ancestors if name not in shared and name in index.producer]
    depth: dict[str, int] = {}
    for name in sorted(private, key=lambda made: index.position[made]):
        producer = index.producer[name]
        before = max((depth.get(source, 0) for source in producer.input), default=0)
        depth[name] = before + (producer.op_type == "Conv")
    return depth.get(tensor, 0)
