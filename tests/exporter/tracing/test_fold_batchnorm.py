import copy
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from exporter.errors import ExportError, WeightsError
from exporter.tracing.fold_batchnorm import FoldedBatchNorm, fold_batchnorm, folded_weight_and_bias

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


def assert_same_answers(module, shape=IMAGES, *, num_folded, dtype=torch.float64):
    """Fold in `dtype`; the answers stay the same to 1e-12 of the largest (1e-5 in float32)."""
    module = randomised(module).to(dtype)
    x = torch.randn(5, *shape[1:], dtype=dtype)
    folded, report = fold_batchnorm(module, torch.zeros(shape, dtype=dtype))
    assert len(report.folded) == num_folded
    with torch.inference_mode():
        expected, got = module(x), folded(x)
    tolerance = (1e-12 if dtype == torch.float64 else 1e-5) * expected.abs().max().item()
    torch.testing.assert_close(got, expected, rtol=0, atol=tolerance)
    return folded, report


def num_batchnorms(module):
    return sum(isinstance(child, nn.modules.batchnorm._BatchNorm) for child in module.modules())


class Net(nn.Module):
    """Children by name and a forward written as a function of module and input."""

    def __init__(self, forward, **children):
        super().__init__()
        for name, child in children.items():
            setattr(self, name, child)
        self._forward = forward

    def forward(self, x):
        return self._forward(self, x)


# By hand


def test_formula_by_hand():
    weight, bias = folded_weight_and_bias(
        torch.tensor([[2.0, -4.0], [1.0, 1.0]]),
        torch.tensor([3.0, 0.0]),
        gamma=torch.tensor([10.0, -1.0]),
        beta=torch.tensor([7.0, 0.5]),
        mean=torch.tensor([1.0, 2.0]),
        var=torch.tensor([3.0, 0.0]),
        eps=1.0,
    )
    # s = gamma / sqrt(var + eps) = (10 / 2, -1 / 1);  W' = s W;  b' = s (b - mean) + beta
    assert weight.tolist() == [[10.0, -20.0], [-1.0, -1.0]]
    assert bias.tolist() == [5.0 * 2.0 + 7.0, -1.0 * -2.0 + 0.5]
    assert weight.dtype == bias.dtype == torch.float64


def test_formula_without_bias_gamma_and_beta():
    weight, bias = folded_weight_and_bias(
        torch.ones(1, 1, 1, 1), None, gamma=None, beta=None, mean=torch.tensor([6.0]), var=torch.tensor([4.0]), eps=0.0
    )
    assert weight.tolist() == [[[[0.5]]]]
    assert bias.tolist() == [-3.0]


# Folded


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    "layer",
    [
        {"kernel_size": 3},
        {"kernel_size": 3, "padding": 2, "stride": 2},
        {"kernel_size": 3, "padding": "same", "dilation": 2},
        {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
        {"kernel_size": 1, "groups": 3},
        {"kernel_size": (1, 3), "padding": (0, 1)},
    ],
)
def test_convolution(layer, bias):
    module = nn.Sequential(nn.Conv2d(3, 6, bias=bias, **layer), nn.BatchNorm2d(6), nn.ReLU())
    folded, report = assert_same_answers(module, num_folded=1)
    assert report.folded == (FoldedBatchNorm("1", "0"),)
    assert report.kept == ()
    assert type(folded[1]) is nn.Identity


def test_depthwise_grouped_and_pointwise_in_a_row():
    module = nn.Sequential(
        nn.Conv2d(3, 8, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 8, 3, groups=8, padding=1),
        nn.BatchNorm2d(8, affine=False),
        nn.Conv2d(8, 4, 3, groups=2),
        nn.BatchNorm2d(4, eps=1e-3),
    )
    assert_same_answers(module, num_folded=3)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4)), (2, 6)),
        (nn.Sequential(nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4)), (2, 6)),
        (nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (2, 3, 9)),
        (nn.Sequential(nn.Conv3d(3, 4, 2), nn.BatchNorm3d(4)), (2, 3, 4, 4, 4)),
        (nn.Sequential(nn.Conv2d(3, 4, 2), nn.SyncBatchNorm(4)), IMAGES),
    ],
)
def test_other_layers(module, shape):
    assert_same_answers(module, shape, num_folded=1)


def test_residual_block_in_float32():
    def forward(net, x):
        y = F.relu(net.bn1(net.conv1(x)))
        return F.relu(net.bn2(net.conv2(y)) + net.down(x))

    module = Net(
        forward,
        conv1=nn.Conv2d(3, 8, 3, padding=1, bias=False),
        bn1=nn.BatchNorm2d(8),
        conv2=nn.Conv2d(8, 8, 3, padding=1, bias=False),
        bn2=nn.BatchNorm2d(8),
        down=nn.Sequential(nn.Conv2d(3, 8, 1, bias=False), nn.BatchNorm2d(8)),
    )
    folded, report = assert_same_answers(module, num_folded=3, dtype=torch.float32)
    assert set(report.folded) == {
        FoldedBatchNorm("bn1", "conv1"),
        FoldedBatchNorm("bn2", "conv2"),
        FoldedBatchNorm("down.1", "down.0"),
    }
    assert num_batchnorms(folded) == 0
    assert {parameter.dtype for parameter in folded.parameters()} == {torch.float32}


def test_batchnorm_registered_under_two_names_is_gone_from_both():
    batchnorm = nn.BatchNorm2d(4)
    module = Net(
        lambda net, x: net.first(net.conv(x)), conv=nn.Conv2d(3, 4, 1), first=batchnorm, all=nn.ModuleList([batchnorm])
    )
    folded, _ = assert_same_answers(module, num_folded=1)
    assert num_batchnorms(folded) == 0


def test_original_is_unchanged_and_nothing_is_shared():
    module = randomised(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Linear(8, 2)))
    before = copy.deepcopy(module.state_dict())
    parameters = dict(module.named_parameters())
    folded, _ = fold_batchnorm(module, torch.zeros(IMAGES))
    after = module.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter is parameters[name] for name, parameter in module.named_parameters())
    assert type(module[1]) is nn.BatchNorm2d
    assert not any(child.training for child in module.modules())
    with torch.no_grad():
        folded[0].weight.zero_()
        folded[2].weight.zero_()
    assert torch.equal(module[0].weight, before["0.weight"])
    assert torch.equal(module[2].weight, before["2.weight"])


def test_module_without_batchnorm_is_copied():
    module = nn.Sequential(nn.Conv2d(3, 4, 1)).eval()
    folded, report = fold_batchnorm(module, torch.zeros(IMAGES))
    assert folded is not module
    assert report.folded == report.kept == ()
    assert torch.equal(folded[0].weight, module[0].weight)


def test_folding_is_computed_in_float64():
    # (1 + e)^2 - 1 - 2e = e^2, which is lost where the square is rounded to 24 bits: e^2 = 2^-24.
    step = 2.0**-12
    # eps is too small to count beside a variance of 1, and above 0, as torch 2.10's export demands
    module = nn.Sequential(nn.Conv2d(1, 1, 1, bias=True), nn.BatchNorm2d(1, eps=1e-30)).eval()
    with torch.no_grad():
        module[0].bias.fill_(1 + step)
        module[1].weight.fill_(1 + step)
        module[1].bias.fill_(-1.0 - 2 * step)
    folded, _ = fold_batchnorm(module, torch.zeros(2, 1, 4, 4))
    in_float32 = (torch.tensor(1 + step) * torch.tensor(1 + step)) + torch.tensor(-1.0 - 2 * step)
    assert in_float32.item() == 0.0
    assert folded[0].bias.item() == step**2


def test_float64_folding_is_closer_than_float32_folding():
    module = randomised(nn.Sequential(nn.Conv2d(8, 64, 3, bias=False), nn.BatchNorm2d(64)))
    module[1].running_var.uniform_(1e-6, 1e-4)
    conv, batchnorm = module
    exact_scale = batchnorm.weight.double() * (batchnorm.running_var.double() + batchnorm.eps).rsqrt()
    exact = conv.weight.double() * exact_scale[:, None, None, None]
    scale32 = batchnorm.weight * (batchnorm.running_var + batchnorm.eps).rsqrt()
    error32 = (conv.weight * scale32[:, None, None, None] - exact).abs().sum()
    folded, _ = fold_batchnorm(module, torch.zeros(2, 8, 4, 4))
    error64 = (folded[0].weight - exact).abs().sum()
    assert error64 < 0.7 * error32


def test_torchvision_resnet18():
    import torchvision

    torch.manual_seed(0)
    module = randomised(torchvision.models.resnet18())
    folded, report = fold_batchnorm(module, torch.zeros(2, 3, 64, 64))
    assert (len(report.folded), report.kept) == (20, ())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)  # in float32 the order of sums, the processor's, would count
    with torch.inference_mode():
        expected, got = module.double()(x), folded.double()(x)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


# Kept, with the reason


class ActivatedBatchNorm(nn.BatchNorm2d):
    def forward(self, x):
        return F.relu(super().forward(x))


class StandardizedConv(nn.Conv2d):
    def forward(self, x):
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        return F.conv2d(x, weight, self.bias)


def tied_convolutions():
    first, second = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    second.weight = first.weight
    return Net(lambda net, x: net.bn(net.first(x)) + net.second(x), first=first, second=second, bn=nn.BatchNorm2d(3))


def same_convolution_under_two_names():
    conv = nn.Conv2d(3, 3, 1)
    return Net(lambda net, x: net.bn(net.a(x)) + net.b(x), a=conv, b=conv, bn=nn.BatchNorm2d(3))


def conv_bn(**children):
    return {"conv": nn.Conv2d(3, 3, 1), "bn": nn.BatchNorm2d(3), **children}


KEPT = {
    "after an addition": (
        lambda: Net(lambda net, x: net.bn(net.conv(x) + x), **conv_bn()),
        "bn",
        r"comes from aten\.add",
    ),
    "after a concatenation": (
        lambda: Net(lambda net, x: net.bn(torch.cat([net.conv(x), x], 1)), **conv_bn(bn=nn.BatchNorm2d(6))),
        "bn",
        r"comes from aten\.cat",
    ),
    "before the convolution": (
        lambda: Net(lambda net, x: net.conv(F.relu(net.bn(x))), **conv_bn()),
        "bn",
        "comes from x",
    ),
    "after a transposed convolution": (
        lambda: Net(lambda net, x: net.bn(net.conv(x)), **conv_bn(conv=nn.ConvTranspose2d(3, 3, 2))),
        "bn",
        r"comes from aten\.conv_transpose2d",
    ),
    "after an activation": (
        lambda: Net(lambda net, x: net.bn(F.relu(net.conv(x))), **conv_bn()),
        "bn",
        r"comes from aten\.relu",
    ),
    "convolution read twice": (
        lambda: Net(lambda net, x: net.bn(y := net.conv(x)) + y, **conv_bn()),
        "bn",
        "output of conv2d is also read by 1 other",
    ),
    "convolution called twice": (
        lambda: Net(lambda net, x: net.bn(net.conv(net.conv(x))), **conv_bn()),
        "bn",
        "weight of conv is used 2 times",
    ),
    "convolution under two names": (same_convolution_under_two_names, "bn", "weight of a is used 2 times"),
    "weight of two convolutions": (tied_convolutions, "bn", "weight of first is (used 2 times|computed)"),
    "weight used in a list": (
        lambda: Net(lambda net, x: net.bn(net.conv(x)) + torch.stack([net.conv.weight] * 2).sum(), **conv_bn()),
        "bn",
        "weight of conv is used 2 times",
    ),
    "bias used elsewhere": (
        lambda: Net(lambda net, x: net.bn(net.conv(x)) + net.conv.bias.sum(), **conv_bn()),
        "bn",
        "bias of conv is used 2 times",
    ),
    "weight used by a function": (
        lambda: Net(lambda net, x: net.bn(F.conv2d(x, net.conv.weight)), **conv_bn()),
        "bn",
        "computed by a Net, not by a plain layer",
    ),
    "weight standardised": (
        lambda: Net(lambda net, x: net.bn(net.conv(x)), **conv_bn(conv=StandardizedConv(3, 3, 1))),
        "bn",
        "computed by a StandardizedConv",
    ),
    "weight normalized": (
        lambda: Net(
            lambda net, x: net.bn(net.conv(x)), **conv_bn(conv=parametrizations.weight_norm(nn.Conv2d(3, 3, 1)))
        ),
        "bn",
        "computed by a ParametrizedConv2d",
    ),
    "batchnorm with an activation": (
        lambda: Net(lambda net, x: net.bn(net.conv(x)), **conv_bn(bn=ActivatedBatchNorm(3))),
        "bn",
        "ActivatedBatchNorm, which does more than BatchNorm",
    ),
    "batchnorm as a function": (
        lambda: Net(
            lambda net, x: F.batch_norm(net.conv(x), net.bn.running_mean, net.bn.running_var, net.bn.weight),
            **conv_bn(),
        ),
        "batch_norm",
        "computed by a Net, which does more",
    ),
    "axis 1 is not the layer's": (
        lambda: Net(lambda net, x: net.bn(net.conv(x.mean(3))), **conv_bn(conv=nn.Linear(8, 3), bn=nn.BatchNorm1d(3))),
        "bn",
        "output of conv has 3 axes",
    ),
}


@pytest.mark.parametrize("kind", ["register_forward_hook", "register_forward_pre_hook"])
def test_a_batchnorm_with_a_hook_does_more(kind):
    module = Net(lambda net, x: net.bn(net.conv(x)), **conv_bn())
    double = {"register_forward_hook": lambda _, __, y: y * 2, "register_forward_pre_hook": lambda _, x: (x[0] * 2,)}
    getattr(module.bn, kind)(double[kind])
    _, report = assert_same_answers(module, num_folded=0)
    assert len(report.kept) == 1


@pytest.mark.parametrize("case", KEPT)
def test_kept_with_the_reason(case):
    build, batchnorm, reason = KEPT[case]
    torch.manual_seed(0)
    folded, report = assert_same_answers(build(), num_folded=0)
    (kept,) = report.kept
    assert kept.batchnorm == batchnorm
    assert re.search(reason, kept.reason), kept.reason
    assert num_batchnorms(folded) == 1


def test_batchnorm_called_twice_is_kept_both_times():
    module = Net(
        lambda net, x: net.bn(net.a(x)) + net.bn(net.b(x)), a=nn.Conv2d(3, 3, 1), **conv_bn(b=nn.Conv2d(3, 3, 1))
    )
    _, report = assert_same_answers(module, num_folded=0)
    assert [kept.reason for kept in report.kept] == ["it is called 2 times"] * 2


def test_only_the_foldable_ones_are_folded():
    def forward(net, x):
        return net.bn2(F.relu(net.bn1(net.conv(x))) + x)

    module = Net(forward, conv=nn.Conv2d(3, 3, 1), bn1=nn.BatchNorm2d(3), bn2=nn.BatchNorm2d(3))
    folded, report = assert_same_answers(module, num_folded=1)
    assert [kept.batchnorm for kept in report.kept] == ["bn2"]
    assert type(folded.bn1) is nn.Identity
    assert type(folded.bn2) is nn.BatchNorm2d


# Errors


def test_training_mode_is_refused():
    with pytest.raises(ValueError, match=r"'Sequential' is in training mode; call module\.eval"):
        fold_batchnorm(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), torch.zeros(IMAGES))


def test_one_batchnorm_in_training_mode_is_refused():
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    module[1].train()
    with pytest.raises(ValueError, match="'1' is in training mode"):
        fold_batchnorm(module, torch.zeros(IMAGES))


@pytest.mark.parametrize(("value", "words"), [(float("nan"), "is nan"), (-1.0, "is -1 and eps is 1e-05")])
def test_broken_variance_is_named(value, words):
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    module[1].running_var[1] = value
    with pytest.raises(WeightsError, match=f"folding 1 into 0 gives NaN or Inf in its weight; .* of 1 {words}"):
        fold_batchnorm(module, torch.zeros(IMAGES))


def test_broken_mean_is_named():
    module = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    module[1].running_mean[1] = float("inf")
    with pytest.raises(WeightsError, match="folding 1 into 0 gives NaN or Inf in its bias"):
        fold_batchnorm(module, torch.zeros(IMAGES))


@pytest.mark.filterwarnings("ignore")
def test_module_that_cannot_be_traced():
    module = Net(lambda net, x: net.bn(net.conv(x)) if x.sum().item() > 0 else x, **conv_bn()).eval()
    with pytest.raises(ExportError, match=r"torch\.export cannot trace Net"):
        fold_batchnorm(module, torch.zeros(IMAGES))


# timm's BatchNorm with an activation


@pytest.mark.parametrize("options", [{}, {"apply_act": False}, {"act_layer": "silu"}, {"drop_layer": nn.Dropout2d}])
def test_batchnorm_with_activation(options):
    timm_layers = pytest.importorskip("timm.layers", reason="timm is not installed")
    module = nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), timm_layers.BatchNormAct2d(6, **options), nn.Conv2d(6, 4, 1))
    folded, report = assert_same_answers(module, num_folded=1)
    assert report.folded == (FoldedBatchNorm("1", "0"),)
    assert num_batchnorms(folded) == 0
    assert [name for name, _ in folded[1].named_children()] == ["drop", "act"], "names of nodes stay"


def test_a_class_that_only_looks_like_it_is_kept():
    class BatchNormAct2d(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x) * 2

    _, report = assert_same_answers(nn.Sequential(nn.Conv2d(3, 6, 3), BatchNormAct2d(6)), num_folded=0)
    assert "which does more than BatchNorm" in report.kept[0].reason


def test_report_after_tracing_names_what_the_graph_folded():
    """A weight that is computed cannot be folded on the module; on the graph it is a constant."""
    from exporter.tracing.trace import trace_and_fold

    conv = parametrizations.weight_norm(nn.Conv2d(3, 6, 3))
    module = randomised(nn.Sequential(conv, nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(6)))
    module = nn.Sequential(module, nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    folded, report = fold_batchnorm(module, torch.zeros(IMAGES))
    assert len(report.kept) == 2
    _, folds = trace_and_fold(folded, torch.zeros(IMAGES), opset=20)
    final = report.after_tracing(folds)
    assert [pair.batchnorm for pair in final.folded] == ["0.1"]
    assert [kept.batchnorm for kept in final.kept] == ["0.4"]
