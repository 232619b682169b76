import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from exporter.checkpoints.weight_layout import without_values
from exporter.networks.cifar_resnet import CifarResNet, ShortcutOption, ZeroPadShortcut, blocks_per_stage


def parameters_by_hand(depth: int, num_classes: int) -> int:
    """Weights of 3x3 convolutions are 9 * in * out, of a BatchNorm 2 * channels, of a projection in * out."""
    n = (depth - 2) // 6
    stem = 9 * 3 * 16 + 2 * 16
    stages = sum(n * (2 * 9 * width * width + 4 * width) for width in (16, 32, 64))
    narrower_inputs = sum(9 * width * width - 9 * (width // 2) * width for width in (32, 64))
    projections = sum((width // 2) * width + 2 * width for width in (32, 64))
    return stem + stages - narrower_inputs + projections + 64 * num_classes + num_classes


def count_parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("depth", "documented"), [(20, 272_474), (32, 466_906), (44, 661_338), (56, 855_770), (110, 1_730_714)]
)
def test_parameter_count_is_the_documented_one(depth, documented):
    assert count_parameters(CifarResNet(depth)) == parameters_by_hand(depth, 10) == documented


def test_parameter_count_of_the_deepest_without_allocating_it():
    module = without_values(lambda classes: CifarResNet(1202, num_classes=classes), 10)
    assert {parameter.device.type for parameter in module.parameters()} == {"meta"}
    assert count_parameters(module) == parameters_by_hand(1202, 10) == 19_424_026


def test_num_classes_sets_the_rows_of_fc():
    model = CifarResNet(20, num_classes=100)
    assert model.fc.weight.shape == (100, 64)
    assert count_parameters(model) == parameters_by_hand(20, 100)


@pytest.mark.parametrize("depth", [-4, 0, 2, 18, 21, 52])
def test_other_depths_are_refused(depth):
    with pytest.raises(ValueError, match=rf"got {depth}, expected 6n \+ 2 .* 20, 32, 44, 56, 110, 1202"):
        CifarResNet(depth)


def test_no_classes_are_refused():
    with pytest.raises(ValueError, match="num_classes: got 0"):
        CifarResNet(20, num_classes=0)


@pytest.mark.parametrize(("depth", "blocks"), [(8, 1), (20, 3), (56, 9), (1202, 200)])
def test_blocks_per_stage(depth, blocks):
    assert blocks_per_stage(depth) == blocks


@pytest.mark.parametrize("size", [(32, 32), (33, 47), (8, 8), (1, 1), (64, 32)])
def test_logits_for_any_size(size):
    with torch.inference_mode():
        assert CifarResNet(20).eval()(torch.rand(2, 3, *size)).shape == (2, 10)


def test_feature_map_is_a_quarter_of_the_input():
    model = CifarResNet(8).eval()
    shapes = []
    model.layer3.register_forward_hook(lambda module, inputs, output: shapes.append(tuple(output.shape)))
    with torch.inference_mode():
        model(torch.rand(1, 3, 32, 32))
    assert shapes == [(1, 64, 8, 8)]


def test_modules_are_named_as_torchvision_names_them():
    from torchvision.models import resnet18

    theirs = {name for name in resnet18().state_dict() if not name.startswith("layer4")}
    ours = set(CifarResNet(14).state_dict())
    assert ours == theirs  # two blocks per stage in both


def test_only_shape_changes_have_a_projection():
    model = CifarResNet(20)
    projected = [name for name, module in model.named_modules() if name.endswith("downsample") and module]
    assert projected == ["layer2.0.downsample", "layer3.0.downsample"]


def test_convolutions_start_with_he_spread():
    torch.manual_seed(0)
    weight = CifarResNet(20).layer3[1].conv1.weight
    assert weight.std().item() == pytest.approx((2 / (9 * 64)) ** 0.5, rel=0.02)
    assert abs(weight.mean().item()) < 0.002


def test_block_adds_the_shortcut_before_the_last_relu():
    block = CifarResNet(8).eval().layer1[0]
    nn.init.zeros_(block.bn2.weight)  # the residual branch is 0, so the block is relu(x)
    x = torch.tensor([-1.0, 2.0]).reshape(1, 1, 1, 2).expand(1, 16, 1, 2)
    torch.testing.assert_close(block(x), x.relu())


@pytest.mark.parametrize("way", ["fx", "export"])
def test_traced_graph_answers_as_the_module(way):
    torch.manual_seed(1)
    model = CifarResNet(8).eval()
    x = torch.rand(3, 3, 32, 32)
    if way == "fx":
        traced = fx.symbolic_trace(model)
    else:
        batch = torch.export.Dim("batch")
        traced = torch.export.export(model, (x[:2],), dynamic_shapes=({0: batch},)).module()
    with torch.inference_mode():
        torch.testing.assert_close(traced(x), model(x), rtol=0, atol=1e-6)


# Shortcut options

# Of He et al. 2015, table 6, in millions.
PUBLISHED = {20: 0.27, 32: 0.46, 44: 0.66, 56: 0.85, 110: 1.7, 1202: 19.4}


@pytest.mark.parametrize("depth", PUBLISHED)
def test_option_a_has_the_papers_parameter_count(depth):
    count = count_parameters(without_values(lambda _: CifarResNet(depth, shortcut=ShortcutOption.A), 10))
    digits = 1 if depth >= 110 else 2
    assert round(count / 1e6, digits) == PUBLISHED[depth]
    assert count == parameters_by_hand(depth, 10) - 2752


@pytest.mark.parametrize("depth", [20, 110])
def test_option_c_projects_every_block(depth):
    n = (depth - 2) // 6
    model = CifarResNet(depth, shortcut=ShortcutOption.C)
    identities = sum((n - (width > 16)) * (width * width + 2 * width) for width in (16, 32, 64))
    assert count_parameters(model) == parameters_by_hand(depth, 10) + identities
    assert all(block.downsample is not None for stage in (model.layer1, model.layer2, model.layer3) for block in stage)


def test_option_a_is_that_of_the_checkpoints_in_use():
    """akamaster/pytorch_resnet_cifar10, resnet.py: `planes // 4` channels of zeros on both sides."""
    x = torch.rand(2, 16, 9, 8)
    expected = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 32 // 4, 32 // 4), "constant", 0)
    assert torch.equal(ZeroPadShortcut(16, 32, stride=2)(x), expected)


def test_option_a_only_pads_where_the_shape_changes():
    model = CifarResNet(20, shortcut=ShortcutOption.A)
    padded = [name for name, module in model.named_modules() if isinstance(module, ZeroPadShortcut)]
    assert padded == ["layer2.0.downsample", "layer3.0.downsample"]
    assert not any("downsample" in name for name in model.state_dict())


@pytest.mark.parametrize("option", ShortcutOption)
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (1, 1)])
def test_every_option_takes_any_size(option, size):
    with torch.inference_mode():
        assert CifarResNet(8, shortcut=option).eval()(torch.rand(2, 3, *size)).shape == (2, 10)
