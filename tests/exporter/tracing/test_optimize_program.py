"""Small constants outlive the exporter's optimizer; those that are exactly neutral do not."""

import numpy as np
import onnxruntime as ort
import pytest
import torch
from torch import nn

from exporter.tracing.optimize_program import is_nearly_neutral
from exporter.tracing.trace import trace

SMALL = {
    "added": lambda x: x / (x.sum((2, 3), keepdim=True) + 1e-8),
    "added, much smaller": lambda x: x / (x.sum((2, 3), keepdim=True) + 1e-12),
    "taken off": lambda x: x / (x.sum((2, 3), keepdim=True) - 1e-8),
    "a tensor": lambda x: x / (x.sum((2, 3), keepdim=True) + torch.tensor(1e-8)),
    "under a root": lambda x: x * torch.rsqrt(x.pow(2).mean((1, 2, 3), keepdim=True) + 1e-8),
}


class Net(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function
        self.fc = nn.Linear(3, 4)

    def forward(self, x):
        return self.fc(self.function(x).amax((2, 3)))


def run(model, images, *, level=ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"input": images})[0]


@pytest.mark.parametrize("function", SMALL.values(), ids=SMALL)
def test_a_quotient_of_nothing_stays_finite(function):
    torch.manual_seed(0)
    module = Net(function).eval()
    black = np.zeros((2, 3, 8, 8), np.float32)
    expected = module(torch.from_numpy(black)).detach().numpy()
    assert np.isfinite(expected).all()
    model = trace(module, torch.zeros(2, 3, 8, 8), opset=17)[0]
    for level in (ort.GraphOptimizationLevel.ORT_DISABLE_ALL, ort.GraphOptimizationLevel.ORT_ENABLE_ALL):
        np.testing.assert_allclose(run(model, black, level=level), expected, atol=1e-6)


def test_a_factor_near_one_is_kept_and_one_is_not():
    torch.manual_seed(0)

    class Scaled(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = factor
            self.fc = nn.Linear(3, 4, bias=False)

        def forward(self, x):
            return self.fc((x * self.factor).mean((2, 3)))

    near, exact = (trace(Scaled(factor).eval(), torch.zeros(2, 3, 8, 8), opset=17)[0] for factor in (1 + 9e-6, 1.0))
    assert [node.op_type for node in near.graph.node].count("Mul") == 1
    assert "Mul" not in [node.op_type for node in exact.graph.node]


@pytest.mark.parametrize(
    ("op_type", "constant", "expected"),
    [
        ("Add", 1e-8, True),
        ("Sub", -1e-12, True),
        ("Add", 0.0, False),
        ("Add", 1e-6, False),
        ("Mul", 0.999999, True),
        ("Div", 1.0, False),
        ("Div", 1e-8, False),
    ],
)
def test_what_is_nearly_neutral(op_type, constant, expected):
    assert is_nearly_neutral(op_type, constant) is expected
