"""The constants of a graph, read only as far as a rule needs them.

A file may keep gigabytes of weights in another file. Rules look at scales, zero points and statistics, which are small,
so a constant outside the file is read when it is asked for and only up to `MAX_BYTES`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import GraphProto, TensorProto
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from exporter.graph.onnx_graph import array_from_initializer, attribute

MAX_BYTES = 1 << 20
"""Largest constant that is read from another file: scales per channel take 4 bytes each."""


@dataclass(frozen=True, slots=True, eq=False)
class Constants:
    """Constants by name: initializers, outputs of Constant nodes, and what Identity makes of either."""

    tensors: Mapping[str, TensorProto]
    folder: Path | None = None

    def __contains__(self, name: object) -> bool:
        return name in self.tensors

    def dims(self, name: str) -> tuple[int, ...]:
        """Return the shape of a constant."""
        return tuple(self.tensors[name].dims)

    def data_type(self, name: str) -> int:
        """Return the element type of a constant, a `TensorProto.DataType`."""
        return int(self.tensors[name].data_type)

    def array(self, name: str) -> NDArray[Any] | None:
        """Return a constant's values, or None if it is no constant, too large, or its file cannot be read."""
        tensor = self.tensors.get(name)
        if tensor is None:
            return None
        if uses_external_data(tensor):
            if self.folder is None or num_bytes(tensor) > MAX_BYTES:
                return None
            tensor = onnx.TensorProto.FromString(tensor.SerializeToString())
            try:
                load_external_data_for_tensor(tensor, str(self.folder))
            except Exception:  # a missing or short file, a path that leaves the folder: several types; rule I004 tells
                return None
        try:
            return array_from_initializer(tensor)
        except (ValueError, TypeError, KeyError):  # too few bytes, no such type; onnx.checker tells, rule I006
            return None


def find_constants(graph: GraphProto, folder: Path | None = None) -> Constants:
    """Return the constants of a graph."""
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and isinstance(value := attribute(node, "value"), TensorProto):
            tensors[node.output[0]] = value
        elif node.op_type == "Identity" and node.input[0] in tensors:
            tensors[node.output[0]] = tensors[node.input[0]]
    return Constants(tensors, folder)


def num_bytes(tensor: TensorProto) -> int:
    """Return how many bytes the values of a tensor take; types under one byte count as one."""
    try:
        item = int(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).itemsize)
    except (KeyError, TypeError):  # a type that NumPy does not know, such as strings
        item = 1
    return item * int(np.prod([int(size) for size in tensor.dims], dtype=np.int64))
