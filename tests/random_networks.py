"""Small networks drawn at random from a seed: what people write, in combinations nobody would try by hand.

Convolutions with groups, dilation and odd paddings, pools that count their padding or end in it, activations, residual
blocks, gates, concatenations, modules that are called twice, channels that training has switched off, and every kind of
head. The same seed is the same network on every machine.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

SIZE = 32
NUM_CLASSES = 10

ACTIVATIONS: tuple[Callable[[], nn.Module], ...] = (
    nn.ReLU,
    nn.ReLU,
    nn.ReLU,
    nn.ReLU6,
    nn.LeakyReLU,
    nn.SiLU,
    nn.Hardswish,
    nn.GELU,
    nn.Sigmoid,
    nn.PReLU,
    nn.ELU,
    nn.Identity,
)


class Twice(nn.Module):
    """One module, called twice."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(self.inner(x))


class Residual(nn.Module):
    """inner(x) + shortcut(x), behind a ReLU or not."""

    def __init__(self, inner: nn.Module, shortcut: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.inner, self.shortcut, self.act = inner, shortcut, act

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.act(self.inner(x) + self.shortcut(x))


class Dense(nn.Module):
    """X beside inner(x)."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.inner(x)], 1)


class Gate(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))


class Shuffle(nn.Module):
    """Channels dealt out anew, as ShuffleNet does."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.channel_shuffle(x, 2)


class Halves(nn.Module):
    """The first half of the channels times the second one's sigmoid."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, second = x.chunk(2, 1)
        return first * torch.sigmoid(second)


class Mean(nn.Module):
    """The mean over the places."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3))


class _Draw:
    """Draws a network from a seed."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.size, self.channels = SIZE, 3

    def one_of(self, *choices):
        return choices[int(self.random.integers(len(choices)))]

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def activation(self) -> nn.Module:
        return self.one_of(*ACTIVATIONS)()

    def convolution(self, out: int, *, keeps_size: bool = False) -> nn.Sequential:
        """Conv, mostly BatchNorm, an activation; padding on any side."""
        channels = self.channels
        kernel = self.one_of(1, 3, 3, 3, 5)
        dilation = 2 if kernel == 3 and self.chance(0.15) else 1
        stride = 2 if not keeps_size and self.size >= 12 and self.chance(0.3) else 1
        groups = self.one_of(1, 1, 1, 2, channels)
        groups = groups if channels % groups == 0 and out % groups == 0 else 1
        same = dilation * (kernel - 1) // 2
        layers: list[nn.Module] = []
        padding = same
        if not keeps_size and self.chance(0.25):
            sides = [int(self.random.integers(0, same + 2)) for _ in range(4)]
            layers.append(nn.ZeroPad2d(sides))
            padding = 0
        normalized = self.chance(0.8)
        layers.append(
            nn.Conv2d(
                channels,
                out,
                kernel,
                stride,
                padding,
                dilation,
                groups,
                bias=not normalized or self.chance(0.2),
                padding_mode="zeros",
            )
        )
        if normalized:
            layers.append(nn.BatchNorm2d(out))
        layers.append(self.activation())
        self.channels = out
        return nn.Sequential(*layers)

    def pool(self) -> nn.Module:
        kernel = self.one_of(2, 3)
        options = {"stride": self.one_of(1, 2), "padding": self.one_of(0, kernel // 2), "ceil_mode": self.chance(0.5)}
        if self.chance(0.5):
            return nn.MaxPool2d(kernel, **options)
        return nn.AvgPool2d(kernel, **options, count_include_pad=self.chance(0.6))

    def piece(self) -> nn.Module:
        kind = self.one_of(
            *("conv", "conv", "conv", "pool", "pool", "residual", "residual", "projection", "dense", "gate", "twice"),
            *("shuffle", "halves", "up", "transposed"),
        )
        channels = self.channels
        if kind == "pool" and self.size >= 6:
            return self.pool()
        if kind == "residual":
            return Residual(self.convolution(channels, keeps_size=True), nn.Identity(), self.activation())
        if kind == "projection":
            inner = self.convolution(16, keeps_size=True)
            shortcut = nn.Sequential(nn.Conv2d(channels, 16, 1, bias=False), nn.BatchNorm2d(16))
            return Residual(inner, shortcut, self.activation())
        if kind == "dense" and channels <= 24:
            inner = self.convolution(8, keeps_size=True)
            self.channels = channels + 8
            return Dense(inner)
        if kind == "gate":
            return Gate(channels)
        if kind == "twice":
            return Twice(self.convolution(channels, keeps_size=True))
        if kind == "shuffle" and channels % 2 == 0:
            return Shuffle()
        if kind == "halves" and channels % 2 == 0 and channels >= 8:
            self.channels = channels // 2
            return Halves()
        if kind == "up" and self.size <= 16:
            return nn.Upsample(scale_factor=2, mode=self.one_of("nearest", "bilinear"))
        if kind == "transposed" and self.size <= 16:
            self.channels = 12
            return nn.Sequential(nn.ConvTranspose2d(channels, 12, 2, 2), self.activation())
        return self.convolution(self.one_of(8, 12, 16))

    def head(self) -> list[nn.Module]:
        channels, size = self.channels, self.size
        kind = self.one_of("linear", "linear", "hidden", "conv", "conv mean", "all places", "max")
        pool = nn.AdaptiveMaxPool2d(1) if kind == "max" else nn.AdaptiveAvgPool2d(1)
        if kind == "hidden":
            return [pool, nn.Flatten(), nn.Linear(channels, 24), self.activation(), nn.Linear(24, NUM_CLASSES)]
        if kind == "conv":
            return [pool, nn.Conv2d(channels, NUM_CLASSES, 1), nn.Flatten()]
        if kind == "conv mean":
            return [nn.Conv2d(channels, NUM_CLASSES, 1), Mean()]
        if kind == "all places":
            return [nn.Flatten(), nn.Linear(channels * size[0] * size[1], NUM_CLASSES)]
        return [pool, nn.Flatten(), nn.Linear(channels, NUM_CLASSES)]


def _shape(module: nn.Module, shape: tuple[int, ...]) -> tuple[int, ...]:
    with torch.no_grad():
        return tuple(module.eval()(torch.zeros(shape)).shape)


def random_network(seed: int) -> nn.Module:
    """Return network number `seed`, in evaluation mode, input [n, 3, 32, 32], logits [n, 10]."""
    torch.manual_seed(seed)
    draw = _Draw(seed)
    layers: list[nn.Module] = [draw.convolution(draw.one_of(8, 12, 16))]
    shape = _shape(layers[0], (1, 3, SIZE, SIZE))
    for _ in range(int(draw.random.integers(2, 7))):
        draw.size = min(shape[2:])
        piece = draw.piece()
        layers.append(piece)
        shape = _shape(piece, shape)
        draw.channels = shape[1]
    draw.size = shape[2:]
    module = nn.Sequential(*layers, *draw.head())
    _train_statistics(module, seed)
    _switch_off_channels(module, draw)
    return module.eval()


def images(count: int, *, seed: int) -> np.ndarray:
    """Return smooth random pictures, float32 [count, 3, 32, 32], their mean and contrast drawn too."""
    random = np.random.default_rng(seed)
    coarse = torch.from_numpy(random.normal(size=(count, 3, 8, 8)).astype(np.float32))
    smooth = F.interpolate(coarse, size=(SIZE, SIZE), mode="bilinear")
    contrast = random.uniform(0.5, 1.5, (count, 1, 1, 1)).astype(np.float32)
    return np.ascontiguousarray(smooth.numpy() * contrast + random.normal(0, 0.3, (count, 3, 1, 1)).astype(np.float32))


def _train_statistics(module: nn.Module, seed: int) -> None:
    """Give the BatchNorms statistics and factors as training leaves them, and the logits a spread."""
    generator = torch.Generator().manual_seed(seed)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.weight.data.uniform_(0.5, 1.5, generator=generator)
            part.bias.data.uniform_(-0.4, 0.4, generator=generator)
    module.train()
    with torch.no_grad():
        for number in range(4):
            module(torch.from_numpy(images(16, seed=1000 + number)))
        module.eval()
        last = next(part for part in reversed(list(module.modules())) if isinstance(part, (nn.Linear, nn.Conv2d)))
        last.weight.data *= 3.0


def _switch_off_channels(module: nn.Module, draw: _Draw) -> None:
    """Make some channels' weights zero or almost, as weight decay leaves them; their bias stays."""
    layers = [part for part in module.modules() if isinstance(part, (nn.BatchNorm2d, nn.Linear))][:-1]
    with torch.no_grad():
        for part in layers:
            if draw.chance(0.4):
                count = int(draw.random.integers(1, 4))
                part.weight[:count] *= draw.one_of(0.0, 1e-30, 1e-12, 1e-9, 1e-6, 1e-4)
                part.bias[:count] += 1.0
