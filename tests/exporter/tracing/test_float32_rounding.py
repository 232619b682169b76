"""The error that float32 is expected to make, against float32 sums in other orders and with more digits."""

import numpy as np
import pytest
import torch
from torch import nn

from exporter.errors import ExportCheckError
from exporter.tracing.float32_rounding import UNIT_ROUNDOFF, exact_outputs


def test_values_are_the_modules_in_float64_and_it_stays_as_it_is():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten()).eval()
    images = np.random.default_rng(0).normal(size=(2, 3, 6, 6)).astype(np.float32)
    (found,) = exact_outputs(module, images)
    assert found.values.dtype == np.float64
    assert next(module.parameters()).dtype == torch.float32
    np.testing.assert_allclose(found.values, module(torch.from_numpy(images)).detach(), rtol=0, atol=1e-5)


def test_it_is_the_same_every_time():
    module = nn.Linear(50, 3).eval()
    images = np.ones((1, 50), np.float32)
    first, second = (exact_outputs(module, images)[0].rounding for _ in range(2))
    assert first == second > 0


@pytest.mark.parametrize("mean", [0.0, 1.0], ids=["random signs", "one sign"])
@pytest.mark.parametrize("length", [27, 576, 4608])
def test_sums_in_any_order_stay_within_it_and_it_is_not_wide(length, mean):
    """One term after the other, backwards, shuffled, pairwise and blocked: all in float32, of the same products."""
    generator = np.random.default_rng(length)
    weight = generator.normal(size=(16, length)).astype(np.float32)
    x = (generator.normal(size=length) + mean).astype(np.float32)
    weight = np.abs(weight) if mean else weight
    module = nn.Linear(length, 16, bias=False).eval()
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(weight))
    (found,) = exact_outputs(module, x[np.newaxis])
    products = weight * x
    shuffled = products[:, generator.permutation(length)]
    one_by_one = [
        np.cumsum(order, axis=1, dtype=np.float32)[:, -1] for order in (products, products[:, ::-1], shuffled)
    ]
    blocked = np.add.reduceat(products, np.arange(0, length, 16), axis=1).sum(axis=1)
    sums = [*one_by_one, products.sum(axis=1), blocked]
    errors = [float(np.abs(total - found.values[0]).max()) for total in sums]
    assert max(errors) <= found.rounding
    assert found.rounding <= 100 * max(errors)


def test_cancellation_is_seen():
    """x + c - c in float32 loses as many digits as c is larger than x."""

    class Cancels(nn.Module):
        def forward(self, x):
            return (x + 1024.0) - 1024.0

    images = np.random.default_rng(1).random((1, 3, 4, 4)).astype(np.float32)
    (found,) = exact_outputs(Cancels().eval(), images)
    assert 1024 * UNIT_ROUNDOFF <= found.rounding <= 10 * 1024 * UNIT_ROUNDOFF


class Moves(nn.Module):
    def forward(self, x):
        x = torch.cat([x, x.flip(1)], 1).transpose(1, 2).clamp(-1, 1)
        return nn.functional.max_pool2d(nn.functional.pad(torch.relu(x), (1, 1, 1, 1)), 2).flatten(1)


def test_what_only_moves_values_makes_no_error():
    (found,) = exact_outputs(Moves().eval(), np.random.default_rng(1).normal(size=(2, 3, 8, 8)).astype(np.float32))
    assert found.rounding == 0.0


class Attends(nn.Module):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)

    def forward(self, x):
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        return torch.softmax(nn.functional.gelu(x).mean(1), 1), x.std(1)


def test_attention_norms_and_several_outputs():
    torch.manual_seed(0)
    module = Attends().eval()
    x = np.random.default_rng(0).normal(size=(2, 9, 16)).astype(np.float32)
    found = exact_outputs(module, x)
    with torch.no_grad():
        float32 = [values.numpy() for values in module(torch.from_numpy(x))]
    for output, values in zip(found, float32, strict=True):
        assert np.abs(output.values - values).max() <= output.rounding <= 1e-5


def test_a_module_that_casts_itself_is_told():
    class Casts(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, images):
            return self.fc(images.mean((2, 3)).half().float())

    with pytest.raises(ExportCheckError, match=r"in float64 the module ends in .*; take casts"):
        exact_outputs(Casts().eval(), np.zeros((2, 3, 4, 4), np.float32))
