import argparse
import json
import re
import sys
import types

import pytest
import timm
import torch
import torchvision
from cli_runs import DIGITS_WEIGHTS
from safetensors.torch import load_file, save_file
from torch import nn

from exporter.checkpoints.weight_layout import layout_of, without_values
from exporter.errors import AmbiguousModelError, UnknownModelError, WeightsError
from exporter.models.load_model import load_model
from exporter.models.loaded_model import ModelRequest
from exporter.models.model_facts import architecture_of
from exporter.models.model_names import MODEL_NAMES
from exporter.networks.cifar_resnet import CifarResNet, ShortcutOption
from exporter.networks.preact_resnet import CifarPreActResNet
from exporter.preprocessing.config_files import CONFIG
from exporter.recognition import auto_source, match_weights
from exporter.recognition.match_weights import matching_models
from resnet_export.main import main

SAMPLES = [
    name for name in MODEL_NAMES if "." not in name and not name.startswith(("cifar_resnet1202", "convnextv2_b"))
]


def auto(path):
    return load_model(ModelRequest("auto", str(path)))


@pytest.mark.parametrize("name", SAMPLES)
def test_every_model_is_found_by_its_names_and_shapes_alone(name):
    """With another number of classes than the table was made with; the weights have no values."""
    state_dict = without_values(architecture_of(name).build, 37).state_dict()
    assert matching_models(state_dict) == [name]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "densenet121", "mobilenet_v3_small"])
def test_torchvision_files(tmp_path, name):
    torch.save(torchvision.models.get_model(name, num_classes=5).state_dict(), tmp_path / "w.pth")
    loaded = auto(tmp_path / "w.pth")
    assert (loaded.model_id, loaded.num_classes) == (name, 5)
    told = (*loaded.notes, *loaded.warnings)
    assert any(line.startswith((f"MODEL auto is {name}: all ", "MODEL auto: all ")) for line in told)


@pytest.mark.parametrize(
    ("option", "name"), [("A", "cifar_resnet32_a"), ("B", "cifar_resnet32"), ("C", "cifar_resnet32_c")]
)
def test_textbook_cifar_files(tmp_path, option, name):
    """As akamaster/pytorch_resnet_cifar10 saves them: DataParallel, `shortcut`, `linear`."""
    state_dict = CifarResNet(32, shortcut=ShortcutOption(option)).state_dict()
    textbook = {
        f"module.{key.replace('downsample', 'shortcut').replace('fc.', 'linear.')}": value
        for key, value in state_dict.items()
    }
    torch.save({"state_dict": textbook, "best_prec1": 92.6}, tmp_path / "resnet32.th.pth")
    assert auto(tmp_path / "resnet32.th.pth").model_id == name


def test_the_small_stem_of_a_standard_resnet(tmp_path):
    module = torchvision.models.resnet18(num_classes=10)
    module.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    torch.save(module.state_dict(), tmp_path / "w.pth")
    loaded = auto(tmp_path / "w.pth")
    assert loaded.model_id == "resnet18"
    assert loaded.preprocessing.input_size == (32, 32)


def test_timm_and_own_files(tmp_path):
    save_file(timm.create_model("skresnet34", num_classes=3).state_dict(), tmp_path / "t.safetensors")
    assert auto(tmp_path / "t.safetensors").model_id == "skresnet34"
    save_file(CifarPreActResNet(110).state_dict(), tmp_path / "p.safetensors")
    assert auto(tmp_path / "p.safetensors").model_id == "preact_resnet110"


def test_the_header_says_it(tmp_path):
    save_file(CifarResNet(20).state_dict(), tmp_path / "w.safetensors", metadata={"model": "cifar_resnet20"})
    assert auto(tmp_path / "w.safetensors").notes[0] == "MODEL auto is cifar_resnet20: the checkpoint's header says so"
    save_file(CifarResNet(20).state_dict(), tmp_path / "x.safetensors", metadata={"model": "resnet5O"})
    with pytest.raises(UnknownModelError, match="header says model 'resnet5O', but unknown model"):
        auto(tmp_path / "x.safetensors")


def test_no_known_model_names_the_nearest_and_what_they_lack(tmp_path):
    state_dict = torchvision.models.resnet18(num_classes=10).state_dict()
    state_dict["layer5.extra.weight"] = torch.ones(3)
    del state_dict["bn1.bias"]
    state_dict["bn1.weight"] = torch.ones(65)
    torch.save(state_dict, tmp_path / "w.pth")
    with pytest.raises(AmbiguousModelError) as caught:
        auto(tmp_path / "w.pth")
    message = str(caught.value)
    assert "fit no known model; nearest of those of its size (11.2 M values): resnet18: 1 missing" in message
    assert (
        "resnet18: 1 missing (bn1.bias), 1 unexpected (layer5.extra.weight), 1 of another shape (bn1.weight)" in message
    )
    assert "package.module:callable" in message


def test_several_models_are_listed(tmp_path, monkeypatch):
    twins = match_weights.load_model_table()
    row = next(facts for facts in twins if facts.name == "cifar_resnet20")
    twin = type(row)(**{name: getattr(row, name) for name in row.__slots__} | {"name": "cifar_twin20"})
    monkeypatch.setattr(match_weights, "load_model_table", lambda: (*twins, twin))
    torch.save(CifarResNet(20).state_dict(), tmp_path / "w.pth")
    with pytest.raises(AmbiguousModelError, match=r"fit cifar_resnet20, cifar_twin20 alike.*name the one"):
        auto(tmp_path / "w.pth")


@pytest.mark.parametrize("weights", ["DEFAULT", "random"])
def test_it_needs_a_file(weights):
    with pytest.raises(WeightsError, match=f"reads the architecture off a checkpoint, got --weights {weights}"):
        load_model(ModelRequest("auto", weights))


def test_something_else_entirely(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pth")
    with pytest.raises(AmbiguousModelError, match="fit no known model"):
        auto(tmp_path / "w.pth")


# What weights do not tell


PAIRS = [(plain, other) for plain, others in auto_source.LOOK_ALIKES.items() for other in others]
BLUR, PLAIN = "resnetblur18", "resnet18"


@pytest.mark.parametrize(("plain", "other"), PAIRS)
def test_look_alikes_have_the_same_names_and_shapes(plain, other):
    fits = [layout_of(architecture_of(name).build).fingerprint for name in (plain, other)]
    assert fits[0] == fits[1]


def test_a_blur_pool_network_is_not_taken_for_the_plain_one_in_silence(tmp_path):
    torch.save(timm.create_model("resnetblur18", num_classes=3).state_dict(), tmp_path / "w.pth")
    loaded = auto(tmp_path / "w.pth")
    assert loaded.model_id == "resnet18"
    assert "timm:resnetblur18 as well" in loaded.warnings[0]
    assert "name it (timm:resnetblur18) instead of auto" in loaded.warnings[0]
    assert not any("no other's" in note for note in loaded.notes)


@pytest.mark.parametrize(("better", "model_id"), [(BLUR, BLUR), (PLAIN, PLAIN), (None, PLAIN)])
def test_measured_on_images_the_most_accurate_is_taken_and_of_equals_the_plainest(tmp_path, better, model_id):
    torch.save(timm.create_model("resnetblur18", num_classes=3).state_dict(), tmp_path / "w.pth")
    request = ModelRequest(
        "auto", str(tmp_path / "w.pth"), judge=lambda loaded: 0.7 if loaded.model_id == better else 0.1
    )
    loaded = load_model(request)
    assert loaded.model_id == model_id
    assert "timm:resnetblur18" in loaded.notes[0]
    assert "%" in loaded.notes[0]


def test_a_stem_for_small_images_fits_no_look_alike(tmp_path):
    """Where images were given, the one that does not fit was tried, and ended the run."""
    module = torchvision.models.resnet18(num_classes=3)
    module.conv1, module.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    torch.save(module.state_dict(), tmp_path / "w.pth")
    loaded = load_model(ModelRequest("auto", str(tmp_path / "w.pth"), judge=lambda loaded: 0.1))
    assert loaded.model_id == PLAIN
    assert loaded.warnings == ()
    assert "activations and epsilons have no weights" in loaded.notes[0]


@pytest.mark.parametrize(
    ("payload", "source", "model_id"),
    [
        ({"arch": "resnetblur18", "version": 2}, "timm", "resnetblur18"),
        (
            {"args": argparse.Namespace(model="resnet18", val_crop_size=64, val_resize_size=72)},
            "torchvision",
            "resnet18",
        ),
        ({"hyper_parameters": {"model_name": "resnetblur18"}}, "timm", "resnetblur18"),
        ({"arch": "a name that nobody knows"}, "torchvision", "resnet18"),
        ({"arch": "resnet50"}, "torchvision", "resnet18"),
        ({"arch": "os:system"}, "torchvision", "resnet18"),
        ({"arch": "hf-hub:someone/something"}, "torchvision", "resnet18"),
    ],
)
def test_what_the_file_says_decides_if_its_weights_fit(tmp_path, payload, source, model_id):
    weights = timm.create_model("resnet18", num_classes=3).state_dict()
    torch.save({"state_dict": weights, **payload}, tmp_path / "w.pth")
    loaded = auto(tmp_path / "w.pth")
    assert (loaded.source, loaded.model_id) == (source, model_id)


def test_timms_config_beside_the_weights_names_the_model(tmp_path):
    save_file(timm.create_model("resnetblur18", num_classes=3).state_dict(), tmp_path / "model.safetensors")
    cfg = {"input_size": [3, 64, 64], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], "crop_pct": 1.0}
    (tmp_path / CONFIG).write_text(json.dumps({"architecture": "resnetblur18", "pretrained_cfg": cfg}))
    loaded = auto(tmp_path / "model.safetensors")
    assert loaded.model_id == "resnetblur18"
    assert loaded.preprocessing.input_size == (64, 64)
    assert loaded.preprocessing_source == "config.json beside the weights (timm's)"


@pytest.mark.parametrize("header", ["os:system", "timm:hf-hub:a/b", "folder/x.onnx"])
def test_a_header_may_not_say_what_to_import(tmp_path, header):
    save_file(CifarResNet(20).state_dict(), tmp_path / "w.safetensors", metadata={"model": header})
    with pytest.raises(UnknownModelError, match="expected a plain name"):
        auto(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.Dropout(), nn.Linear(512, 3)),
        nn.Identity(),
        nn.Sequential(nn.Linear(512, 9), nn.Linear(9, 3)),
    ],
)
def test_a_changed_head_does_not_hide_the_model(tmp_path, head):
    module = torchvision.models.resnet18()
    module.fc = head
    weights = {f"model.{name}": tensor for name, tensor in module.state_dict().items()}
    torch.save({"state_dict": {**weights, "loss.weight": torch.ones(3)}}, tmp_path / "w.ckpt")
    assert auto(tmp_path / "w.ckpt").model_id == "resnet18"


OTHER = "strided_elsewhere:build"


class OtherStrides(nn.Module):
    """The digits network with another stride: its weights fit, its answers do not."""

    def __init__(self, num_classes=10):
        super().__init__()
        for name, child in CifarResNet(20, num_classes=num_classes).named_children():
            self.add_module(name, child)
        self.conv1.stride = (2, 2)

    forward = CifarResNet.forward


@pytest.mark.parametrize("plainest", ["cifar_resnet20", OTHER])
def test_trained_weights_are_measured_and_the_one_that_fits_is_taken(tmp_path, digits_folder, monkeypatch, plainest):
    """The main job's own judge on real pictures: strides have no weights, so names and shapes fit both."""
    monkeypatch.setitem(sys.modules, "strided_elsewhere", types.SimpleNamespace(build=OtherStrides))
    other = "cifar_resnet20" if plainest == OTHER else OTHER
    monkeypatch.setattr(auto_source, "candidates", lambda name: (plainest, other))
    save_file(load_file(DIGITS_WEIGHTS), tmp_path / "w.safetensors")  # without the header that names the model
    words = ["auto", "--weights", tmp_path / "w.safetensors", "--val", digits_folder / "val", "--num-val", 60]
    words += ["--input-size", 32, "--resize", "32x32", "--mean", "0.306,0.306,0.306", "--std", "0.324,0.324,0.324"]
    assert main([*map(str, words), "-o", str(tmp_path / "b")]) == 0
    (told,) = [
        step for step in json.loads((tmp_path / "b" / "report.json").read_text())["steps"] if "MODEL auto" in step
    ]
    assert told.startswith("MODEL auto is cifar_resnet20")
    figures = {name: float(share) for name, share in re.findall(r":([\w.]+) ([\d.]+)%", told)}
    assert figures.pop("cifar_resnet20") >= 95
    assert len(figures) == 1
    assert max(figures.values()) <= 60
