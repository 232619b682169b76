"""A picture has one answer, whatever stands beside it."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from exporter.errors import UnstableAnswerError
from exporter.tracing.check_export import all_tensors
from exporter.tracing.check_rows import check_rows_are_independent
from exporter.tracing.float32_rounding import exact_outputs
from exporter.tracing.trace import trace
from runtimes.ort.adapter import OrtRuntime
from runtimes.pytorch import TorchRuntime


class Net(nn.Module):
    def __init__(self, between):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.between, self.fc = nn.Conv2d(3, 8, 3, padding=1), between, nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.between(F.relu(self.conv(x))).mean((2, 3)))


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def tensors_of(model):
    return partial(all_tensors, model, open_runtime=OrtRuntime)


def check(module):
    module = module.eval()
    model = trace(module, torch.zeros(2, 3, 16, 16), opset=17)[0]
    images = np.random.default_rng(0).normal(size=(4, 3, 16, 16)).astype(np.float32)
    with TorchRuntime(module) as reference:
        check_rows_are_independent(reference, images, tensors=tensors_of(model), exact=partial(exact_outputs, module))


INDEPENDENT = {
    "plain": nn.Identity(),
    "instance": nn.InstanceNorm2d(8),
    "group": nn.GroupNorm(2, 8),
    "of the picture": Function(lambda x: x - x.mean((1, 2, 3), keepdim=True)),
}


@pytest.mark.parametrize("between", INDEPENDENT.values(), ids=INDEPENDENT)
def test_what_looks_at_its_own_picture_passes(between):
    check(Net(between))


DEPENDENT = {
    "mean of the batch": Function(lambda x: x - x.mean(0, keepdim=True)),
    "largest of the batch": Function(lambda x: x / x.amax((0, 1, 2, 3))),
}


@pytest.mark.parametrize("between", DEPENDENT.values(), ids=DEPENDENT)
def test_what_looks_at_its_neighbours_is_refused(between):
    with pytest.raises(UnstableAnswerError, match=r"depends on the other pictures of its batch, first in '\w+"):
        check(Net(between))


def test_chance_is_refused():
    class Drawn:
        def __init__(self):
            self.input_specs = {"input": None}
            self.output_specs = {"logits": None}

        def run(self, inputs):
            return {"logits": np.random.default_rng().normal(size=(len(inputs["input"]), 5)).astype(np.float32)}

    model = trace(Net(nn.Identity()).eval(), torch.zeros(2, 3, 16, 16), opset=17)[0]
    with pytest.raises(UnstableAnswerError, match="gives two answers for one picture"):
        check_rows_are_independent(Drawn(), np.zeros((1, 3, 16, 16), np.float32), tensors=tensors_of(model))
