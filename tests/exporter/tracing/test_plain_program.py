"""Programs that are not decomposed by PyTorch: the file is the one that its own decomposition gives, byte for byte."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from exporter.tracing import plain_program, trace

OPSET = 20


class Every(nn.Module):
    """Applies a function after a convolution of its own, a head behind it."""

    def __init__(self, function: Callable[..., Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 4)
        self.function, self.others = function, nn.ModuleList(modules)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.function(self.conv(images), *self.others).mean((2, 3)))


def layer_norm_last(x: Tensor, norm: nn.Module) -> Tensor:
    return norm(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


PLAIN = {
    "batch_norm": Every(lambda x, norm: norm(x), nn.BatchNorm2d(8)),
    "batch_norm without affine": Every(lambda x, norm: norm(x), nn.BatchNorm2d(8, affine=False)),
    "relu_": Every(lambda x: F.relu(x, inplace=True)),
    "relu_, then read by both names": Every(lambda x: x.relu_() + x),
    "add_ of a branch": Every(lambda x, norm: norm(x).add_(x).relu_(), nn.BatchNorm2d(8)),
    "add_ with alpha": Every(lambda x, norm: norm(x).add_(x, alpha=2.0), nn.BatchNorm2d(8)),
    "hardtanh in place": Every(lambda x: F.hardtanh(x, 0.0, 6.0, inplace=True)),
    "hardswish in place": Every(lambda x: F.hardswish(x, inplace=True)),
    "hardsigmoid and mul": Every(lambda x: x * F.hardsigmoid(x)),
    "silu in place": Every(lambda x: F.silu(x, inplace=True)),
    "sigmoid_ and mul_": Every(lambda x, conv: conv(x).sigmoid_().mul_(x), nn.Conv2d(8, 8, 1)),
    "leaky_relu in place": Every(lambda x: F.leaky_relu(x, 0.1, inplace=True)),
    "elu in place": Every(lambda x: F.elu(x, inplace=True)),
    "gelu": Every(F.gelu),
    "pools": Every(lambda x: F.avg_pool2d(F.max_pool2d(x, 3, 2, 1), 2)),
    "cat": Every(lambda x: torch.cat((x, F.relu(x)), 2)),
    "dropout": Every(lambda x, drop: drop(x), nn.Dropout(0.5)),
    "dropout in place": Every(lambda x, drop: drop(x), nn.Dropout(0.5, inplace=True)),
    "layer_norm": Every(layer_norm_last, nn.LayerNorm(8)),
    "scaled by a parameter": Every(lambda x, norm: x * norm.weight.reshape(1, -1, 1, 1), nn.BatchNorm2d(8)),
}

LEFT_TO_PYTORCH = {
    "a view written in place": Every(lambda x: x.add_(1.0) if x[:, :4].relu_() is None else x),
    "its view read": Every(lambda x: torch.cat((x.flatten(2), x.relu_().flatten(2)), 2).unsqueeze(3)),
    "another type written in place": Every(lambda x: x.relu_().add_(torch.ones(8, 1, 1, dtype=torch.float64))),
    "the input written in place": nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(3 * 144, 4)),
    "an operator that is not named": Every(torch.tanh),
}


def both(module: nn.Module, monkeypatch: pytest.MonkeyPatch, size: int = 12) -> tuple[bytes, bytes, bool]:
    """Return the file, the one that PyTorch's decomposition gives, and whether that was spared."""
    module = module.eval()
    example = torch.zeros(2, 3, size, size)
    captured: list[object] = []

    def noting(*args: object) -> object:
        captured.append(plain_program.capture(*args))
        return captured[-1]

    files = []
    for way in (noting, lambda module, *_: module):
        monkeypatch.setattr(trace, "capture", way)
        files.append(trace.trace(module, example, opset=OPSET)[0].SerializeToString(deterministic=True))
    return files[0], files[1], isinstance(captured[0], plain_program._Plain)


@pytest.mark.parametrize("kind", PLAIN)
def test_what_is_named_is_not_decomposed_again(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own, theirs, is_plain = both(PLAIN[kind], monkeypatch)
    assert is_plain
    assert own == theirs


@pytest.mark.parametrize("kind", LEFT_TO_PYTORCH)
def test_what_else_reads_the_memory_is_left_to_pytorch(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    own, theirs, is_plain = both(LEFT_TO_PYTORCH[kind], monkeypatch)
    assert not is_plain
    assert own == theirs


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "googlenet"])
def test_networks(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    network = torchvision.models.get_model(name, weights=None, **({"init_weights": False} if "goog" in name else {}))
    own, theirs, is_plain = both(network, monkeypatch, size=64)
    assert is_plain
    assert own == theirs
