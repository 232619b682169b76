"""Count the precisions of an engine's layers, from TensorRT's own account of them.

The account is the engine inspector's JSON (`exporter.engines.engine_evidence`), `trtexec --exportLayerInfo`, or what
TensorRT-RTX's builder logs (`runtimes.trt.build_log`). TensorRT 8 to 10 put format and type of a tensor into one
text under "Format/Datatype" ("Thirty-two wide channel vectorized row major Int8 format", "Half"); TensorRT 11 and RTX
have "Format" and "Datatype". A convolution is called CaskConvolution or the like in TensorRT, and `correlation` in RTX,
a matrix product `gemm`, and `runtime_fusion` where the GPU's driver compiles it.

The precision is that of what a convolution reads, its inputs and constants: outputs of INT8 convolutions are listed as
Float where the next operation rounds them. Source: NVIDIA TensorRT documentation, Engine Inspector, and the 10.x to
11.x migration guide of IEngineInspector; builds with TensorRT-RTX 1.7.1.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from runtimes.errors import RuntimeAdapterError

CONVOLUTION, REFORMAT, CONTROL, OTHER = "convolution", "reformat", "control", "other"

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

_PRODUCT_TYPES = ("conv", "correlation", "gemm", "matrix_multiply", "matrixmultiply", "matmul")
_CONTROL_TYPES = ("shape_call", "signal", "wait")
_PRODUCT_IN_FUSION = re.compile(r"__myl_\w*(?:Corr|Fc|Gemm|Dot|MatMul)")
"""Name of a `runtime_fusion` that holds a convolution or matrix product."""

INSPECTOR, BUILD_LOG = "inspector", "build log"
"""Who told the layers: TensorRT on a GPU, of the engine; or its builder, of what it was going to make."""

_ONNX_NODE = re.compile(r"\[ONNX Layer: ([^\]]*)\]")


@dataclass(frozen=True, slots=True)
class NetworkProducts:
    """Convolutions and matrix products of a network, in order, and those that its file wants in INT8."""

    names: tuple[str, ...]
    quantized: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class EngineLayer:
    """One layer, as TensorRT fused it.

    Attributes:
        name: TensorRT's.
        kind: `CONVOLUTION` (matrix products too), `REFORMAT` (only moves data), `CONTROL` (not even that) or `OTHER`.
        precision: "INT8", "FP16", "FP32", ...: of what a convolution reads, otherwise of the first output. "?" where
            the account does not say.
        nodes: Names of the ONNX nodes in it, which are PyTorch's module names in files of `resnet-export`.
        reads: Precision of its first input.
    """

    name: str
    kind: str
    precision: str
    nodes: tuple[str, ...]
    reads: str = "?"


@dataclass(frozen=True, slots=True)
class EngineLayers:
    """All layers in the order they run, from `INSPECTOR` or `BUILD_LOG`, and the network's products where kept."""

    layers: tuple[EngineLayer, ...]
    source: str = INSPECTOR
    products: NetworkProducts | None = None

    def count(self, kind: str | None = None) -> Mapping[str, int]:
        """Return how many layers have each precision, most frequent first: of one kind, or of all that compute."""
        kinds = (kind,) if kind else (CONVOLUTION, OTHER)
        chosen = [layer for layer in self.layers if layer.kind in kinds]
        return dict(Counter(layer.precision for layer in chosen).most_common())

    @property
    def num_reformats(self) -> int:
        """How many layers only move data into another format or type."""
        return sum(layer.kind == REFORMAT for layer in self.layers)

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
    """Read the inspector's JSON, or what `layers_to_json` made of it.

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
    try:
        products = content.get("Products")
        known = None if products is None else NetworkProducts(tuple(products["names"]), tuple(products["quantized"]))
    except (TypeError, KeyError) as err:
        raise RuntimeAdapterError(f'"Products" of the layers cannot be read: {err!r}') from err
    return EngineLayers(tuple(map(_layer, entries)), str(content.get("Source", INSPECTOR)), known)


def layers_to_json(
    entries: Sequence[Mapping[str, Any]], *, source: str, products: NetworkProducts | None
) -> dict[str, Any]:
    """Return what `layers_from_inspector` reads, with who told it and what the network holds."""
    content: dict[str, Any] = {"Layers": list(entries), "Source": source}
    if products is not None:
        content["Products"] = {"names": list(products.names), "quantized": list(products.quantized)}
    return content


def _layer(entry: Mapping[str, Any]) -> EngineLayer:
    name = str(entry.get("Name", ""))
    kind = _kind(name, str(entry.get("LayerType", "")), str(entry.get("ParameterType", "")))
    if kind == CONVOLUTION:
        precision = _precision_of_product(entry)
    else:
        precision = next((found for key in ("Outputs", "Inputs") if (found := _precision(entry.get(key))) != "?"), "?")
    nodes = _nodes(name, str(entry.get("Metadata", "")))
    return EngineLayer(name, kind, precision, nodes, _precision(entry.get("Inputs")))


def _kind(name: str, layer_type: str, parameter_type: str) -> str:
    words = f"{layer_type} {parameter_type}".lower()
    if "reformat" in words or name.startswith("Reformatting CopyNode"):
        return REFORMAT
    if layer_type in _CONTROL_TYPES:
        return CONTROL
    if any(word in words for word in _PRODUCT_TYPES):
        return CONVOLUTION
    if "runtime_fusion" in words and _PRODUCT_IN_FUSION.match(name):
        return CONVOLUTION
    return OTHER


def _precision_of_product(entry: Mapping[str, Any]) -> str:
    """Return the precision of the first input; of the weights where these are listed and are of another type."""
    read = next((found for key in ("Inputs", "Outputs") if (found := _precision(entry.get(key))) != "?"), "?")
    constants = entry.get("Constants")
    if read != "INT8" or not isinstance(constants, Sequence) or not constants:
        return read
    kinds = [_precision([tensor]) for tensor in (*constants, *entry.get("Inputs", [])[1:])]
    return read if "INT8" in kinds else kinds[0]


def _precision(tensors: Any) -> str:
    if not isinstance(tensors, Sequence) or not tensors or not isinstance(tensors[0], Mapping):
        return "?"
    tensor = tensors[0]
    words = str(tensor.get("Datatype") or tensor.get("DataType") or tensor.get("Format/Datatype") or "").lower()
    return next((precision for pattern, precision in _TYPES if re.search(pattern, words)), "?")


def _nodes(name: str, metadata: str) -> tuple[str, ...]:
    """Return the ONNX nodes: the metadata names them from TensorRT 9 on, the layer's own name before."""
    found = _ONNX_NODE.findall(metadata)
    return tuple(dict.fromkeys(found)) if found else tuple(part for part in name.split(" + ") if part)
