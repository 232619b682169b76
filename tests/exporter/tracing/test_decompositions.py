"""PlainFunctions against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional as F

from exporter.tracing.decompositions import PlainFunctions
from exporter.tracing.trace import trace
from runtimes.ort.adapter import OrtRuntime

CALLS = {
    "attention": lambda x: F.scaled_dot_product_attention(x, x * 0.5, x + 1),
    "attention, scaled": lambda x: F.scaled_dot_product_attention(x, x * 0.5, x + 1, scale=0.3),
    "attention, named": lambda x: F.scaled_dot_product_attention(query=x, key=x * 0.5, value=x + 1),
    "attention, masked": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "pool to 1": lambda x: F.adaptive_avg_pool2d(x, 1),
    "pool module": nn.AdaptiveAvgPool2d((1, 1)),
    "pool to its own size": lambda x: F.adaptive_avg_pool2d(x, (6, 8)),
    "largest of uneven windows": lambda x: F.adaptive_max_pool2d(x, (4, 3)),
    "largest of even and uneven windows": lambda x: nn.AdaptiveMaxPool2d((None, 5))(x),
    "pool to another size": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "divisor": lambda x: F.avg_pool2d(x, 3, divisor_override=4),
    "divisor, none": lambda x: F.avg_pool2d(x, 3, 2, 1, False, True, None),
    "divisor, padded": nn.AvgPool2d((3, 2), 2, (1, 0), count_include_pad=False, divisor_override=5),
    "divisor, rounded up": nn.AvgPool2d((2, 3), (3, 4), 1, ceil_mode=True, divisor_override=1),
    "divisor, rounded up far": nn.AvgPool2d(4, 3, 2, ceil_mode=True, divisor_override=7),
    "group norm": nn.GroupNorm(2, 4),
    "group norm, no affine": lambda x: F.group_norm(x, 4),
    "hardtanh in place, read again": lambda x: F.hardtanh(y := x * 1, -0.5, 0.25, True) + y,
    "bounds by name": lambda x: F.hardtanh(y := x * 1, max_val=0.25, inplace=True) + y,
    "relu6": lambda x: F.relu6(x * 9),
    "relu6 module, read again": lambda x: nn.ReLU6(inplace=True)(y := x * 9) + y,
    "hardswish in place": lambda x: F.hardswish(x * 3, inplace=True),
    "hardsigmoid in place": lambda x: F.hardsigmoid(x * 3, True),
    "leaky relu in place": lambda x: F.leaky_relu(x * 3, 0.3, True),
    "rrelu": lambda x: F.rrelu(x, 0.1, 0.5),
    "rrelu in place, read again": lambda x: nn.RReLU(0.1, upper=0.3, inplace=True).eval()(y := x * 3) + y,
    "torch.rrelu": lambda x: torch.rrelu(x),
    "torch.rrelu in place": lambda x: torch.rrelu_(x * 3, 0.2, 0.2),
    "bounds of two types": lambda x: x.clamp(0, 0.25) + torch.clip(x, min=-0.5, max=1) + (x * 1).clamp_(-1, 0.5),
    "elu in place": nn.Sequential(nn.ReflectionPad2d(0), nn.ELU(0.5, inplace=True)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_same_values(call):
    x = torch.randn(2, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    expected = call(x)
    with PlainFunctions():
        got = call(x)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)


def test_attention_on_five_axes():
    """Hiera's windows; torch.onnx takes four axes only."""
    x = torch.randn(2, 1, 3, 5, 4)
    with PlainFunctions():
        got = F.scaled_dot_product_attention(x, x, x)
    torch.testing.assert_close(got, F.scaled_dot_product_attention(x, x, x), rtol=1e-5, atol=1e-6)


def test_uneven_windows_are_traced():
    """torch.onnx, of PyTorch 2.14, ends in "Error when translating node"."""

    class Pooled(nn.Module):
        def forward(self, images):
            return F.adaptive_max_pool2d(images, (3, 2)).mean((2, 3))

    model, _ = trace(Pooled().eval(), torch.zeros(2, 3, 5, 7), opset=17)
    x = torch.randn(2, 3, 5, 7, generator=torch.Generator().manual_seed(0))
    with OrtRuntime(model) as runtime:
        (got,) = runtime.run({"input": x.numpy()}).values()
    assert got == pytest.approx(Pooled()(x).numpy(), rel=1e-6, abs=1e-6)


def test_bounds_of_two_types_are_traced():
    """PyTorch's own way ends in "Cannot find a compatible OpOverload for aten.clamp"."""

    class Clamped(nn.Module):
        def forward(self, images):
            return images.mean((2, 3)).clamp(0, 1.5)

    model, _ = trace(Clamped().eval(), torch.zeros(2, 3, 4, 4), opset=17)
    (clip,) = (node for node in model.graph.node if node.op_type == "Clip")
    bounds = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    assert [bounds[name].tolist() for name in clip.input[1:]] == [0.0, 1.5]


def test_a_random_slope_stays_random_in_training():
    x = -torch.ones(64)
    with PlainFunctions():
        assert len(F.rrelu(x, training=True).unique()) > 1


def test_rrelu_is_traced_as_leaky_relu():
    """torch.onnx has no operator for it: without the plain form it refuses the network."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.RReLU(0.1, 0.3), nn.Flatten(), nn.Linear(4 * 6 * 6, 2)).eval()
    model, _ = trace(module, torch.zeros(2, 3, 8, 8), opset=17, producer_version="0", outputs=("logits",))
    slopes = [node.attribute[0].f for node in model.graph.node if node.op_type == "LeakyRelu"]
    assert slopes == pytest.approx([0.2])


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_a_divisor_of_averages_is_traced(ceil_mode):
    """torch.onnx leaves it out, without a word."""
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AvgPool2d(3, 2, 1, ceil_mode=ceil_mode, divisor_override=4)).eval()
    images = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    model, _ = trace(module, images, opset=17)
    with OrtRuntime(model) as runtime, torch.no_grad():
        answer = torch.from_numpy(runtime.run({"input": images.numpy()})["logits"])
        torch.testing.assert_close(answer, module(images), rtol=1e-5, atol=1e-5)


def test_which_calls_are_replaced():
    seen = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    with Watch(), PlainFunctions():
        F.scaled_dot_product_attention(*[torch.zeros(1, 1, 2, 2)] * 3)
        F.adaptive_avg_pool2d(torch.zeros(1, 1, 2, 2), 1)
        nn.ReLU6(inplace=True)(torch.zeros(1, 1, 2, 2))
        F.leaky_relu(torch.zeros(1, 1, 2, 2), 0.1, True)
    assert not {"scaled_dot_product_attention", "adaptive_avg_pool2d", "hardtanh_", "leaky_relu_"} & set(seen)
    assert {"matmul", "softmax", "mean", "copy_"} <= set(seen)
