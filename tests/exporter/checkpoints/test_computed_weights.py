"""Weights in parts against the modules that store them so."""

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm

from exporter.checkpoints.computed_weights import put_together
from exporter.errors import WeightsError
from exporter.models.load_model import load_model
from exporter.models.loaded_model import ModelRequest
from exporter.networks.cifar_resnet import CifarResNet

IMAGES = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(5))


def pruned(module):
    for child in module.modules():
        if isinstance(child, nn.Conv2d):
            prune.l1_unstructured(child, "weight", 0.3)
    prune.l1_unstructured(module.fc, "bias", 2)


def weight_normalized(module):
    old_weight_norm(module.conv1)
    old_weight_norm(module.fc, dim=None)
    parametrizations.weight_norm(module.layer1[0].conv1)
    parametrizations.weight_norm(module.layer1[0].conv2, dim=1)


def spectral_normalized(module):
    old_spectral_norm(module.fc)
    parametrizations.spectral_norm(module.conv1)
    module(IMAGES)  # in training mode: a step nearer to the largest singular value


@pytest.fixture
def network():
    torch.manual_seed(7)
    return CifarResNet(20)


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize(
    ("change", "note"),
    [
        (pruned, "22 tensors stored in parts (pruned) put together"),
        (weight_normalized, "4 tensors stored in parts (weight_norm) put together"),
        (spectral_normalized, "2 tensors stored in parts (spectral_norm) put together"),
    ],
)
def test_a_checkpoint_in_parts_answers_as_the_module(tmp_path, network, change, note):
    change(network)
    path = tmp_path / "trained.pth"
    torch.save({"state_dict": {f"module.{name}": tensor for name, tensor in network.state_dict().items()}}, path)
    loaded = load_model(ModelRequest("cifar_resnet20", str(path)))
    assert note in loaded.notes
    with torch.no_grad():
        torch.testing.assert_close(loaded.module(IMAGES), network.eval()(IMAGES), rtol=1e-6, atol=1e-6)


def test_auto_knows_a_pruned_network(tmp_path, network):
    pruned(network)
    torch.save(network.state_dict(), tmp_path / "w.pth")
    assert load_model(ModelRequest("auto", str(tmp_path / "w.pth"))).model_id == "cifar_resnet20"


def test_parts_that_the_network_has_itself_are_left():
    parts = {"net.fc.weight_g": torch.ones(4, 1), "net.fc.weight_v": torch.randn(4, 8)}
    same, notes = put_together(parts, ["fc.weight_g", "fc.weight_v"])
    assert (same, notes) == (parts, ())
    assert list(put_together(parts, ["fc.weight"])[0]) == ["net.fc.weight"]


@pytest.mark.parametrize(
    "parts",
    [
        {"a.weight_orig": torch.ones(2, 3), "a.weight_mask": torch.ones(2, 4)},
        {"a.weight_orig": torch.ones(2, 3)},
        {"a.weight_g": torch.ones(3, 1), "a.weight_v": torch.ones(2, 3)},
        {"a.weight_g": torch.ones(2, 2), "a.weight_v": torch.ones(2, 2)},
        {"a.weight_g": torch.ones(2, 1, dtype=torch.int64), "a.weight_v": torch.ones(2, 3)},
        {"a.weight_g": torch.ones(()), "a.weight_v": torch.ones(())},
        {"a.weight_orig": torch.ones(2, 3), "a.weight_u": torch.ones(3), "a.weight_v": torch.ones(3)},
        {"a.weight": torch.ones(2), "a.weight_orig": torch.ones(2), "a.weight_mask": torch.ones(2)},
        {"a.parametrizations.weight.original": torch.ones(2, 3)},
        {"_orig": torch.ones(2), "_mask": torch.ones(2)},
    ],
)
def test_what_does_not_fit_together_is_left(parts):
    assert put_together(parts) == (parts, ())


def test_a_mask_that_is_missing_is_named(tmp_path, network):
    pruned(network)
    weights = {name: tensor for name, tensor in network.state_dict().items() if name != "conv1.weight_mask"}
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"missing from the file: conv1.weight; unexpected .* conv1.weight_orig"):
        load_model(ModelRequest("cifar_resnet20", str(tmp_path / "w.pth")))
