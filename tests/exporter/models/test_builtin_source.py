import pytest
from safetensors.torch import save_file

from exporter.checkpoints.weight_layout import without_values
from exporter.errors import WeightsError
from exporter.models.architecture import CIFAR_PREPROCESSING, IMAGENET_PREPROCESSING
from exporter.models.builtin_source import architecture_for, load
from exporter.models.loaded_model import ModelRequest
from exporter.models.model_names import FAMILIES, OWN
from exporter.networks.cifar_resnet import CifarResNet, ShortcutOption

NAMES = [name for family in FAMILIES.values() if family.source == OWN for name in family.models]


@pytest.mark.parametrize("name", [name for name in NAMES if "1202" not in name and "1001" not in name])
def test_every_name_has_its_network(name):
    architecture = architecture_for(ModelRequest(name, "random"))
    is_imagenet = architecture.num_classes == 1000
    assert is_imagenet == name.startswith(("plain", "preact_resnet18", "preact_resnet50"))
    assert architecture.preprocessing == (IMAGENET_PREPROCESSING if is_imagenet else CIFAR_PREPROCESSING)
    assert without_values(architecture.build, 3).fc.out_features == 3


@pytest.mark.parametrize(("name", "option"), [("cifar_resnet20", "B"), ("resnet20", "B"), ("cifar_resnet20_a", "A")])
def test_shortcut_options_by_name(tmp_path, name, option):
    save_file(CifarResNet(20, shortcut=ShortcutOption(option)).state_dict(), tmp_path / "w.safetensors")
    assert load(ModelRequest(name, str(tmp_path / "w.safetensors"))).num_classes == 10
    with pytest.raises(WeightsError, match=r"do not fit .*MODEL auto finds out which"):
        load(ModelRequest("cifar_resnet20_c", str(tmp_path / "w.safetensors")))


def test_an_alias_takes_a_file_whose_header_has_the_full_name(tmp_path):
    save_file(CifarResNet(20).state_dict(), tmp_path / "w.safetensors", metadata={"model": "cifar_resnet20"})
    assert load(ModelRequest("resnet20", str(tmp_path / "w.safetensors"))).model_id == "cifar_resnet20"


@pytest.mark.parametrize("name", ["plain18", "preact_resnet164"])
def test_nobody_publishes_weights(name):
    with pytest.raises(WeightsError, match=f"{name} has no published weights 'DEFAULT'"):
        load(ModelRequest(name))
