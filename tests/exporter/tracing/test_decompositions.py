"""PlainFunctions against PyTorch's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from exporter.tracing.decompositions import PlainFunctions

CALLS = {
    "attention": lambda x: F.scaled_dot_product_attention(x, x * 0.5, x + 1),
    "attention, scaled": lambda x: F.scaled_dot_product_attention(x, x * 0.5, x + 1, scale=0.3),
    "attention, named": lambda x: F.scaled_dot_product_attention(query=x, key=x * 0.5, value=x + 1),
    "attention, masked": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "pool to 1": lambda x: F.adaptive_avg_pool2d(x, 1),
    "pool module": nn.AdaptiveAvgPool2d((1, 1)),
    "pool to its own size": lambda x: F.adaptive_avg_pool2d(x, (6, 8)),
    "pool to another size": lambda x: F.adaptive_avg_pool2d(x, (3, 4)),
    "group norm": nn.GroupNorm(2, 4),
    "group norm, no affine": lambda x: F.group_norm(x, 4),
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


def test_which_calls_are_replaced():
    seen = []

    class Watch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(getattr(func, "__name__", ""))
            return func(*args, **(kwargs or {}))

    with Watch(), PlainFunctions():
        F.scaled_dot_product_attention(*[torch.zeros(1, 1, 2, 2)] * 3)
        F.adaptive_avg_pool2d(torch.zeros(1, 1, 2, 2), 1)
    assert not {"scaled_dot_product_attention", "adaptive_avg_pool2d"} & set(seen)
    assert {"matmul", "softmax", "mean"} <= set(seen)
