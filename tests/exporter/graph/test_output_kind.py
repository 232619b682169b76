"""What a graph gives is read off its end, in any opset and spelling; a Softmax inside says nothing."""

import numpy as np
import pytest
import torch
from graph_builder import GraphBuilder
from torch import nn

from exporter.graph.output_kind import ends_in_softmax, output_kind
from exporter.passes.float16 import float16_from_float32
from exporter.tracing.trace import trace
from runtimes.metrics.answer_kind import AnswerKind


def plain(graph, x):
    return x


def softmax(graph, x):
    return graph.node("Softmax", "end", x, axis=1)


def softmax_behind_identity(graph, x):
    return graph.node("Identity", "same", graph.node("Softmax", "end", x, axis=-1))


def log_softmax(graph, x):
    return graph.node("LogSoftmax", "end", x, axis=1)


def sigmoid(graph, x):
    return graph.node("Sigmoid", "end", x)


def spelled_out(graph, x):
    powers = graph.node("Exp", "exp", x)
    total = graph.node("ReduceSum", "sum", powers, graph.constant("axes", [1]), keepdims=1)
    return graph.node("Div", "end", powers, total)


def power_of_the_logarithm(graph, x):
    return graph.node("Exp", "end", graph.node("LogSoftmax", "log", x, axis=1))


def logarithm_of_the_power(graph, x):
    return graph.node("Log", "end", graph.node("Softmax", "soft", x, axis=1))


def over_the_batch(graph, x):
    return graph.node("Softmax", "end", x, axis=0)


def weighted(graph, x):
    return graph.node(
        "Mul", "end", graph.node("Softmax", "soft", x, axis=1), graph.constant("w", np.float32([1, 2, 3, 4]))
    )


ENDS = {
    plain: AnswerKind.LOGITS,
    softmax: AnswerKind.PROBABILITIES,
    softmax_behind_identity: AnswerKind.PROBABILITIES,
    log_softmax: AnswerKind.LOG_PROBABILITIES,
    sigmoid: AnswerKind.INDEPENDENT,
    spelled_out: AnswerKind.PROBABILITIES,
    power_of_the_logarithm: AnswerKind.PROBABILITIES,
    logarithm_of_the_power: AnswerKind.LOG_PROBABILITIES,
    over_the_batch: AnswerKind.LOGITS,
    weighted: AnswerKind.LOGITS,
}


def model_of(build, *, opset=17):
    graph = GraphBuilder(channels=3)
    return graph.model(build(graph, graph.gemm("fc", graph.conv("conv", "input", 6), 4)), opset=opset)


@pytest.mark.parametrize("build", ENDS, ids=lambda build: build.__name__)
def test_the_end_of_a_graph(build):
    model = model_of(build)
    assert output_kind(model) is ENDS[build]
    assert output_kind(float16_from_float32(model).model) is ENDS[build], "a Cast follows"
    assert ends_in_softmax(model.graph) is (build in (softmax, softmax_behind_identity, over_the_batch))


def test_a_softmax_over_channels_before_the_axes_go():
    graph = GraphBuilder(channels=3)
    pooled = graph.node("GlobalAveragePool", "pool", graph.conv("conv", "input", 4))
    ends = {1: AnswerKind.PROBABILITIES, 3: AnswerKind.LOGITS}
    for axis, kind in ends.items():
        soft = graph.node("Softmax", f"soft{axis}", pooled, axis=axis)
        assert output_kind(graph.model(graph.node("Flatten", f"flat{axis}", soft, axis=1))) is kind


class Called(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.fc, self.function = nn.Linear(3, 4), function

    def forward(self, x):
        return self.function(self.fc(x.mean((2, 3))))


@pytest.mark.parametrize(
    ("function", "kind"),
    [
        (nn.Softmax(1), AnswerKind.PROBABILITIES),
        (lambda x: x.softmax(-1), AnswerKind.PROBABILITIES),
        (nn.LogSoftmax(-1), AnswerKind.LOG_PROBABILITIES),
        (torch.sigmoid, AnswerKind.INDEPENDENT),
        (lambda x: x, AnswerKind.LOGITS),
    ],
)
def test_modules_as_pytorch_exports_them(function, kind):
    assert output_kind(trace(Called(function).eval(), torch.zeros(2, 3, 8, 8), opset=17)[0]) is kind
