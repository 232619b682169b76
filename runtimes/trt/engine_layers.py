"""What an engine computes in which precision: TensorRT's own account of its layers, read and counted.

The account is the engine inspector's JSON (`engines.inspect_engine`), or `trtexec --exportLayerInfo`. Both forms are
read: TensorRT 8 to 10 put format and type of a tensor into one text under "Format/Datatype" ("Thirty-two wide channel
vectorized row major Int8 format", "Half"); TensorRT 11 has "Format" and "Datatype". Source: NVIDIA TensorRT
documentation, Engine Inspector, and the 10.x to 11.x migration guide of IEngineInspector.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtimes.errors import RuntimeAdapterError

CONVOLUTION, REFORMAT, OTHER = "convolution", "reformat", "other"

_TYPES: tuple[tuple[str, str], ...] = (
    (r"int8", "INT8"),
    (r"bf16|bfloat16", "BF16"),
    (r"fp16|half|float16", "FP16"),
    (r"fp8", "FP8"),
    (r"fp32|float32|float", "FP32"),
    (r"int32", "INT32"),
    (r"int64", "INT64"),
    (r"bool", "BOOL"),
)
"""Word in the inspector's text of a tensor, any case, to the precision; the first that occurs counts."""

_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """One layer, as TensorRT fused it.

    Attributes:
        name: TensorRT's.
        kind: `CONVOLUTION` (matrix products too), `REFORMAT` (moves data only) or `OTHER`.
        precision: "INT8", "FP16", "FP32", ...: of a convolution's first input, otherwise of the first output. "?" where
            the account does not say.
        nodes: Names of the ONNX nodes in it, which are PyTorch's module names in files of `resnet-export`.
    """

    name: str
    kind: str
    precision: str
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EngineLayers:
    """All layers of an engine, in the order they run."""

    layers: tuple[EngineLayer, ...]

    def count(self, kind: str | None = None) -> Mapping[str, int]:
        """Return how many layers have each precision, most frequent first: of one kind, or all but reformats."""
        chosen = [layer for layer in self.layers if (layer.kind == kind if kind else layer.kind != REFORMAT)]
        return dict(Counter(layer.precision for layer in chosen).most_common())

    @property
    def num_reformats(self) -> int:
        """How many layers only move data into another format or type."""
        return sum(layer.kind == REFORMAT for layer in self.layers)

    def not_in(self, precision: str) -> tuple[EngineLayer, ...]:
        """Return the convolutions that are computed in another precision."""
        return tuple(layer for layer in self.layers if layer.kind == CONVOLUTION and layer.precision != precision)

    def to_json(self) -> dict[str, Any]:
        """Return the counts, and each convolution with its precision."""
        return {
            "layers": dict(self.count()),
            "convolutions": dict(self.count(CONVOLUTION)),
            "reformats": self.num_reformats,
            "convolutions_by_layer": [
                {"nodes": list(layer.nodes), "precision": layer.precision}
                for layer in self.layers
                if layer.kind == CONVOLUTION
            ],
        }


def layers_from_inspector(text: str) -> EngineLayers:
    """Read the inspector's JSON.

    Raises:
        RuntimeAdapterError: If it is something else, or holds layer names only.
    """
    try:
        content = json.loads(text)
        entries = content["Layers"]
    except (ValueError, TypeError, KeyError) as err:
        raise RuntimeAdapterError(
            f'the engine inspector\'s JSON has no "Layers" ({type(err).__name__}: {err})'
        ) from err
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise RuntimeAdapterError(
            "the engine inspector names its layers and says no more; build with ProfilingVerbosity.DETAILED"
        )
    return EngineLayers(tuple(_layer(entry) for entry in entries))


def _layer(entry: Mapping[str, Any]) -> EngineLayer:
    name = str(entry.get("Name", ""))
    kind = _kind(name, str(entry.get("LayerType", "")), str(entry.get("ParameterType", "")))
    first, second = ("Inputs", "Outputs") if kind == CONVOLUTION else ("Outputs", "Inputs")
    precision = next((found for key in (first, second) if (found := _precision(entry.get(key))) != "?"), "?")
    return EngineLayer(name, kind, precision, _nodes(name, str(entry.get("Metadata", ""))))


def _kind(name: str, layer_type: str, parameter_type: str) -> str:
    words = f"{layer_type} {parameter_type}".lower()
    if "reformat" in words or name.startswith("Reformatting CopyNode"):
        return REFORMAT
    if any(word in words for word in ("conv", "gemm", "matrix_multiply", "matrixmultiply", "matmul")):
        return CONVOLUTION
    return OTHER


def _precision(tensors: Any) -> str:
    """Return the precision of the first tensor."""
    if not isinstance(tensors, Sequence) or not tensors or not isinstance(tensors[0], Mapping):
        return "?"
    tensor = tensors[0]
    words = str(tensor.get("Datatype") or tensor.get("DataType") or tensor.get("Format/Datatype") or "").lower()
    return next((precision for pattern, precision in _TYPES if re.search(pattern, words)), "?")


def _nodes(name: str, metadata: str) -> tuple[str, ...]:
    """Return the ONNX nodes: the metadata names them from TensorRT 9 on, the layer's own name before."""
    found = _ONNX_NODE.findall(metadata)
    return tuple(dict.fromkeys(found)) if found else tuple(part for part in name.split(" + ") if part)
