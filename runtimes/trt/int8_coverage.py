"""How many of a network's convolutions and matrix products an engine computes in INT8, by name.

The names are the ONNX nodes', which are PyTorch's modules in files of `resnet-export`. Where the layers come from the
builder's list, it tells what the builder chose; which kernel runs and what it fuses, only the inspector on a GPU tells.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtimes.trt.engine_layers import CONVOLUTION, OTHER, EngineLayer, EngineLayers, NetworkProducts

NOT_LISTED = "?"
"""Precision of a convolution that no layer of the account names."""


@dataclass(frozen=True, slots=True)
class Int8Coverage:
    """Every convolution and matrix product of a network with its precision.

    Attributes:
        precisions: Name to "INT8", "FP16", "FP32", ...; `NOT_LISTED` where the account does not name it.
        quantized: Those that the file wants in INT8.
        source: Who told it; see `EngineLayers`.
    """

    precisions: Mapping[str, str]
    quantized: tuple[str, ...]
    source: str

    @property
    def num_int8(self) -> int:
        """How many are in INT8."""
        return sum(precision == "INT8" for precision in self.precisions.values())

    @property
    def share(self) -> float:
        """The share of all that is in INT8; 0 where there is none."""
        return self.num_int8 / len(self.precisions) if self.precisions else 0.0

    def count(self) -> dict[str, int]:
        """Return how many have each precision, most frequent first."""
        return dict(Counter(self.precisions.values()).most_common())

    def fallen_back(self) -> dict[str, str]:
        """Return what the file wants in INT8 and the engine computes otherwise, name to precision."""
        return {name: self.precisions[name] for name in self.quantized if self.precisions[name] != "INT8"}

    def to_json(self) -> dict[str, Any]:
        """Return the counts and every name."""
        return {
            "int8": self.num_int8,
            "of": len(self.precisions),
            "share": round(self.share, 6),
            "source": self.source,
            "count": self.count(),
            "fell_back": self.fallen_back(),
            "by_name": dict(self.precisions),
        }


def int8_coverage(layers: EngineLayers) -> Int8Coverage:
    """Match the network's convolutions and matrix products with the layers that compute them."""
    products = layers.products or _products_of(layers)
    precisions = {name: _precision_of(name, layers.layers) for name in products.names}
    return Int8Coverage(precisions, products.quantized, layers.source)


def _precision_of(name: str, layers: tuple[EngineLayer, ...]) -> str:
    """Return the precision of the layer that computes a node: other layers name it too, for its bias or its scale.

    A product that is part of a larger kernel (attention, a 1x1 convolution of one pixel) has no layer of its own; that
    kernel is taken, unless it reads INT8: then it may be one that only adds the bias.
    """
    naming = [layer for layer in layers if name in layer.nodes]
    products = [layer for layer in naming if layer.kind == CONVOLUTION]
    own = [layer for layer in products if layer.nodes[0] == name] or products
    if own:
        return own[0].precision
    kernels = [layer.reads for layer in naming if layer.kind == OTHER and layer.reads != "?"]
    return kernels[0] if kernels and "INT8" not in kernels else NOT_LISTED


def _products_of(layers: EngineLayers) -> NetworkProducts:
    """Take what the engine lists for the network, where that was not kept."""
    names = tuple(layer.nodes[0] if layer.nodes else layer.name for layer in layers.layers if layer.kind == CONVOLUTION)
    return NetworkProducts(tuple(dict.fromkeys(names)), ())
