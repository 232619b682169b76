"""Programs that are not decomposed by PyTorch: the file is the one that its own decomposition gives, byte for byte.

Where sizes are computed, PyTorch counts on in the names that it makes up; all else is the same.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from block_models import trained
from onnx import ModelProto
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3

from exporter.tracing import plain_program, trace
from exporter.tracing.decompositions import PlainFunctions

OPSET = 20


class Every(nn.Module):
    """Applies functions after a convolution, a head behind them; each function has a BatchNorm of its own."""

    def __init__(self, *functions: Callable[..., Tensor], affine: bool = True) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.functions = functions
        self.norms = nn.ModuleList(nn.BatchNorm2d(8, affine=affine) for _ in functions)

    def forward(self, images: Tensor) -> Tensor:
        x = self.conv(images)
        for function, norm in zip(self.functions, self.norms, strict=True):
            x = function(norm(x), norm)
        return self.head(x.mean((2, 3)))


def layer_norm_last(x: Tensor, _: nn.Module) -> Tensor:
    return F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2)


PLAIN = (
    lambda x, _: F.relu(x, inplace=True),
    lambda x, _: x.relu_() + x,
    lambda x, norm: norm(x).add_(x).relu_(),
    lambda x, norm: norm(x).add_(x, alpha=2.0),
    lambda x, _: F.hardtanh(x, 0.0, 6.0, inplace=True),
    lambda x, _: F.hardswish(x, inplace=True),
    lambda x, _: x * F.hardsigmoid(x),
    lambda x, _: F.silu(x, inplace=True),
    lambda x, norm: norm(x).sigmoid_().mul_(x),
    lambda x, _: F.leaky_relu(x, 0.1, inplace=True),
    lambda x, _: F.elu(x, inplace=True),
    lambda x, _: F.gelu(x),
    lambda x, _: F.dropout(x, 0.5, training=False),
    lambda x, _: F.dropout(x, 0.5, training=False, inplace=True),
    layer_norm_last,
    lambda x, _: torch.cat((x, F.relu(x)), 2),
    lambda x, _: F.avg_pool2d(F.max_pool2d(x, 3, 2, 1), 2),
)


def attention(x: Tensor, _: nn.Module) -> Tensor:
    rows = x.flatten(2).transpose(1, 2)
    queries, values = rows.reshape(x.shape[0], -1, 2, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
    mixed = torch.matmul(torch.softmax(torch.matmul(queries, queries.transpose(-2, -1)), -1), values)
    return x + F.pad(mixed.transpose(1, 2).reshape(x.shape[0], -1, 4).transpose(1, 2), (0, 0, 2, 2)).reshape(x.shape)


def halves(x: Tensor, _: nn.Module) -> Tensor:
    parts = torch.stack(torch.split(x, 4, 1), 1)
    weights = F.softmax(parts.sum((3, 4)).view(-1, 2, 4), 1)
    return F.pad((parts * weights[..., None, None]).sum(1), (0, 0, 0, 0, 2, 2))[:, :, ::1]


SIZED = (
    attention,
    halves,
    lambda x, _: x / (1.0 + x.amax((2, 3), keepdim=True).expand_as(x)),
    lambda x, m: x * m.weight[:1].reshape(()),
    lambda x, _: torch.addcmul(x, x, torch.linalg.vector_norm(x, 2, (2, 3), keepdim=True)),
    lambda x, m: x * F.conv1d(x.mean((2, 3)).view(-1, 1, 8), m.bias[:3].view(1, 1, 3), padding=1).view(-1, 8, 1, 1),
)


class Standardized(nn.Conv2d):
    """A convolution whose weights are standardized at every call, as timm's `StdConv2d`."""

    def forward(self, images: Tensor) -> Tensor:
        flat = self.weight.reshape(1, self.out_channels, -1)
        even = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(self.weight)
        return F.conv2d(images, even, self.bias)


LEFT_TO_PYTORCH = {
    "a view written in place": Every(lambda x, _: x.add_(1.0) if x[:, :4].relu_() is None else x),
    "its view read": Every(lambda x, _: torch.cat((x.flatten(2), x.relu_().flatten(2)), 2).unsqueeze(3)),
    "another type written in place": Every(lambda x, _: x.relu_().add_(torch.ones(8, 1, 1, dtype=torch.float64))),
    "the input written in place": nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(3 * 144, 4)),
    "a multiple of the batch": Every(lambda x, _: x.flatten(0, 1).expand_as(x.flatten(0, 1)).view(-1, 8, 10, 10)),
    "an operator that is not named": Every(lambda x, _: torch.tanh(x)),
}


EXAMPLE = torch.zeros(2, 3, 12, 12)


def both(module: nn.Module, monkeypatch: pytest.MonkeyPatch) -> tuple[ModelProto, ModelProto, bool]:
    """Return the file, the one that PyTorch's decomposition gives, and whether that was spared."""
    module = module.eval()
    captured: list[object] = []

    def noting(*args: object) -> object:
        captured.append(plain_program.capture(*args))
        return captured[-1]

    files = []
    for way in (noting, lambda module, *_: module):
        monkeypatch.setattr(trace, "capture", way)
        files.append(trace.trace(module, EXAMPLE, opset=OPSET)[0])
    return files[0], files[1], isinstance(captured[0], plain_program._Plain)


MODULES = {
    "every operator": lambda: Every(*PLAIN),
    "BatchNorm without affine": lambda: Every(lambda x, _: F.relu(x), affine=False),
    "bottlenecks": lambda: trained("bottleneck"),
    "inverted residuals": lambda: MobileNetV3(
        [InvertedResidualConfig(16, 3, 64, 16, True, kind, 1, 1, 1.0) for kind in ("RE", "HS")], last_channel=32
    ),
}


@pytest.mark.parametrize("name", MODULES)
def test_what_is_named_is_not_decomposed_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own, theirs, is_plain = both(MODULES[name](), monkeypatch)
    assert is_plain
    assert own.SerializeToString(deterministic=True) == theirs.SerializeToString(deterministic=True)


@pytest.mark.parametrize("kind", LEFT_TO_PYTORCH)
def test_what_else_reads_the_memory_is_left_to_pytorch(kind: str) -> None:
    """PyTorch's decomposition goes on from the program as PyTorch captured it, so the file cannot differ."""
    module = LEFT_TO_PYTORCH[kind].eval()
    shapes = trace._dynamic_batch(module)
    with PlainFunctions():
        captured = plain_program.capture(module, EXAMPLE, shapes)
        untouched = torch.export.export(module, (EXAMPLE,), dynamic_shapes=shapes, strict=False)
    assert type(captured) is torch.export.ExportedProgram
    assert str(captured.graph) == str(untouched.graph)


def test_sizes_are_those_that_pytorch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(Standardized(3, 3, 1), Every(*SIZED))
    own, theirs, is_plain = both(module, monkeypatch)
    assert is_plain
    assert numbered(own).SerializeToString(deterministic=True) == numbered(theirs).SerializeToString(deterministic=True)


def numbered(model: ModelProto) -> ModelProto:
    """Return the model with its tensors called by their order, and its nodes by nothing."""
    result = ModelProto.FromString(model.SerializeToString())
    names: dict[str, str] = {"": ""}
    for node in result.graph.node:
        node.name = ""
        for places in (node.input, node.output):
            places[:] = [names.setdefault(name, str(len(names))) for name in places]
    for tensors in (result.graph.input, result.graph.initializer, result.graph.value_info, result.graph.output):
        for tensor in tensors:
            tensor.name = names[tensor.name]
        tensors.sort(key=lambda tensor: int(tensor.name))
    return result
