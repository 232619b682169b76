"""Pre-activation ResNets against timm's resnetv2, the paper's counts, and by hand."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from exporter.checkpoints.weight_layout import without_values
from exporter.networks.preact_resnet import CifarPreActResNet, PreActResNet, PreActUnit


def count(module, *kinds):
    layers = [layer for layer in module.modules() if isinstance(layer, kinds)] if kinds else [module]
    return sum(parameter.numel() for layer in layers for parameter in layer.parameters())


@pytest.mark.parametrize(("depth", "millions"), [(110, 1.7), (164, 1.7), (1001, 10.2)])
def test_the_papers_parameter_counts(depth, millions):
    """He et al. 2016: 10.2 M at depth 1001 are the weights of convolutions and the classifier, without BatchNorm."""
    module = without_values(lambda _: CifarPreActResNet(depth), 10)
    assert round(count(module, nn.Conv2d, nn.Linear) / 1e6, 1) == millions


def test_number_of_weighted_layers_is_the_depth():
    """Convolutions on the way through the units, the stem and the classifier; projections do not count."""
    for module, depth in (
        (CifarPreActResNet(110), 110),
        (CifarPreActResNet(164), 164),
        (PreActResNet(18), 18),
        (PreActResNet(50), 50),
    ):
        layers = [name for name, layer in module.named_modules() if isinstance(layer, (nn.Conv2d, nn.Linear))]
        assert len([name for name in layers if "downsample" not in name]) == depth


def as_timm_names(name):
    if name.startswith("conv1."):
        return f"stem.{name.replace('conv1', 'conv')}"
    if name.startswith("bn."):
        return name.replace("bn.", "norm.")
    if name.startswith("fc."):
        return f"head.{name}"
    stage, rest = name.removeprefix("layer").split(".", 1)
    unit, rest = rest.split(".", 1)
    rest = rest.replace("bn", "norm").replace("downsample.", "downsample.conv.")
    return f"stages.{int(stage) - 1}.blocks.{unit}.{rest}"


def test_answers_as_timms_resnetv2_50():
    torch.manual_seed(0)
    ours, theirs = PreActResNet(50, 7), timm.create_model("resnetv2_50", num_classes=7)
    assert count(ours) == count(theirs)
    state_dict = {}
    for name, value in ours.state_dict().items():
        if name.endswith(("running_mean", "bias")):
            value.normal_(0, 0.1)
        if name.endswith("running_var"):
            value.uniform_(0.5, 2)
        state_dict[as_timm_names(name)] = value[:, :, None, None] if name == "fc.weight" else value
    theirs.load_state_dict(state_dict)
    x = torch.rand(2, 3, 96, 96)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shares_activation", [True, False])
def test_identity_shortcut_by_hand(shares_activation):
    unit = PreActUnit(4, 4, stride=1, bottleneck=False, shares_activation=shares_activation).eval()
    nn.init.zeros_(unit.conv2.weight)  # the residual branch is 0, so the unit is its shortcut
    unit.bn1.running_mean.fill_(1.0)
    x = torch.randn(2, 4, 5, 5)
    expected = F.relu((x - 1) / (1 + 1e-5) ** 0.5) if shares_activation else x
    torch.testing.assert_close(unit(x), expected)


@pytest.mark.parametrize("bottleneck", [True, False])
def test_projection_starts_from_the_activation_and_strides(bottleneck):
    unit = PreActUnit(4, 8, stride=2, bottleneck=bottleneck, shares_activation=False).eval()
    nn.init.zeros_((unit.conv3 if bottleneck else unit.conv2).weight)
    x = torch.randn(2, 4, 5, 7)
    expected = F.conv2d(F.relu(x / (1 + 1e-5) ** 0.5), unit.downsample.weight, stride=2)
    torch.testing.assert_close(unit(x), expected)


def test_only_the_first_unit_of_all_shares_its_activation_with_an_identity():
    module = CifarPreActResNet(110)
    sharing = [name for name, unit in module.named_modules() if getattr(unit, "shares_activation", False)]
    assert sharing == ["layer1.0", "layer2.0", "layer3.0"]
    assert module.layer1[0].downsample is None


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (1, 1)])
def test_any_size(size):
    with torch.inference_mode():
        assert CifarPreActResNet(110, 3).eval()(torch.rand(2, 3, *size)).shape == (2, 3)


@pytest.mark.parametrize(("kind", "depth"), [(PreActResNet, 34), (CifarPreActResNet, 20)])
def test_other_depths_are_refused(kind, depth):
    with pytest.raises(ValueError, match=f"depth: got {depth}, expected one of"):
        kind(depth)
    with pytest.raises(ValueError, match="num_classes: got 0"):
        kind(50 if kind is PreActResNet else 110, 0)
