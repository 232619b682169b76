"""Networks without a classifier: their [N, C] are features, whoever wrote them and however they are given."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet

from exporter.models.load_model import load_any
from exporter.networks.cifar_resnet import CifarResNet
from exporter.preprocessing.options import PreprocessingOptions
from resnet_export.main import main
from runtimes import load
from runtimes.errors import NotAClassifierError

PREPROCESSING = PreprocessingOptions(input_size=32, mean=(0.5,) * 3, std=(0.25,) * 3)
SIZE = 32


def small(depth=8):
    torch.manual_seed(0)
    return CifarResNet(depth, num_classes=10)


def without_fc(depth=8):
    module = small(depth)
    module.fc = nn.Identity()
    return module


class Cut(nn.Module):
    """As people cut a network: all children but the last, under no name that tells."""

    def __init__(self):
        super().__init__()
        whole = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)
        self.body = nn.Sequential(*list(whole.children())[:-1], nn.Flatten())

    def forward(self, images):
        return self.body(images)


class Embedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = small()

    def forward(self, images):
        return F.normalize(self.body(images))


class GeneralizedMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, images):
        x = self.conv1(images)
        x = torch.relu(x + self.conv2(torch.relu(x)))
        return x.mean((2, 3))


class ConvolutionClassifies(nn.Module):
    """SqueezeNet's way: a 1x1 convolution, ReLU, then the mean."""

    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 10, 1)

    def forward(self, images):
        x = torch.relu(self.conv1(images))
        return torch.relu(self.conv2(x + torch.relu(x))).mean((2, 3))


FEATURES = {"no fc": without_fc, "cut": Cut, "normalized": Embedding, "residual mean": GeneralizedMean}
CLASSES = {"fc": small, "convolution": ConvolutionClassifies, "softmax": lambda: nn.Sequential(small(), nn.Softmax(1))}


def loaded(module, num_classes=None, **words):
    return load_any(module.eval(), weights="DEFAULT", num_classes=num_classes, preprocessing=PREPROCESSING, **words)


@pytest.mark.parametrize("name", FEATURES)
def test_what_comes_out_is_features(name):
    found = loaded(FEATURES[name]())
    assert not found.gives_logits
    assert found.outputs == ("features",)
    assert "features, no classes" in found.warnings[-1]
    assert loaded(FEATURES[name](), num_classes=found.num_classes).gives_logits  # said to be classes all the same


@pytest.mark.parametrize("name", CLASSES)
def test_classifiers_stay_what_they_are(name):
    found = loaded(CLASSES[name]())
    assert found.gives_logits
    assert not found.warnings


class OfTheBatch(nn.Module):
    """Needs more than one picture: BatchNorm without running statistics behind the classifier."""

    def __init__(self):
        super().__init__()
        self.body, self.norm = small(), nn.BatchNorm1d(10, track_running_stats=False)

    def forward(self, images):
        return self.norm(self.body(images))


class NotTwice(nn.Module):
    """Runs without gradients only."""

    def __init__(self):
        super().__init__()
        self.body = small()

    def forward(self, images):
        if torch.is_grad_enabled():
            raise RuntimeError("no gradients here")
        return self.body(images)


@pytest.mark.parametrize("make", [OfTheBatch, NotTwice])
def test_networks_that_do_not_run_so_are_left_as_they_are(make):
    assert loaded(make()).gives_logits


@pytest.mark.parametrize("name", [*FEATURES, *CLASSES])
@pytest.mark.parametrize("opset", [13, 18])
@pytest.mark.filterwarnings("ignore")
def test_onnx_files_are_told_alike(tmp_path, name, opset):
    module = {**FEATURES, **CLASSES}[name]().eval()
    path = tmp_path / "x.onnx"
    torch.onnx.export(module, (torch.zeros(1, 3, SIZE, SIZE),), path, opset_version=opset, dynamo=False)
    found = load_any(path, weights="DEFAULT", num_classes=None, preprocessing=PREPROCESSING)
    assert found.gives_logits == (name in CLASSES)
    assert load_any(path, weights="DEFAULT", num_classes=found.num_classes, preprocessing=PREPROCESSING).gives_logits


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """The main job on a checkpoint without classifier."""
    folder = tmp_path_factory.mktemp("features")
    generator = np.random.default_rng(0)
    for place in range(60):
        pixels = generator.integers(0, 256, (8, 8, 3), np.uint8)
        (folder / ("images" if place < 40 else "val") / str(place % 2)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).resize((32, 32)).save(
            folder / ("images" if place < 40 else "val") / str(place % 2) / f"{place}.png"
        )
    torch.save(without_fc(20).state_dict(), folder / "w.pth")
    words = ["cifar_resnet20", "--weights", folder / "w.pth", "--int8", "--fp16", "--calib", folder / "images"]
    words += ["--val", folder / "val", "--effort", "0", "--calib-cache", "off", "--force", "--quiet"]
    words += ["--input-size", "32", "--mean", "0.5,0.5,0.5", "--std", "0.25,0.25,0.25", "-o", folder / "bundle"]
    assert main([str(word) for word in words]) == 0
    return folder / "bundle"


def test_the_report_speaks_of_features(bundle):
    report = json.loads((bundle / "report.json").read_text())
    assert any("features, no classes" in warning for warning in report["warnings"])
    for row in report["rows"]:
        assert row["parity"] is None
    compared = {row["name"]: row["features"]["features"] for row in report["rows"] if "features" in row}
    assert compared["ONNX INT8"]["sqnr_db"] > 15
    assert compared["ONNX FP32"]["sqnr_db"] > 100
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert manifest["model"]["answers"] == "features"
    assert manifest["model"]["num_classes"] is None
    assert not (bundle / "labels.txt").exists()


@pytest.mark.parametrize("verb", ["classify", "verify"])
def test_what_needs_classes_is_refused_in_a_sentence(bundle, verb, capsys, tmp_path):
    images = bundle.parent / "images"
    words = {
        "classify": ["classify", "--bundle", bundle, "--input", images, "--output", tmp_path / "x.csv"],
        "verify": ["verify", bundle, "--val", images],
    }[verb]
    assert main([str(word) for word in words]) == 2
    told = capsys.readouterr().err
    assert "gives features" in told
    assert "internal" not in told


def test_deepstream_gets_a_tensor_and_no_classifier(bundle, tmp_path):
    assert main(["deepstream", str(bundle), "-o", str(tmp_path / "ds"), "--quiet"]) == 0
    config = (tmp_path / "ds" / "config_infer.txt").read_text()
    assert "network-type=100" in config
    assert "labelfile-path" not in config


@pytest.mark.parametrize("name", ["", "model.onnx", "model.int8.onnx"])
def test_a_loaded_model_gives_features_and_no_classes(bundle, name):
    with load(bundle / name if name else bundle, provider="cpu") as model:
        (output,) = model.run({"input": np.zeros((2, 3, 32, 32), np.float32)}).values()
        assert output.shape == (2, 64)
        with pytest.raises(NotAClassifierError, match="features, no classes"):
            model.classify(bundle.parent / "images" / "0" / "0.png")


def test_labels_of_features_are_refused(bundle, tmp_path, capsys):
    (tmp_path / "labels.txt").write_text("".join(f"{place}\n" for place in range(64)))
    words = ["cifar_resnet20", "--weights", bundle.parent / "w.pth", "--labels", tmp_path / "labels.txt"]
    assert main([*map(str, words), "-o", str(tmp_path / "b"), "--quiet"]) == 2
    assert "features or maps, no classes" in capsys.readouterr().err


def test_softmax_of_features_is_refused(bundle, tmp_path, capsys):
    words = ["cifar_resnet20", "--weights", bundle.parent / "w.pth", "--softmax", "-o", tmp_path / "b", "--quiet"]
    assert main(list(map(str, words))) == 2
    assert "gives none" in capsys.readouterr().err
