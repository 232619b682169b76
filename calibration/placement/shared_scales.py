"""Complete a placement, so that no tensor is kept twice, in INT8 for one reader and in float for another.

1. Concat: every input gets a pair, all with one scale, where the result goes on to quantized layers. The pairs then
   pass the Concat, which moves INT8 bytes and computes nothing (DenseNet, GoogLeNet, Res2Net). With different scales
   it would requantize its inputs.
2. Between two pairs: where a tensor has a pair, and another reader leads to quantized inputs alone, that reader takes
   the INT8 copy too. So the stream of a pre-activation network is stored once, in INT8, and BatchNormalization, ReLU
   and the next quantization are one pointwise kernel from INT8 to INT8; so is the average pool in ResNet-D's shortcut.
3. Where only values are moved between the two pairs (MaxPool, Slice, Pad with zeros, Split, Transpose, Reshape), both
   have one scale, and quantizing again changes nothing: option A's shortcut and GoogLeNet's pools move INT8 bytes.

Source: NVIDIA TensorRT documentation, "Explicit quantization", Q/DQ placement recommendations (a layer without weights
runs in INT8 when inputs and outputs are quantized; equal scales pass through layers that commute with Q/DQ).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from exporter.graph.onnx_graph import GraphIndex, array_from_initializer, attribute, tensor_types

MOVING = frozenset({"MaxPool", "Slice", "Pad", "Split", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze"})
"""Operators whose every output value is one of their input values, or zero."""

POINTWISE = frozenset({"BatchNormalization", "Relu", "Clip", "LeakyRelu", "PRelu", "HardSwish", "HardSigmoid"})
"""Operators of one computed input that TensorRT fuses with the quantization behind them."""

_BETWEEN = MOVING | POINTWISE | {"AveragePool"}


@dataclass(slots=True, eq=False)
class ScaleGroups:
    """Which tensors have one scale: a partition that only grows coarser."""

    _leader: dict[str, str] = field(default_factory=dict)

    def unite(self, tensors: Iterable[str]) -> None:
        """Give all of `tensors` one scale."""
        first, *rest = (self._find(tensor) for tensor in tensors)
        for leader in rest:
            self._leader[leader] = first

    def _find(self, tensor: str) -> str:
        leader = self._leader.setdefault(tensor, tensor)
        while leader != self._leader[leader]:
            leader = self._leader[leader]
        return leader

    def groups(self, order: Mapping[str, int]) -> tuple[tuple[str, ...], ...]:
        """Return the groups of two or more tensors; groups and tensors in the given order."""
        found: dict[str, list[str]] = {}
        for tensor in sorted(self._leader, key=lambda name: order[name]):
            found.setdefault(self._find(tensor), []).append(tensor)
        return tuple(tuple(group) for group in found.values() if len(group) > 1)


@dataclass(slots=True, eq=False)
class Completion:
    """A placement under completion.

    Attributes:
        graph: The float graph.
        index: Its look-ups.
        float_tensors: Names of its float32 tensors; Concat and Slice also work on sizes.
        pooled: Tensors of globally pooled values; there is nothing to gain on them.
        readers: Tensor to the (node, place) that read its quantized copy; completed in place.
        groups: Which tensors share one scale.
    """

    graph: GraphProto
    index: GraphIndex
    float_tensors: frozenset[str]
    pooled: frozenset[str]
    readers: dict[str, list[tuple[str, int]]]
    groups: ScaleGroups = field(default_factory=ScaleGroups)

    def run(self) -> None:
        """Apply the rules of the module docstring until nothing changes."""
        self._complete_concats()
        self._complete_between()

    def _complete_concats(self) -> None:
        pending = [node for node in self.graph.node if node.op_type == "Concat" and self._is_feature_concat(node)]
        done: set[str] = set()
        changed = True
        while changed:
            changed = False
            for node in pending:
                if node.name not in done and (
                    any(name in self.readers for name in node.input) or self._reaches_pair(node.output[0])
                ):
                    changed = True
                    done.add(node.name)
                    for place, name in enumerate(node.input):
                        self.readers.setdefault(name, []).append((node.name, place))
        for node in pending:
            if node.name in done:
                quantized_too = [node.output[0]] if node.output[0] in self.readers else []
                self.groups.unite([*node.input, *quantized_too])

    def _is_feature_concat(self, node: NodeProto) -> bool:
        return all(
            name in self.float_tensors and name not in self.index.initializer and name not in self.pooled
            for name in node.input
        )

    def _reaches_pair(self, tensor: str) -> bool:
        """Tell whether `tensor` is quantized, or becomes so behind pointwise operators and pools."""
        pending, seen = [tensor], {tensor}
        while pending:
            name = pending.pop()
            if name in self.readers:
                return True
            for use in self.index.uses.get(name, ()):
                if use.node.op_type in _BETWEEN and use.place == 0:
                    new = [output for output in use.node.output if output not in seen]
                    seen.update(new)
                    pending.extend(new)
        return False

    def _complete_between(self) -> None:
        for tensor in sorted(self.readers, key=lambda name: self.index.position.get(name, -1)):
            taken = set(self.readers[tensor])
            for use in self.index.uses.get(tensor, ()):
                if (use.node.name, use.place) in taken or use.place:
                    continue
                reached: set[str] = set()
                if self._leads_to_pairs_only(use.node, reached):
                    self.readers[tensor].append((use.node.name, 0))
                    if self._only_moves(use.node):
                        self.groups.unite([tensor, *sorted(reached)])

    def _leads_to_pairs_only(self, node: NodeProto, reached: set[str]) -> bool:
        """Tell whether all that comes of `node` is quantized; collect the tensors where that happens."""
        if node.op_type not in _BETWEEN or (node.op_type == "Pad" and not self._pads_zeros(node)):
            return False
        for output in node.output:
            uses = self.index.uses.get(output, ())
            if not output:
                continue
            if output in self.index.outputs or not uses or output in self.pooled:
                return False
            quantized = set(self.readers.get(output, ()))
            behind = reached
            if quantized:
                reached.add(output)
                behind = set()  # other readers of a tensor with a pair are that tensor's own affair
            for use in uses:
                if (use.node.name, use.place) in quantized:
                    continue
                if use.place or not self._leads_to_pairs_only(use.node, behind):
                    return False
        return True

    def _only_moves(self, node: NodeProto) -> bool:
        """Tell whether values are moved only, from `node` to the first pairs behind it."""
        return node.op_type in MOVING and all(
            output in self.readers or all(self._only_moves(use.node) for use in self.index.uses.get(output, ()))
            for output in node.output
        )

    def _pads_zeros(self, pad: NodeProto) -> bool:
        if attribute(pad, "mode", b"constant") != b"constant" or attribute(pad, "value", 0.0) != 0.0:
            return False
        if len(pad.input) < 3 or not pad.input[2]:
            return True
        value = self.index.initializer.get(pad.input[2])
        return value is not None and not array_from_initializer(value).any()


def float_tensors(model: ModelProto) -> frozenset[str]:
    """Return the names of the float32 tensors that the model declares, constants included."""
    kinds = {name: kind.tensor_type.elem_type for name, kind in tensor_types(model).items()}
    kinds.update({tensor.name: tensor.data_type for tensor in model.graph.initializer})
    return frozenset(name for name, kind in kinds.items() if kind == TensorProto.FLOAT)
