#!/usr/bin/env bash
# Versions: executorch 1.5.1 (its XNNPACK backend and its portable kernels, by its Python runtime), torchao 0.18.0, torch 2.14.1;
#        Python 3.11, x86-64.
# Guess: Upsample and interpolate with a scale_factor, mode "bilinear", are computed in a .pte with that factor, as PyTorch does
#        (it documents that it takes the given factor, not the sizes' ratio, unless recompute_scale_factor=True) and as the
#        portable kernels do; or, if XNNPACK has no factor, they are left to those.
# Seen:  the XNNPACK partitioner takes every bilinear resize, and writes the sizes only: the factor is their ratio. Where input
#        times factor is whole nothing changes; halving an odd size (15 -> 7, a pyramid's smaller scale), or a factor of 1.5 on
#        one, shifts pixels by up to 0.9 and 0.3 of one, more towards the far border. Nothing is said. Sizes given as size=,
#        recompute_scale_factor=True, align_corners=True and even sizes are right.
# Output seen: "largest shift, in pixels of the input: 15 by 0.5 0.93, 15 by 1.5 0.31, 14 by 1.7 0.44, 16 by 0.5 0.00, 15 by 2 0.00, 15 to size 7 0.00, 15 by 0.5, recomputed 0.00, 15 by 0.5, corners aligned 0.00, 15 by 0.5 in portable kernels 0.00"
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
import torch
import torch.nn.functional as F
from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
from executorch.exir import to_edge_transform_and_lower
from executorch.runtime import Runtime
from torch import nn


class Resize(nn.Module):
    def __init__(self, **settings: object) -> None:
        super().__init__()
        self.settings = settings

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.interpolate(x, mode="bilinear", **self.settings)


def off(side: int, delegate: bool = True, **settings: object) -> float:
    """Resize a ramp of one level a column; return the largest difference from eager PyTorch, in columns."""
    x = torch.arange(float(side)).expand(1, 1, side, side).contiguous()
    network = Resize(**settings).eval()
    lowered = to_edge_transform_and_lower(
        torch.export.export(network, (x,)), partitioner=[XnnpackPartitioner()] if delegate else []
    )
    program = Runtime.get().load_program(lowered.to_executorch().buffer)
    (answer,) = program.load_method("forward").execute((x,))
    want = network(x)
    assert answer.shape == want.shape
    return float((answer - want).abs().max())


wrong = {
    "15 by 0.5": off(15, scale_factor=0.5),
    "15 by 1.5": off(15, scale_factor=1.5),
    "14 by 1.7": off(14, scale_factor=1.7),
}
right = {
    "16 by 0.5": off(16, scale_factor=0.5),
    "15 by 2": off(15, scale_factor=2.0),
    "15 to size 7": off(15, size=7),
    "15 by 0.5, recomputed": off(15, scale_factor=0.5, recompute_scale_factor=True),
    "15 by 0.5, corners aligned": off(15, scale_factor=0.5, align_corners=True),
    "15 by 0.5 in portable kernels": off(15, delegate=False, scale_factor=0.5),
}
words = ", ".join(f"{name} {value:.2f}" for name, value in {**wrong, **right}.items())
print(f"largest shift, in pixels of the input: {words}")
assert min(wrong.values()) > 0.1 and max(right.values()) < 1e-3, "the behaviour changed"
PYTHON
