#!/usr/bin/env bash
# Versions: torchao 0.18.0 (PT2E quantization: X86InductorQuantizer, ArmInductorQuantizer), torch 2.14.1 (CPU), NumPy 2.4.6; Python
#        3.11, x86-64.
# Guess: INT8 weights per channel have the scale max|w| / 127 (or 128), however small the weights are: scaling a network's input up
#        and its first weights down changes nothing. PerChannelMinMaxObserver, which the quantizers use, has an eps of 1.2e-7.
# Seen:  the quantizers' default configurations give that observer eps=2**-12, and no scale is below it: a channel whose largest
#        weight is under 0.031 gets fewer than 127 levels, under 0.00012 none at all. Neither docstrings nor logs say so. A stem
#        behind pixels of 0 to 255 has such weights, once its BatchNorm or the normalization is folded into it (prepare_pt2e
#        folds BatchNorm by itself): the same ResNet stem for pixels of 0 to 1 and of 0 to 255, equal in float, differs by 16 dB
#        in INT8. The same configuration with an eps of 1e-12 makes both equal. ExecuTorch's XNNPACKQuantizer, and those for
#        Arm's, NXP's and Samsung's NPUs, have the floor too.
# Output seen: "SQNR in dB for pixels of 0 to 1 and of 0 to 255: X86 36.7 and 20.9, Arm 31.6 and 20.9, X86 with eps 1e-12 36.7 and 37.0; largest level of each channel at 0 to 255: [23, 12, 21, 10, 14, 13, 19, 15, 11, 13, 18, 9, 12, 18, 10, 14]; smallest scale 0.000244"
# Needs pip and Python 3.11; torch's download is the large part. With PEER_PYTHON=.../bin/python of an environment that has these
# versions nothing is installed.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python=${PEER_PYTHON:-$folder/venv/bin/python}
if [ -z "${PEER_PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    "$python" -m pip install -q --disable-pip-version-check torchao==0.18.0 torch==2.14.1 numpy==2.4.6
fi
"$python" -W ignore - 2>"$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import copy
import dataclasses

import torch
from torch import nn
from torchao.quantization.pt2e.observer import PerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import arm_inductor_quantizer as arm
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

torch.manual_seed(0)
coarse = torch.rand(32, 3, 4, 4)
pictures = nn.functional.interpolate(coarse, size=(32, 32), mode="bicubic")
pictures = (pictures + 0.05 * torch.randn_like(pictures)).clamp(0, 1)
kernels = torch.randn(16, 3, 7, 7)


def stem(white: float) -> nn.Module:
    """The first layer of a ResNet for pixels of 0 to `white`; its BatchNorm has the statistics of these pictures."""
    layer = nn.Sequential(
        nn.Conv2d(3, 16, 7, stride=2, padding=3, bias=False), nn.BatchNorm2d(16, eps=1e-10, momentum=None), nn.ReLU()
    )
    layer[0].weight.data = kernels.clone()
    layer(pictures * white)
    return layer.eval()


def quantized(white: float, quantizer: object) -> tuple[float, nn.Module]:
    """Return the INT8 stem and its signal-to-quantization-noise ratio, in dB."""
    layer, given = stem(white), pictures * white
    prepared = prepare_pt2e(torch.export.export(layer, (given,)).module(), quantizer)
    prepared(given)
    model = convert_pt2e(prepared)
    with torch.no_grad():
        want, got = layer(given), model(given)
    return round(float(10 * torch.log10(want.pow(2).sum() / (want - got).pow(2).sum())), 1), model


default = x86.get_default_x86_inductor_quantization_config()
own = copy.copy(default)
observer = PerChannelMinMaxObserver.with_args(eps=1e-12)
object.__setattr__(own, "weight", dataclasses.replace(default.weight, observer_or_fake_quant_ctr=observer))
quantizers = {
    "X86": lambda: x86.X86InductorQuantizer().set_global(default),
    "Arm": lambda: arm.ArmInductorQuantizer().set_global(arm.get_default_arm_inductor_quantization_config()),
    "X86 with eps 1e-12": lambda: x86.X86InductorQuantizer().set_global(own),
}
with torch.no_grad():
    same = float((stem(1.0)(pictures) - stem(255.0)(pictures * 255)).abs().max())
assert same < 1e-4, same
found = {name: [quantized(white, make())[0] for white in (1.0, 255.0)] for name, make in quantizers.items()}
state = quantized(255.0, quantizers["X86"]())[1].state_dict()
(weights,) = (values for values in state.values() if values.dtype == torch.int8)
(scales,) = (values for values in state.values() if values.shape == (16,) and values.min() > 0)
levels = weights.abs().amax((1, 2, 3)).tolist()
words = ", ".join(f"{name} {first} and {second}" for name, (first, second) in found.items())
print(
    f"SQNR in dB for pixels of 0 to 1 and of 0 to 255: {words}; largest level of each channel at 0 to 255: {levels}; "
    f"smallest scale {float(scales.min()):.3g}"
)
for name in ("X86", "Arm"):
    assert found[name][0] - found[name][1] > 10, "the behaviour changed"
assert abs(found["X86 with eps 1e-12"][0] - found["X86 with eps 1e-12"][1]) < 1, "the behaviour changed"
assert float(scales.min()) == 2**-12 and max(levels) < 100, "the behaviour changed"
PYTHON
