"""Statistics of the calibration images after preprocessing, gathered as they pass; judged in `judge_input`."""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.io.json_fields import JsonFields
from runtimes.io.json_types import check_kinds, finite

CONSTANT_SHARE_OF_RANGE = 0.01
"""An image whose standard deviation is below this share of the whole set's range (2.5 of 255 levels) shows nothing."""

COPY_SHARE_OF_RANGE = 0.01
"""Two images are near copies when their 8 x 8 thumbnails differ by less than this share of the range (RMS)."""

MAX_COMPARED = 1024
"""Images whose thumbnails are kept to find near copies, the first ones, so that memory is bounded (0.8 MB)."""

_THUMBNAIL = 8
_BLOCK = 32

Images = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class InputStatistics(JsonFields):
    """Statistics of the model's input after normalization; per channel where it is a tuple.

    Attributes:
        low: Least value of each channel, exact.
        high: Largest value of each channel, exact.
        mean: Mean of each channel over all pixels.
        std: Standard deviation of the same.
        autocorrelation: Of neighboring pixels: 10th, 50th and 90th percentile over the images that are not constant;
            None when all are.
        num_constant: Images with nothing on them.
        num_compared: Images that were compared with those before them.
        num_copies: Near copies of an earlier image among these.
        half_mean: Mean over images of (channel means of the upper half, of the lower half), [2 C].
        half_covariance: Covariance of the same over images, row by row, [2 C][2 C].
    """

    num_images: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    autocorrelation: tuple[float, float, float] | None
    num_constant: int
    num_compared: int
    num_copies: int
    half_mean: tuple[float, ...]
    half_covariance: tuple[tuple[float, ...], ...]

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> InputStatistics:
        """Return what `to_json` wrote.

        Raises:
            KeyError, TypeError, ValueError: If a figure is missing or of a wrong kind.
        """
        values: dict[str, Any] = {entry.name: content[entry.name] for entry in fields(cls)}
        counts = ("num_images", "num_constant", "num_compared", "num_copies")
        kinds: dict[str, type | tuple[type, ...]] = {**dict.fromkeys(values, list), **dict.fromkeys(counts, int)}
        check_kinds(values, {**kinds, "autocorrelation": (list, type(None))})
        values["half_covariance"] = [tuple(row) for row in values["half_covariance"]]
        rows = [values[name] or () for name in values if name not in (*counts, "half_covariance")]
        for value in itertools.chain(*rows, *values["half_covariance"]):
            finite("input statistics", value)
        _check_lengths(values)
        values.update({name: tuple(value) for name, value in values.items() if isinstance(value, list)})
        return cls(**values)


def _check_lengths(values: Mapping[str, Any]) -> None:
    """Raise ValueError unless every figure per channel has as many values as the others."""
    channels = len(values["mean"])
    lengths = dict.fromkeys(("low", "high", "mean", "std"), channels)
    lengths.update(half_mean=2 * channels, half_covariance=2 * channels)
    if values["autocorrelation"] is not None:
        lengths["autocorrelation"] = 3
    for name, length in lengths.items():
        if len(values[name]) != length or not length:
            raise ValueError(f"{name}: got {len(values[name])} values, expected {length}")
    if any(len(row) != 2 * channels for row in values["half_covariance"]):
        raise ValueError(f"half_covariance: expected {2 * channels} rows of as many values")


@dataclass(slots=True)
class InputCollector:
    """Looks at the images as they pass; a few kilobytes an image at most, and none beyond `MAX_COMPARED`."""

    num_images: int = 0
    _low: NDArray[np.float64] | None = None
    _high: NDArray[np.float64] | None = None
    _sum: NDArray[np.float64] | float = 0.0
    _squares: NDArray[np.float64] | float = 0.0
    _half_sum: NDArray[np.float64] | float = 0.0
    _half_products: NDArray[np.float64] | float = 0.0
    _num_pixels: int = 0
    # Two growing blocks and one of its final size: many small arrays would scatter over the heap and hold it open.
    _variances: array[float] = field(default_factory=lambda: array("d"))
    _correlations: array[float] = field(default_factory=lambda: array("d"))
    _thumbnails: NDArray[np.float32] | None = None

    def add(self, images: Images) -> None:
        """Add a batch, float32 [n, C, H, W], n >= 1, all finite."""
        pixels = images.reshape(*images.shape[:2], -1).astype(np.float64)
        low, high = pixels.min(axis=(0, 2)), pixels.max(axis=(0, 2))
        self._low = low if self._low is None else np.minimum(self._low, low)
        self._high = high if self._high is None else np.maximum(self._high, high)
        squares = np.square(pixels).sum(axis=2)  # [n, C]
        self._sum = self._sum + pixels.sum(axis=(0, 2))
        self._squares = self._squares + squares.sum(axis=0)
        self._num_pixels += pixels.shape[0] * pixels.shape[2]
        maps = pixels.reshape(images.shape)
        half = images.shape[2] // 2
        upper, lower = maps[:, :, : max(half, 1)], maps[:, :, half:]
        halves = np.concatenate([upper.mean(axis=(2, 3)), lower.mean(axis=(2, 3))], axis=1)
        self._half_sum = self._half_sum + halves.sum(axis=0)
        self._half_products = self._half_products + halves.T @ halves
        maps -= pixels.mean(axis=2)[:, :, np.newaxis, np.newaxis]  # in place: `pixels` is not read below
        self._variances.extend(_variance(maps))
        self._correlations.extend(_autocorrelation(maps))
        if self.num_images < MAX_COMPARED:
            small = _thumbnails(images[: MAX_COMPARED - self.num_images])
            if self._thumbnails is None:
                self._thumbnails = np.zeros((MAX_COMPARED, small.shape[1]), np.float32)
            self._thumbnails[self.num_images : self.num_images + len(small)] = small
        self.num_images += len(images)

    def statistics(self) -> InputStatistics:
        """Return what was seen; at least one image must have been added."""
        assert self._low is not None
        assert self._high is not None
        assert self._thumbnails is not None
        mean = np.asarray(self._sum) / self._num_pixels
        variance = np.asarray(self._squares) / self._num_pixels - np.square(mean)
        variances, correlations = np.array(self._variances), np.array(self._correlations)
        spread = float((self._high - self._low).max())
        constant = np.sqrt(variances) <= CONSTANT_SHARE_OF_RANGE * spread
        shown = correlations[~constant]
        thumbnails = self._thumbnails[: self.num_images]
        kept = thumbnails[~constant[: len(thumbnails)]]
        half_mean = np.asarray(self._half_sum) / self.num_images
        covariance = np.asarray(self._half_products) / self.num_images - np.outer(half_mean, half_mean)
        return InputStatistics(
            num_images=self.num_images,
            low=_floats(self._low),
            high=_floats(self._high),
            mean=_floats(mean),
            std=_floats(np.sqrt(np.maximum(variance, 0.0))),
            autocorrelation=_deciles(shown),
            num_constant=int(constant.sum()),
            num_compared=len(kept),
            num_copies=_num_near_copies(kept, COPY_SHARE_OF_RANGE * spread),
            half_mean=_floats(half_mean),
            half_covariance=tuple(_floats(row) for row in covariance),
        )


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _deciles(values: NDArray[np.float64]) -> tuple[float, float, float] | None:
    if not len(values):
        return None
    low, median, high = np.percentile(values, (10, 50, 90))
    return float(low), float(median), float(high)


def _variance(centered: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the variance of each image around its channels' means, [n]."""
    flat = centered.reshape(len(centered), -1)
    variance: NDArray[np.float64] = np.einsum("ij,ij->i", flat, flat) / flat.shape[1]
    return variance


def _autocorrelation(centered: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean correlation of horizontal and vertical neighbors of each image, [n]; 0 for a constant one."""
    energy = np.einsum("nchw,nchw->n", centered, centered)
    pairs = 0.0
    for first, second in ((centered[..., 1:], centered[..., :-1]), (centered[..., 1:, :], centered[..., :-1, :])):
        share = centered[0].size / max(first[0].size, 1)  # there is one pair less than pixels in each line
        pairs = pairs + np.einsum("nchw,nchw->n", first, second) * share
    correlation: NDArray[np.float64] = pairs / 2 / np.maximum(energy, np.finfo(np.float64).tiny)
    return correlation


def _thumbnails(images: Images) -> NDArray[np.float32]:
    """Return the means of an 8 x 8 grid of cells, float32 [n, C * 64] or less for smaller images."""
    count, channels, height, width = images.shape
    rows, columns = min(_THUMBNAIL, height), min(_THUMBNAIL, width)
    cut = images[:, :, : height // rows * rows, : width // columns * columns]
    cells = cut.reshape(count, channels, rows, height // rows, columns, width // columns)
    small: NDArray[np.float32] = cells.mean(axis=(3, 5), dtype=np.float64).astype(np.float32).reshape(count, -1)
    return small


def _num_near_copies(thumbnails: NDArray[np.float32], tolerance: float) -> int:
    """Count the rows that differ from an earlier row by at most `tolerance`, root mean square.

    A block of rows at a time: all distances of 1024 rows would take tens of megabytes with what is made on the way.
    """
    if not len(thumbnails):
        return 0
    count = 0
    apart = thumbnails - thumbnails.mean(axis=0, dtype=np.float64)
    unit = max(1.0, float(np.ldexp(1.0, np.frexp(np.abs(apart).max())[1])))  # a power of two: no square overflows
    limit = np.float32((max(tolerance, 1e-6) / unit) ** 2 * thumbnails.shape[1])
    centered = (apart / unit).astype(np.float32)  # small numbers, so that float32 does
    norms = np.einsum("ij,ij->i", centered, centered)
    for start in range(0, len(centered), _BLOCK):
        rows = slice(start, start + _BLOCK)
        distances = (
            norms[rows, np.newaxis] + norms[: start + _BLOCK] - 2 * (centered[rows] @ centered[: start + _BLOCK].T)
        )
        count += int(np.tril(distances <= limit, start - 1).any(axis=1).sum())
    return count
