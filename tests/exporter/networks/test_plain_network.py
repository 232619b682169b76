import pytest
import torch
import torch.nn.functional as F
import torchvision

from exporter.networks.plain_network import PlainNetwork

# torchvision's published counts less the projections that a plain network lacks: three of 1x1 and BatchNorm.
PROJECTIONS = sum(width * 2 * width + 2 * 2 * width for width in (64, 128, 256))


@pytest.mark.parametrize(("depth", "published"), [(18, 11_689_512), (34, 21_797_672)])
def test_parameters_are_a_resnets_less_its_shortcuts(depth, published):
    with torch.device("meta"):
        count = sum(parameter.numel() for parameter in PlainNetwork(depth).parameters())
    assert count == published - PROJECTIONS


@pytest.mark.parametrize(("depth", "arch"), [(18, "resnet18"), (34, "resnet34")])
def test_answers_as_torchvisions_layers_without_the_addition(depth, arch):
    torch.manual_seed(0)
    plain = PlainNetwork(depth, 5).eval()
    resnet = torchvision.models.get_model(arch, num_classes=5).eval()
    missing = resnet.load_state_dict(plain.state_dict(), strict=False)
    assert all("downsample" in name for name in missing.missing_keys)
    assert not missing.unexpected_keys
    x = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        y = resnet.maxpool(F.relu(resnet.bn1(resnet.conv1(x))))
        for stage in (resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4):
            for block in stage:
                y = F.relu(block.bn2(block.conv2(F.relu(block.bn1(block.conv1(y))))))
        expected = resnet.fc(y.mean((2, 3)))
        torch.testing.assert_close(plain(x), expected, rtol=1e-5, atol=1e-6)


def test_other_depths_are_refused():
    with pytest.raises(ValueError, match=r"depth: got 50, expected one of \[18, 34\]"):
        PlainNetwork(50)
    with pytest.raises(ValueError, match="num_classes: got 0"):
        PlainNetwork(18, 0)
