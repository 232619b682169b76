import pytest
import timm
import torch
import torchvision
from torch import nn

from exporter.models.builtin_source import load
from exporter.models.check_images import load_check_images, load_hard_frames
from exporter.models.load_model import load_model
from exporter.models.loaded_model import ModelRequest
from exporter.models.torchvision_source import load as load_torchvision
from exporter.networks.cifar_resnet import CifarResNet
from exporter.networks.preact_resnet import CifarPreActResNet
from exporter.networks.random_weights import settle_batchnorm, settle_batchnorm_for, switch_on
from exporter.preprocessing.options import PreprocessingOptions


def test_means_and_one_variance_by_hand():
    layer = nn.BatchNorm2d(2).eval()
    images = torch.tensor([[[[1.0, 3.0]], [[0.0, 0.0]]], [[[1.0, 3.0]], [[4.0, 4.0]]]])
    assert settle_batchnorm(layer, images) == 1
    assert layer.running_mean.tolist() == [2, 2]
    unbiased = ((1 + 1 + 1 + 1) / 3 + (4 + 4 + 4 + 4) / 3) / 2
    assert layer.running_var.tolist() == pytest.approx([unbiased] * 2)
    assert not layer.training
    assert layer.momentum == 0.1
    assert int(layer.num_batches_tracked) == 0


def test_a_dead_layer_keeps_variance_one():
    layer = nn.BatchNorm2d(2).eval()
    settle_batchnorm(layer, torch.zeros(2, 2, 3, 3))
    assert layer.running_var.tolist() == [1, 1]


def test_nothing_else_is_in_training_mode():
    module = nn.Sequential(nn.Dropout(1.0), nn.BatchNorm2d(3)).eval()
    settle_batchnorm(module, torch.ones(2, 3, 2, 2) * torch.arange(2.0).reshape(2, 1, 1, 1))
    assert module[1].running_mean.tolist() == [0.5] * 3  # the dropout let all through


@pytest.mark.parametrize("kind", [lambda: CifarResNet(326), lambda: CifarPreActResNet(1001)])
def test_very_deep_networks_overflow_without(kind):
    torch.manual_seed(0)
    module, images = kind().eval(), torch.rand(2, 3, 16, 16)
    with torch.inference_mode():
        assert not module(images).abs().max() < 65504  # or not a number
    settle_batchnorm(module, images)
    with torch.inference_mode():
        assert module(images).abs().max() < 1e3


def test_layers_that_read_more_than_they_were_settled_on_are_settled_in_turn():
    """One loud channel of eight: a pass that divides each channel by its own deviation lets it grow layer by layer."""
    torch.manual_seed(0)
    module = nn.Sequential(*[layer for _ in range(12) for layer in (nn.Conv2d(8, 8, 1), nn.BatchNorm2d(8))]).eval()
    images = torch.rand(2, 8, 8, 8)
    with torch.no_grad():
        for convolution in module[::2]:
            convolution.weight[0] *= 8
            convolution.weight[:, 0] *= 8
    assert settle_batchnorm(module, images) == 12
    assert not any(layer.training or layer._forward_pre_hooks for layer in module)
    with torch.inference_mode():
        for layer in module:
            images = layer(images)
            if isinstance(layer, nn.BatchNorm2d):
                channels = images.transpose(0, 1).flatten(1)
                torch.testing.assert_close(channels.mean(1), torch.zeros(8), rtol=0, atol=1e-4)
                assert float(channels.var(1).mean()) == pytest.approx(1, rel=1e-3)


def test_statistics_fit_pictures_that_they_were_not_taken_from():
    """Settled on two pictures, this one answers with 580 and 1000 on others, float32 0.03 % from float64."""
    options = PreprocessingOptions(input_size=64)
    loaded = load_model(ModelRequest("timm:mixnet_s", "random", preprocessing=options))
    frames = [load_check_images(loaded.preprocessing), load_hard_frames(loaded.preprocessing)]
    with torch.inference_mode():
        for images in map(torch.from_numpy, frames):
            answers = loaded.module(images)
            assert answers.abs().max() < 100
            assert answers.std(0).max() > 1e-4  # and differ from picture to picture


def test_the_first_images_that_will_do_are_taken():
    def network():
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4)).eval()

    dark, bright = torch.rand(2, 1, 4, 4) * 1e-3, torch.rand(2, 1, 4, 4) * 1e3
    alone, first, second = network(), network(), network()
    settle_batchnorm(alone, dark)
    assert settle_batchnorm_for(first, (dark, bright), dark) == 1
    assert torch.equal(first[1].running_var, alone[1].running_var)
    settle_batchnorm_for(second, (dark, torch.cat([dark, bright])), bright)
    with torch.inference_mode():
        assert second(bright).abs().max() < 100 < alone(bright).abs().max()


@pytest.mark.parametrize(("load", "name"), [(load, "cifar_resnet110"), (load_torchvision, "resnet50")])
def test_random_weights_stay_within_float16(load, name):
    module = load(ModelRequest(name, "random", 10)).module
    largest = []
    for layer in module.modules():
        layer.register_forward_hook(lambda layer, inputs, output: largest.append(float(output.abs().max())))
    with torch.inference_mode():
        module(torch.rand(2, 3, 64, 64))
    assert max(largest) < 65504


def test_weights_that_begin_at_zero_are_drawn():
    module = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.LayerNorm(2), nn.Linear(2, 2))
    for layer in list(module)[:3]:
        nn.init.zeros_(layer.weight)
    kept = module[3].weight.clone()
    assert switch_on(module, 1) == ["0.weight", "1.weight", "2.weight"]
    assert module[0].weight.abs().max() > 0
    assert module[1].weight.tolist() == module[2].weight.tolist() == [1, 1]
    assert torch.equal(module[3].weight, kept)
    assert switch_on(module, 1) == []


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: timm.create_model("resnet10t"), "layer1.0.bn2.weight"),
        (lambda: timm.create_model("hiera_tiny_224"), "head.fc.weight"),
        (lambda: timm.create_model("convnextv2_atto"), "stages.0.blocks.0.mlp.grn.weight"),
        (torchvision.models.convnext_tiny, "features.1.0.layer_scale"),
    ],
)
def test_libraries_begin_with_layers_switched_off(build, name):
    module = build()
    assert name in switch_on(module, 0)
    assert dict(module.named_parameters())[name].abs().max() > 1e-3


def test_drawing_is_seeded_and_leaves_the_callers_random_state():
    torch.manual_seed(3)
    expected = torch.rand(1)
    first, second = (nn.Linear(3, 2) for _ in range(2))
    for layer in (first, second):
        nn.init.zeros_(layer.weight)
    torch.manual_seed(3)
    switch_on(first, 5)
    switch_on(second, 5)
    assert torch.equal(torch.rand(1), expected)
    assert torch.equal(first.weight, second.weight)


@pytest.mark.parametrize("name", ["cifar_resnet110_a", "preact_resnet110"])
def test_a_deep_random_network_does_not_amplify_rounding(name):
    """float32 against float64: an export can only be as near to PyTorch as PyTorch is to itself."""
    module = load(ModelRequest(name, "random")).module
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        single = module(images).double()
        double = module.double()(images.double())
    assert (single - double).abs().max() < 2e-6 * double.abs().max()
