"""A model whose large weights lie beside it, so that a session opens with fewer copies of them.

Serialized with its weights, a model is written to bytes and parsed again before a session copies the weights. ONNX
Runtime takes them as arrays too (`SessionOptions.add_external_initializers`); the model then names them as external
data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from exporter.graph.onnx_graph import array_from_initializer, copy_model, copy_without_constants, initializer_from_array

MIN_BYTES = 4096
"""Smaller constants stay in the model: shapes and bounds are read from there."""


@dataclass(frozen=True, slots=True, eq=False)
class SplitModel:
    """Model that `runtimes.OrtRuntime` opens without serializing the weights.

    Attributes:
        skeleton: The model; its large weights are external data that no file holds.
        weights: Their values by name; not to be changed while a session opens.
    """

    skeleton: ModelProto
    weights: Mapping[str, NDArray[Any]]

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        """Return the file's bytes with all weights in it."""
        whole = copy_model(self.skeleton)
        for tensor in whole.graph.initializer:
            if tensor.name in self.weights:
                tensor.CopyFrom(initializer_from_array(tensor.name, self.weights[tensor.name]))
        serialized: bytes = whole.SerializeToString()
        return serialized


def split_model(model: ModelProto) -> SplitModel:
    """Take the large weights of a model apart; the model itself stays as it is."""
    large = {
        tensor.name: array_from_initializer(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and tensor.HasField("raw_data") and len(tensor.raw_data) >= MIN_BYTES
    }
    skeleton = copy_without_constants(model, large.keys())
    for name, array in large.items():
        entry = skeleton.graph.initializer.add(name=name, data_type=TensorProto.FLOAT, dims=array.shape)
        entry.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "beside the model"), ("offset", "0"), ("length", str(array.nbytes))):
            entry.external_data.add(key=key, value=value)
    return SplitModel(skeleton, large)
