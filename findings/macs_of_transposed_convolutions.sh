#!/usr/bin/env bash
# Versions: thop 0.1.1.post2209072238, torchinfo 1.8.0, ptflops 0.7.5, fvcore 0.1.5.post20221221, onnx-tool 1.0.1, torch 2.14.1
#        (CPU), onnx 1.23.2; Python 3.11, Linux x86-64.
# Guess: tools that count a network's multiply-adds agree on plain layers but for biases: each convolution's output times its
#        window, and for a transposed one its input times its window, since every input value meets each weight once.
# Seen:  a 2x2 ConvTranspose of stride 2 (the way up in a U-Net), is counted four times by thop and torchinfo, which take
#        the output's size there too, and eight times by onnx-tool; fvcore, ptflops and PyTorch's own counter are right. What
#        a forward calls as a function (F.conv2d, an attention's product) is 0 for thop and torchinfo, without a word.
# Output seen: "times the true number: Conv thop 1.0, torchinfo 1.0, ptflops 1.0, fvcore 1.0, onnx-tool 1.0; ConvTranspose thop 4.0, torchinfo 4.1, ptflops 1.1, fvcore 1.0, onnx-tool 8.0; F.conv2d thop 0.0, torchinfo 0.0, ptflops 1.0, fvcore 1.0"
#
# torch is a large download. With PEER_PYTHON=.../bin/python of an environment that has these versions nothing is installed.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python=${PEER_PYTHON:-$folder/venv/bin/python}
if [ -z "${PEER_PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    "$python" -m pip install -q --disable-pip-version-check thop==0.1.1.post2209072238 torchinfo==1.8.0 ptflops==0.7.5 \
        fvcore==0.1.5.post20221221 onnx-tool==1.0.1 torch==2.14.1 onnx==1.23.2
fi
"$python" - 2>/dev/null <<'PYTHON'
import numpy as np
import onnx_tool
import ptflops
import thop
import torch
import torchinfo
from fvcore.nn import FlopCountAnalysis
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torch.nn import functional as F


class Called(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(16, 8, 3, 3))

    def forward(self, x):
        return F.conv2d(x, self.weight, padding=1)


IMAGES = torch.ones(1, 8, 16, 16)
COUNTERS = {
    "thop": lambda module: thop.profile(module, (IMAGES,), verbose=False)[0],
    "torchinfo": lambda module: torchinfo.summary(module, input_data=IMAGES, verbose=0).total_mult_adds,
    "ptflops": lambda module: ptflops.get_model_complexity_info(
        module, (8, 16, 16), as_strings=False, print_per_layer_stat=False, backend="aten"
    )[0],
    "fvcore": lambda module: FlopCountAnalysis(module, IMAGES).total(),
}


def by_onnx_tool(operator, weights, **attributes):
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"], name="layer", **attributes)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(IMAGES.shape))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.ones(weights, np.float32), "w")],
    )
    model = onnx_tool.Model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))
    model.graph.graph_reorder_nodes()
    model.graph.shape_infer()
    model.graph.profile()
    return model.graph.macs[0]


conv, transposed = 16 * 8 * 9 * 256, 8 * 16 * 4 * 256
layers = {
    "Conv": (nn.Conv2d(8, 16, 3, padding=1), conv, by_onnx_tool("Conv", (16, 8, 3, 3), pads=[1] * 4)),
    "ConvTranspose": (
        nn.ConvTranspose2d(8, 16, 2, stride=2),
        transposed,
        by_onnx_tool("ConvTranspose", (8, 16, 2, 2), strides=[2, 2]),
    ),
    "F.conv2d": (Called(), conv, None),
}
found = {
    name: {
        **{counter: round(count(module) / true, 1) for counter, count in COUNTERS.items()},
        **({} if of_file is None else {"onnx-tool": round(of_file / true, 1)}),
    }
    for name, (module, true, of_file) in layers.items()
}
told = "; ".join(f"{name} " + ", ".join(f"{c} {n}" for c, n in each.items()) for name, each in found.items())
print(f"times the true number: {told}")
assert set(found["Conv"].values()) == {1.0}, "the behaviour changed"
assert list(found["ConvTranspose"].values()) == [4.0, 4.1, 1.1, 1.0, 8.0], "the behaviour changed"
assert list(found["F.conv2d"].values()) == [0.0, 0.0, 1.0, 1.0], "the behaviour changed"
PYTHON
