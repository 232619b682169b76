"""BatchNorm as PyTorch's modules have it, traced and folded on the graph; the algebra alone is test_fold_affine's."""

import copy
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.nn.utils import parametrizations

from exporter.errors import UnstableAnswerError, WeightsError
from exporter.tracing.trace import trace

IMAGES = (2, 3, 8, 8)


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every BatchNorm statistics as training leaves them, with the odd channels that training leaves too."""
    torch.manual_seed(seed)
    for child in module.modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm) and child.running_mean is not None:
            nn.init.normal_(child.running_mean)
            nn.init.uniform_(child.running_var, 0.1, 4.0)
            child.running_var[-1] = 1e-8
            if child.affine:
                nn.init.uniform_(child.weight, -1.5, 1.5)
                nn.init.normal_(child.bias)
                with torch.no_grad():
                    child.weight[0], child.weight[1] = -0.7, 0.0
    return module.eval()


class Net(nn.Module):
    """Children by name and a forward written as a function of module and input."""

    def __init__(self, forward, **children):
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


class SideBySide(nn.Module):
    """Networks that take the same images, their answers one after the other: one trace for all."""

    def __init__(self, networks):
        super().__init__()
        self.nets = nn.ModuleDict(networks)

    def forward(self, x):
        return torch.cat([net(x).flatten(1) for net in self.nets.values()], 1)


def folded(networks):
    """Export the networks; the file's answers are PyTorch's, part by part; return name -> layers or reasons."""
    module = randomised(SideBySide(networks))
    example = torch.zeros(IMAGES)
    model, report = trace(module, example, opset=20)
    x = torch.randn(5, *IMAGES[1:])
    (got,) = ReferenceEvaluator(model).run(None, {"input": x.numpy()})
    with torch.inference_mode():
        parts = [net(x).flatten(1).numpy() for net in module.nets.values()]
    places = np.cumsum([part.shape[1] for part in parts])[:-1]
    for name, expected, part in zip(networks, parts, np.split(got, places, axis=1), strict=True):
        np.testing.assert_allclose(part, expected, rtol=0, atol=1e-5 * max(1, np.abs(expected).max()), err_msg=name)
    return {path.removeprefix("nets."): told for path, told in report.folded}, {
        path.removeprefix("nets."): told for path, told in report.kept
    }


def conv_bn(**children):
    return {"conv": nn.Conv2d(3, 3, 1), "bn": nn.BatchNorm2d(3), **children}


# Folded

CONVOLUTIONS = [
    {"kernel_size": 3},
    {"kernel_size": 3, "padding": 2, "stride": 2},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 1, "groups": 3},
    {"kernel_size": (1, 3), "padding": (0, 1)},
]


def test_convolutions():
    networks = {
        f"{place}_{bias}": nn.Sequential(nn.Conv2d(3, 6, bias=bias, **options), nn.BatchNorm2d(6), nn.ReLU())
        for place, options in enumerate(CONVOLUTIONS)
        for bias in (True, False)
    }
    done, kept = folded(networks)
    assert {name: layer.removesuffix("_1") for name, layer in done.items()} == {  # behind a Pad of the same module
        f"{name}.1": f"nets.{name}.0" for name in networks
    }
    assert kept == {}


class ActivatedBatchNorm(nn.BatchNorm2d):
    def forward(self, x):
        return F.relu(super().forward(x)) * 2


class StandardizedConv(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias)


def tied_convolutions():
    first, second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    second.weight = first.weight
    return Net(lambda net, x: net.bn(net.first(x)) + net.second(x), first=first, second=second, bn=nn.BatchNorm2d(3))


def under_two_names():
    batchnorm = nn.BatchNorm2d(3)
    return Net(
        lambda net, x: net.bn(net.conv(x)), conv=nn.Conv2d(3, 3, 1), bn=batchnorm, all=nn.ModuleList([batchnorm])
    )


def with_hook():
    module = Net(lambda net, x: net.bn(net.conv(x)), **conv_bn())
    module.bn.register_forward_hook(lambda _, __, y: y + 2 * x if (x := y) is not None else y)
    return module


OTHERS = {
    "pointwise and depthwise": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8, padding=1),
        nn.BatchNorm2d(8, affine=False),
        nn.Conv2d(8, 4, 3, groups=2),
        nn.BatchNorm2d(4, eps=1e-3),
    ),
    "linear": lambda: Net(lambda net, x: net.bn(net.fc(x.mean((2, 3)))), fc=nn.Linear(3, 4), bn=nn.BatchNorm1d(4)),
    "linear without bias": lambda: Net(
        lambda net, x: net.bn(net.fc(x.mean((2, 3)))), fc=nn.Linear(3, 4, bias=False), bn=nn.BatchNorm1d(4)
    ),
    "one axis": lambda: Net(lambda net, x: net.bn(net.conv(x.mean(3))), conv=nn.Conv1d(3, 4, 3), bn=nn.BatchNorm1d(4)),
    "three axes": lambda: Net(
        lambda net, x: net.bn(net.conv(torch.stack([x, 2 * x], 2))), conv=nn.Conv3d(3, 4, 2), bn=nn.BatchNorm3d(4)
    ),
    "of several processes": lambda: nn.Sequential(nn.Conv2d(3, 4, 2), nn.SyncBatchNorm(4)),
    "called twice": lambda: Net(
        lambda net, x: net.bn(net.a(x)) + net.bn(net.b(x)),
        a=nn.Conv2d(3, 3, 1),
        b=nn.Conv2d(3, 3, 1),
        bn=nn.BatchNorm2d(3),
    ),
    "under two names": under_two_names,
    "convolution called twice": lambda: Net(lambda net, x: net.bn(net.conv(net.conv(x))), **conv_bn()),
    "weight of two convolutions": tied_convolutions,
    "weight used elsewhere": lambda: Net(lambda net, x: net.bn(net.conv(x)) + net.conv.weight.sum(), **conv_bn()),
    "bias used elsewhere": lambda: Net(lambda net, x: net.bn(net.conv(x)) + net.conv.bias.sum(), **conv_bn()),
    "weight used by a function": lambda: Net(lambda net, x: net.bn(F.conv2d(x, net.conv.weight)), **conv_bn()),
    "weight standardised": lambda: Net(lambda net, x: net.bn(net.conv(x)), **conv_bn(conv=StandardizedConv(3, 3, 1))),
    "weight normalized": lambda: Net(
        lambda net, x: net.bn(net.conv(x)), **conv_bn(conv=parametrizations.weight_norm(nn.Conv2d(3, 3, 1)))
    ),
    "with an activation": lambda: Net(lambda net, x: net.bn(net.conv(x)), **conv_bn(bn=ActivatedBatchNorm(3))),
    "with a hook": with_hook,
    "as a function": lambda: Net(
        lambda net, x: F.batch_norm(net.conv(x), net.bn.running_mean, net.bn.running_var, net.bn.weight), **conv_bn()
    ),
    "before the convolution": lambda: Net(lambda net, x: net.conv(F.relu(x) - net.bn(x)), **conv_bn()),
}
"""All folded but the last."""


def test_whatever_makes_a_constant_weight():
    torch.manual_seed(0)
    networks = {name.replace(" ", "_"): build() for name, build in OTHERS.items()}
    done, kept = folded(networks)
    assert list(kept) == ["before_the_convolution.bn"]
    assert {name.partition(".")[0] for name in done} == networks.keys() - {"before_the_convolution"}
    assert done["called_twice.bn"], done["called_twice.bn_1"] == ("nets.called_twice.a", "nets.called_twice.b")


def test_batchnorm_with_activation():
    timm_layers = pytest.importorskip("timm.layers", reason="timm is not installed")
    cases = ({}, {"apply_act": False}, {"act_layer": "silu"}, {"drop_layer": nn.Dropout2d})
    networks = {
        str(place): nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False), timm_layers.BatchNormAct2d(6, **options), nn.Conv2d(6, 4, 1)
        )
        for place, options in enumerate(cases)
    }
    done, kept = folded(networks)
    assert done == {f"{place}.1": f"nets.{place}.0" for place in range(len(cases))}
    assert kept == {}


def test_the_module_is_unchanged():
    module = randomised(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(8, 2)))
    before = copy.deepcopy(module.state_dict())
    trace(module, torch.zeros(IMAGES), opset=20)
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert type(module[1]) is nn.BatchNorm2d


def test_folding_is_computed_in_float64():
    # (1 + e)^2 - 1 - 2e = e^2, which is lost where the square is rounded to 24 bits: e^2 = 2^-24.
    step = 2.0**-12
    # eps is too small to count beside a variance of 1, and above 0, as torch 2.10's export demands
    module = nn.Sequential(nn.Conv2d(1, 1, 1, bias=True), nn.BatchNorm2d(1, eps=1e-30)).eval()
    with torch.no_grad():
        module[0].bias.fill_(1 + step)
        module[1].weight.fill_(1 + step)
        module[1].bias.fill_(-1.0 - 2 * step)
    model = trace(module, torch.zeros(2, 1, 4, 4), opset=20)[0]
    in_float32 = (torch.tensor(1 + step) * torch.tensor(1 + step)) + torch.tensor(-1.0 - 2 * step)
    assert in_float32.item() == 0.0
    (conv,) = model.graph.node
    (bias,) = (numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == conv.input[2])
    assert bias.tolist() == [step**2]


# Kept, with the reason

KEPT = {
    "after an addition": (lambda: Net(lambda net, x: net.bn(net.conv(x) + x), **conv_bn()), "comes from Add"),
    "after a concatenation": (
        lambda: Net(lambda net, x: net.bn(torch.cat([net.conv(x), x], 1)), **conv_bn(bn=nn.BatchNorm2d(6))),
        "comes from Concat",
    ),
    "before a padded convolution": (
        lambda: Net(lambda net, x: net.conv(net.bn(F.relu(x))), **conv_bn(conv=nn.Conv2d(3, 3, 3, padding=1))),
        "comes from Relu.* pads with zeros",
    ),
    "after a transposed convolution": (
        lambda: Net(lambda net, x: net.bn(net.conv(x)), **conv_bn(conv=nn.ConvTranspose2d(3, 3, 2))),
        "comes from ConvTranspose",
    ),
    "after an activation": (lambda: Net(lambda net, x: net.bn(F.relu(net.conv(x))), **conv_bn()), "comes from Relu"),
    "convolution read twice": (
        lambda: Net(lambda net, x: net.bn(y := net.conv(x)) + y, **conv_bn()),
        "output of '.*conv' is also read elsewhere",
    ),
    "on another axis": (
        lambda: Net(lambda net, x: net.bn(net.conv(x.mean(3))), **conv_bn(conv=nn.Linear(8, 3), bn=nn.BatchNorm1d(3))),
        "axis 1 of the output of '.*conv'",
    ),
}


def test_kept_with_the_reason():
    torch.manual_seed(0)
    done, kept = folded({name.replace(" ", "_"): build() for name, (build, _) in KEPT.items()})
    assert done == {}
    assert kept.keys() == {f"{name.replace(' ', '_')}.bn" for name in KEPT}
    for name, (_, reason) in KEPT.items():
        assert re.search(reason, kept[f"{name.replace(' ', '_')}.bn"]), (name, kept)


# Errors


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"'Sequential' is in training mode; call module\.eval"):
        trace(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), torch.zeros(IMAGES), opset=20)


def test_one_batchnorm_in_training_mode_is_refused():
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    module[1].train()
    with pytest.raises(ValueError, match="'1' is in training mode"):
        trace(module, torch.zeros(IMAGES), opset=20)


@pytest.mark.parametrize(("value", "words"), [(float("nan"), "is nan"), (-1.0, "is -1 and eps is 1e-05")])
def test_broken_variance_is_named(value, words):
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    module[1].running_var[1] = value
    with pytest.raises(WeightsError, match=f"folding '1' gives NaN or Inf: its least running variance {words}"):
        trace(module, torch.zeros(IMAGES), opset=20)


def test_broken_mean_is_named():
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    module[1].running_mean[1] = float("inf")
    with pytest.raises(WeightsError, match="folding into '0' gives NaN or Inf in its bias"):
        trace(module, torch.zeros(IMAGES), opset=20)


def by_the_batch(net, x):
    return F.batch_norm(net.conv(x), net.bn.running_mean, net.bn.running_var, net.bn.weight, training=True)


@pytest.mark.parametrize(
    ("module", "named"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), "'1'"),
        (nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4, track_running_stats=False)), "'1'"),
        (nn.Sequential(nn.Conv2d(3, 3, 1), Net(by_the_batch, **conv_bn())), "'1'"),
    ],
)
def test_statistics_of_the_batch_are_refused_by_name(module, named):
    with pytest.raises(UnstableAnswerError, match=f"^{named} normalizes by the batch"):
        trace(module.eval(), torch.zeros(IMAGES), opset=20)


class ConvOfNormedWeight(nn.Conv2d):
    def forward(self, x):
        weight = F.batch_norm(self.weight.reshape(1, 4, -1), None, None, training=True).reshape(self.weight.shape)
        return F.conv2d(x, weight, self.bias)


def test_batch_norm_may_standardize_a_weight():
    done, kept = folded({"net": nn.Sequential(ConvOfNormedWeight(3, 4, 1), nn.BatchNorm2d(4))})
    assert (list(done), kept) == (["net.1"], {})
