"""TorchScript and torch.export programs: refused with the line that converts them, and that line works."""

import re
import subprocess
import sys

import pytest

from exporter.checkpoints.checkpoint import load_checkpoint
from exporter.errors import UnknownModelError, UnsafeCheckpointError, WeightsError
from exporter.models.load_model import load_model
from exporter.models.loaded_model import ModelRequest
from exporter.models.model_names import parse_model

SAVE = """
import sys, torch
from torch import nn
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 5)
    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))
net = Net().eval()
batch = torch.export.Dim("batch")
torch.jit.trace(net, torch.zeros(2, 3, 224, 224)).save("net.pt")
torch.export.save(torch.export.export(net, (torch.zeros(2, 3, 224, 224),), dynamic_shapes=({0: batch},)), "net.pt2")
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    subprocess.run([sys.executable, "-W", "ignore", "-c", SAVE], cwd=folder, check=True, capture_output=True)
    return folder


@pytest.mark.parametrize("name", ["net.pt", "net.pt2"])
def test_as_model_the_refusal_says_how_to_convert_and_that_converts(programs, name):
    with pytest.raises(UnknownModelError, match="where you trust it") as caught:
        parse_model(name)
    (line,) = re.findall(r"torch\.onnx\.export\(.*\)", str(caught.value))
    command = [sys.executable, "-W", "ignore", "-c", f"import torch; {line}"]
    subprocess.run(command, cwd=programs, check=True, capture_output=True)
    loaded = load_model(ModelRequest(str(programs / "model.onnx")))
    assert loaded.num_classes == 5
    assert loaded.preprocessing.input_size == (224, 224)


@pytest.mark.parametrize(("name", "error"), [("net.pt", UnsafeCheckpointError), ("net.pt2", WeightsError)])
def test_as_weights_the_refusal_says_how_to_take_them_out_and_that_does(programs, name, error):
    with pytest.raises(error) as caught:
        load_checkpoint(programs / name)
    (line,) = re.findall(r"torch\.save\((?:dict\()?torch\.(?:jit|export)\.load\(.*\)", str(caught.value))
    command = [sys.executable, "-W", "ignore", "-c", f"import torch; {line}"]
    subprocess.run(command, cwd=programs, check=True, capture_output=True)
    assert "conv.weight" in load_checkpoint(programs / "weights.pth").state_dict


def test_a_weights_file_as_model_is_told_where_it_goes():
    with pytest.raises(UnknownModelError, match=r"resnet-export auto --weights runs/best\.pth"):
        parse_model("runs/best.pth")
