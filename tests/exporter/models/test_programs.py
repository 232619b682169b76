"""TorchScript and torch.export programs: refused with the line that converts them, and that line works."""

import re

import pytest
import torch
from torch import nn

from exporter.checkpoints.checkpoint import load_checkpoint
from exporter.errors import UnknownModelError, UnsafeCheckpointError, WeightsError
from exporter.models.load_model import load_model
from exporter.models.loaded_model import ModelRequest
from exporter.models.model_names import parse_model


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        return self.fc(self.conv(x).mean((2, 3)))


@pytest.fixture(scope="module")
def programs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("programs")
    net, images = Net().eval(), torch.zeros(2, 3, 224, 224)
    torch.jit.trace(net, images).save(folder / "net.pt")
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(net, (images,), dynamic_shapes=({0: batch},)), folder / "net.pt2")
    return folder


@pytest.fixture
def run(programs, monkeypatch):
    """Runs a line that a message gives, where the files are, with nothing but torch at hand."""
    monkeypatch.chdir(programs)
    return lambda line: exec(line, {"torch": torch})


@pytest.mark.parametrize("name", ["net.pt", "net.pt2"])
def test_as_model_the_refusal_says_how_to_convert_and_that_converts(programs, run, name):
    with pytest.raises(UnknownModelError, match="where you trust it") as caught:
        parse_model(name)
    (line,) = re.findall(r"torch\.onnx\.export\(.*\)", str(caught.value))
    run(line)
    loaded = load_model(ModelRequest(str(programs / "model.onnx")))
    assert loaded.num_classes == 5
    assert loaded.preprocessing.input_size == (224, 224)


@pytest.mark.parametrize(("name", "error"), [("net.pt", UnsafeCheckpointError), ("net.pt2", WeightsError)])
def test_as_weights_the_refusal_says_how_to_take_them_out_and_that_does(programs, run, name, error):
    with pytest.raises(error) as caught:
        load_checkpoint(programs / name)
    (line,) = re.findall(r"torch\.save\((?:dict\()?torch\.(?:jit|export)\.load\(.*\)", str(caught.value))
    run(line)
    assert "conv.weight" in load_checkpoint(programs / "weights.pth").state_dict


def test_a_weights_file_as_model_is_told_where_it_goes():
    with pytest.raises(UnknownModelError, match=r"resnet-export auto --weights runs/best\.pth"):
        parse_model("runs/best.pth")
