#!/usr/bin/env bash
# Versions: executorch 1.5.1 (its XNNPACK backend and its portable kernels, by its Python runtime), torchao 0.18.0, torch 2.14.1;
#        Python 3.11, x86-64.
# Guess: two activations in a row, ReLU6 and a ReLU behind it (a block that ends with one, in a network that begins the next part
#        with another), are harmless: XNNPACK joins what can be joined into the layer before, by the narrower bounds.
# Seen:  behind Conv, Linear, Add and Mul the first one's bounds are replaced by the second's: ReLU6, ReLU is ReLU, without its 6;
#        Hardtanh, ReLU is ReLU; ReLU, Hardtanh is Hardtanh, negative values included. Exporting, lowering and running say nothing.
#        One activation, two that stand alone or behind a pool, clamp instead of the second, and the portable kernels are right. So
#        is a network that is quantized to INT8 by XNNPACKQuantizer, whose pairs of quantize and dequantize stand between the two:
#        there the FP32 .pte that INT8 is compared with is the wrong one.
# Output seen: "largest difference from eager PyTorch: ReLU6, ReLU: Conv 9.23, Linear 4.92, Add 31.39, Mul 199.54, MaxPool 0.00, alone 0.00, Conv in portable kernels 0.00, Conv in INT8 0.14; Hardtanh, ReLU: Conv 14.23, Linear 9.92, Add 36.39, Mul 204.54, (zeros), Conv in INT8 0.12; ReLU, Hardtanh: Conv 1.00, Linear 1.00, Add 1.00, Mul 1.00, (zeros), Conv in INT8 0.08; ReLU6 only 0.00, ReLU and clamp 0.00"
# Needs pip and Python 3.11; torch's download is the large part. With PEER_PYTHON=.../bin/python of an environment that has these
# versions nothing is installed.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python=${PEER_PYTHON:-$folder/venv/bin/python}
if [ -z "${PEER_PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    "$python" -m pip install -q --disable-pip-version-check executorch==1.5.1 torchao==0.18.0 torch==2.14.1
fi
"$python" -W ignore - 2>"$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
from collections.abc import Callable

import torch
import torch.nn.functional as F
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from torch import nn
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

Layers = Callable[[torch.Tensor], torch.Tensor]
torch.manual_seed(0)
x = 9 * torch.randn(1, 4, 9, 9)
conv, linear = nn.Conv2d(4, 4, 3), nn.Linear(9, 4)


class Network(nn.Module):
    def __init__(self, layers: Layers) -> None:
        super().__init__()
        self.layers, self.conv, self.linear = layers, conv, linear

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def pte(network: nn.Module, delegate: bool = True) -> torch.Tensor:
    """Export, lower and run the .pte program."""
    lowered = to_edge_transform_and_lower(
        torch.export.export(network, (x,)), partitioner=[XnnpackPartitioner()] if delegate else []
    )
    program = Runtime.get().load_program(lowered.to_executorch().buffer)
    return program.load_method("forward").execute((x,))[0]


def off(layers: Layers, delegate: bool = True) -> float:
    network = Network(layers).eval()
    return float((pte(network, delegate) - network(x)).abs().max())


def int8(layers: Layers) -> float:
    network = Network(layers).eval()
    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
    prepared = prepare_pt2e(torch.export.export(network, (x,)).module(), quantizer)
    prepared(x)
    return float((pte(convert_pt2e(prepared)) - network(x)).abs().max())


pairs = {
    "ReLU6, ReLU": lambda y: F.relu(F.relu6(y)),
    "Hardtanh, ReLU": lambda y: F.relu(F.hardtanh(y)),
    "ReLU, Hardtanh": lambda y: F.hardtanh(F.relu(y)),
}
lines = []
for name, pair in pairs.items():
    wrong = {
        "Conv": off(lambda x: pair(conv(x))),
        "Linear": off(lambda x: pair(linear(x))),
        "Add": off(lambda x: pair(x + x.flip(3))),
        "Mul": off(lambda x: pair(x * x.flip(3))),
    }
    right = {
        "MaxPool": off(lambda x: pair(F.max_pool2d(x, 2))),
        "alone": off(pair),
        "Conv in portable kernels": off(lambda x: pair(conv(x)), delegate=False),
    }
    quantized = int8(lambda x: pair(conv(x)))
    words = ", ".join(f"{layer} {value:.2f}" for layer, value in {**wrong, **right, "Conv in INT8": quantized}.items())
    lines.append(f"{name}: {words}")
    assert min(wrong.values()) > 0.9 and max(right.values()) < 1e-3 and quantized < 0.2, ("the behaviour changed", lines)
one = off(lambda x: F.relu6(conv(x)))
clamped = off(lambda x: torch.clamp(F.relu(conv(x)), max=6.0))
print(f"largest difference from eager PyTorch: {'; '.join(lines)}; ReLU6 only {one:.2f}, ReLU and clamp {clamped:.2f}")
assert max(one, clamped) < 1e-3, "the behaviour changed"
PYTHON
