"""The convolutions and matrix products of a parsed network, by the names of their ONNX nodes."""

from __future__ import annotations

from typing import Any

from runtimes.trt.engine_layers import NetworkProducts

_TYPES = ("CONVOLUTION", "DECONVOLUTION", "MATRIX_MULTIPLY", "FULLY_CONNECTED")
"""Members of TensorRT's LayerType; the last one of TensorRT 8 only."""


def layers_of(network: Any) -> list[Any]:
    """Return TensorRT's layers, in order."""
    return [network.get_layer(index) for index in range(network.num_layers)]


def product_layers(trt: Any, network: Any) -> list[Any]:
    """Return TensorRT's layers that are convolutions or matrix products."""
    wanted = [kind for name in _TYPES if (kind := getattr(trt.LayerType, name, None)) is not None]
    return [layer for layer in layers_of(network) if layer.type in wanted]


def network_products(trt: Any, network: Any) -> NetworkProducts:
    """Return their names, and which of them read what a DequantizeLinear gives."""
    dequantizers = (layer for layer in layers_of(network) if layer.type == trt.LayerType.DEQUANTIZE)
    dequantized = {str(layer.get_output(0).name) for layer in dequantizers}
    layers = product_layers(trt, network)
    return NetworkProducts(
        tuple(str(layer.name) for layer in layers),
        tuple(str(layer.name) for layer in layers if layer.get_input(0).name in dequantized),
    )
