"""Q/DQ models that differ in what stays in float, made from one another without quantizing a weight again.

A model with more left in float has Q/DQ at fewer places, and where it has it, it is that of the fully quantized one. So
it is the fully quantized graph with the other readers sent back to the float tensors: no weight is quantized anew, no
shape inferred, and its first nodes, up to the first that differs, compute what another one has computed already.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from onnx import ModelProto, TensorProto

from calibration.pipeline.quantize_model import CalibratedModel
from calibration.placement.for_tensorrt import Placement, QuantizedBias
from calibration.placement.place import place
from calibration.qdq.insert_qdq import QuantizedModel, insert_qdq


@dataclass(frozen=True, slots=True, eq=False)
class Variant:
    """A plain Q/DQ model, a copy whose constants may be edited, and of each constant a digest of its content."""

    model: ModelProto
    digests: Mapping[str, bytes]


def entries_of(placement: Placement) -> frozenset[tuple[object, ...]]:
    """Return every use of a quantized tensor: kind, tensor, and what else decides its values."""
    same = placement.same_range
    activations = (
        ("activation", name, reader.node, reader.index, same.get(name, name))
        for name, readers in placement.activations.items()
        for reader in readers
    )
    weights = (("weight", weight.name, weight) for weight in placement.weights)
    return frozenset((*activations, *weights, *(("bias", bias.node, bias) for bias in placement.biases)))


class VariantMaker:
    """Makes the variants of one calibrated model."""

    def __init__(self, calibrated: CalibratedModel) -> None:
        self._calibrated = calibrated
        self._whole: QuantizedModel = insert_qdq(calibrated.model, calibrated.table, keep_float=calibrated.keep_float)
        self.whole = entries_of(self._whole.placement)
        """What is quantized when nothing more stays in float."""
        self._float = {tensor.name: tensor for tensor in calibrated.model.graph.initializer}
        self._quantized = {tensor.name: tensor for tensor in self._whole.model.graph.initializer}
        self._digests = [_digests(tensors) for tensors in (self._float, self._quantized)]
        self.places = {node.name: place for place, node in enumerate(calibrated.model.graph.node)}
        """Node name to its place in the float graph."""
        weights = {weight.name for weight in self._whole.placement.weights}
        uses = [name for node in calibrated.model.graph.node for name in node.input if name in weights]
        self._shares_a_weight = len(uses) > len(weights)

    def float_variant(self) -> Variant:
        """Return a copy of the float model."""
        model = ModelProto()
        model.CopyFrom(self._calibrated.model)
        return Variant(model, self._digests[0])

    def entries(self, keep_float: Collection[str]) -> frozenset[tuple[object, ...]] | None:
        """Return what is quantized with more nodes in float; None where that is not the whole model with less Q/DQ."""
        model = self._calibrated.model
        entries = entries_of(place(model, self._calibrated.table.dialect, {*self._calibrated.keep_float, *keep_float}))
        return None if entries - self.whole or self._shares_a_weight else entries

    def variant(self, entries: frozenset[tuple[object, ...]]) -> Variant:
        """Return the model with Q/DQ where `entries` says; of the whole model's none may be unknown."""
        gone = self.whole - entries
        back = {(entry[2], entry[3]): str(entry[1]) for entry in gone if entry[0] == "activation"}
        weights = {f"{entry[1]}.dequantized": str(entry[1]) for entry in gone if entry[0] == "weight"}
        biases = [entry[2] for entry in gone if isinstance(entry[2], QuantizedBias)]
        sources = {bias.node: bias.source for bias in biases}
        floats = {*weights.values(), *sources.values()}
        dropped = {*weights, *(f"{bias.name}.dequantized" for bias in biases)}
        model = ModelProto(ir_version=self._whole.model.ir_version, opset_import=self._whole.model.opset_import)
        whole = self._whole.model.graph
        model.graph.input.extend(whole.input)
        model.graph.output.extend(whole.output)
        model.graph.value_info.extend(whole.value_info)
        model.graph.node.extend(node for node in whole.node if node.output[0] not in dropped)
        for node in model.graph.node:
            for index, name in enumerate(node.input):
                node.input[index] = back.get((node.name, index), weights.get(name, name))
            if node.name in sources:
                node.input[2] = sources[node.name]
        chosen = {**self._quantized, **{name: self._float[name] for name in floats}}
        model.graph.initializer.extend(chosen.values())
        return Variant(model, {**self._digests[1], **{name: self._digests[0][name] for name in floats}})

    def first_difference(self, first: frozenset[tuple[object, ...]], second: frozenset[tuple[object, ...]]) -> int:
        """Return the place in the float graph of the first node that computes otherwise."""
        changed = first ^ second
        weights = {entry[1] for entry in changed if entry[0] == "weight"}
        names = {entry[2] for entry in changed if entry[0] == "activation"}
        names |= {entry[1] for entry in changed if entry[0] == "bias"}
        names |= {node.name for node in self._calibrated.model.graph.node if weights & set(node.input)}
        return min((self.places[str(name)] for name in names), default=len(self.places))


def _digests(tensors: Mapping[str, TensorProto]) -> dict[str, bytes]:
    return {name: hashlib.blake2b(_content(tensor), digest_size=16).digest() for name, tensor in tensors.items()}


def _content(tensor: TensorProto) -> bytes:
    raw: bytes = tensor.raw_data
    return tensor.SerializeToString() if not raw else b"%d %s " % (tensor.data_type, str(tensor.dims).encode()) + raw


def digest_of(parts: Iterable[bytes]) -> bytes:
    """Return one digest of several strings of bytes."""
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(len(part).to_bytes(8, "little"))
        found.update(part)
    return found.digest()
