"""Compute capability 7.5 (Turing: T4, RTX 20) under TensorRT-RTX: what becomes of a file there, told beforehand.

Its Turing kernels multiply matrices in FP16 and INT8, not in FP32, and convolve in FP32 and FP16, not in INT8:

- a matrix product in float32, also one with float32 scales, is refused, for every target of the build;
- an INT8 convolution is computed in FP16 or FP32, without a word, for every target of the build;
- a matrix product with FP16 scales is a true INT8 one.

Source: builds of ResNet-20 with TensorRT-RTX 1.7.1, 2026-11-29: layer lists of FP32, FP16, INT8, INT8+FP16 files for
7.5 and for 7.5 with 8.6.
"""

from __future__ import annotations

from typing import Any

from exporter.engines.network_products import network_products, product_layers
from exporter.errors import EngineBuildError
from runtimes.trt.tensorrt_library import TensorRtLibrary

TURING = "7.5"


def check_turing(library: TensorRtLibrary, network: Any, compute_capabilities: tuple[str, ...]) -> tuple[str, ...]:
    """Return what compute capability 7.5 will compute otherwise than the file says; nothing where it is no target.

    Raises:
        EngineBuildError: If TensorRT-RTX would refuse the network for it; naming the layers.
    """
    if library.flavor != "rtx" or TURING not in compute_capabilities:
        return ()
    trt = library.module
    others = tuple(other for other in compute_capabilities if other != TURING)
    layers = product_layers(trt, network)
    products = [layer for layer in layers if layer.type == trt.LayerType.MATRIX_MULTIPLY]
    if refused := [str(layer.name) for layer in products if layer.get_input(0).dtype == trt.DataType.FLOAT]:
        raise EngineBuildError(_refusal(refused, others))
    quantized = set(network_products(trt, network).quantized)
    convolutions = [layer for layer in layers if layer.name in quantized and layer not in products]
    return (_notice(len(convolutions), others),) if convolutions else ()


def _refusal(names: list[str], others: tuple[str, ...]) -> str:
    alone = (
        f"; with 7.5 among the targets none is built: give --compute-capability {','.join(others)}" if others else ""
    )
    return (
        f"TensorRT-RTX has no FP32 matrix product for compute capability 7.5 and would refuse {', '.join(names)}; "
        f"build --fp16, or --int8 --fp16, whose scales are FP16{alone}"
    )


def _notice(number: int, others: tuple[str, ...]) -> str:
    also = f", and so for {', '.join(others)} of the same build: build them apart" if others else ""
    return (
        f"for compute capability 7.5 TensorRT-RTX computes {number} INT8 convolutions in FP16 or FP32: it has no INT8 "
        f"convolution there{also}"
    )
