import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from exporter.checkpoints.weight_layout import without_values
from exporter.errors import AmbiguousModelError, UnknownModelError, WeightsError
from exporter.models import auto_source as auto_model
from exporter.models.auto_source import matching_models
from exporter.models.load_model import load_model
from exporter.models.loaded_model import ModelRequest
from exporter.models.model_facts import architecture_of
from exporter.models.model_names import MODEL_NAMES
from exporter.networks.cifar_resnet import CifarResNet, ShortcutOption
from exporter.networks.preact_resnet import CifarPreActResNet

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
    assert loaded.notes[0].startswith(f"MODEL auto is {name}: all ")


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
    assert "fit no known model; nearest by size (11.2 M values)" in message
    assert (
        "resnet18: 1 missing (bn1.bias), 1 unexpected (layer5.extra.weight), 1 of another shape (bn1.weight)" in message
    )
    assert "plain18: " in message
    assert "package.module:callable" in message


def test_several_models_are_listed(tmp_path, monkeypatch):
    twins = auto_model.load_model_table()
    row = next(facts for facts in twins if facts.name == "cifar_resnet20")
    twin = type(row)(**{name: getattr(row, name) for name in row.__slots__} | {"name": "cifar_twin20"})
    monkeypatch.setattr(auto_model, "load_model_table", lambda: (*twins, twin))
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
