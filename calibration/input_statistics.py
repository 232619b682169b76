"""What the calibration images look like, and whether that can be right.

Wrong calibration images do not fail: ranges come out, only wrong ones. So the images are looked at as they pass, after
the preprocessing, and judged against it. Every rule has to let photographs, drawings, grey digits and dark scans pass;
a rule that could not is a hint only, and needs much evidence (see `_bgr`).
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.sample_images import MIN_IMAGES
from runtimes.preprocessing import Preprocessing

MAX_NOISE_CORRELATION = 0.5
"""Random noise has a lag-1 autocorrelation of 0, and 0.25 to 0.36 after a bilinear resize by 0.25 to 1.15 (measured;
enlarged further it is smooth, and not told from a picture). Photographs, clip art and digits have 0.77 to 1.00 in all
but a tenth of the images, a lawn seen from above 0.70. The set is noise when nine in ten images are below this."""

CONSTANT_SHARE_OF_RANGE = 0.01
"""An image whose standard deviation is below this share of the whole set's range (2.5 of 255 levels) shows nothing."""

COPY_SHARE_OF_RANGE = 0.01
"""Two images are near copies when their 8 x 8 thumbnails differ by less than this share of the range (RMS)."""

MAX_CONSTANT_SHARE = 0.10
"""Share of constant images that is tolerated."""

MAX_COPY_SHARE = 0.25
"""Share of near copies that is tolerated: a folder of drawings had 8 %, crops of six photographs 4 % (measured)."""

MAX_COMPARED = 1024
"""Images whose thumbnails are kept to find near copies, the first ones, so that memory is bounded (0.8 MB)."""

STD_RANGE = (0.1, 10.0)
"""The standard deviation of the normalized input, 1 for the images of training, must lie between these: photographs
have 0.7 to 1.3, dark scans some 0.3; on another scale (0-255, divided by 255 twice) it is off by a factor of 255."""

_PIXEL_TOLERANCE = 0.01
"""Beyond 0 to 1 by more than this no 8-bit picture lies; float32 rounding is a thousand times less."""

_BGR_MIN_Z = 4.0
_THUMBNAIL = 8
_BLOCK = 32

Images = NDArray[np.float32]


class InputWarningKind(Enum):
    """What is wrong with the images."""

    NOISE = "random noise"
    WRONG_NORMALIZATION = "wrong normalization"
    BGR = "BGR order"
    CONSTANT = "constant images"
    COPIES = "near copies"
    TOO_FEW = "too few distinct images"


@dataclass(frozen=True, slots=True)
class InputWarning:
    """One thing that is not as it should be.

    Attributes:
        kind: What.
        seen: What was seen, with figures.
        expected: What was expected.
        advice: What to do.
    """

    kind: InputWarningKind
    seen: str
    expected: str
    advice: str

    def __str__(self) -> str:
        """Return one line."""
        return f"calibration images: {self.kind.value}: {self.seen}; expected {self.expected}. {self.advice}"

    def to_json(self) -> dict[str, str]:
        """Return the warning as `report.json` holds it."""
        return {"kind": self.kind.value, "seen": self.seen, "expected": self.expected, "advice": self.advice}


@dataclass(frozen=True, slots=True)
class InputStatistics:
    """What was seen of the model's input, after normalization; per channel where it is a tuple.

    Attributes:
        num_images: How many images.
        low: Least value of each channel, exact.
        high: Largest value of each channel, exact.
        mean: Mean of each channel over all pixels.
        std: Standard deviation of the same.
        autocorrelation: Of neighbouring pixels: 10th, 50th and 90th percentile over the images that are not constant;
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

    def to_json(self) -> dict[str, Any]:
        """Return the figures as `calibration.json` holds them."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> InputStatistics:
        """Return what `to_json` wrote.

        Raises:
            KeyError: If a figure is missing.
        """
        values: dict[str, Any] = {entry.name: content[entry.name] for entry in fields(cls)}
        values["half_covariance"] = [tuple(row) for row in values["half_covariance"]]
        values.update({name: tuple(value) for name, value in values.items() if isinstance(value, list)})
        return cls(**values)


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


def judge_input(statistics: InputStatistics, preprocessing: Preprocessing | None = None) -> tuple[InputWarning, ...]:
    """Return what is wrong with the images, worst first.

    Args:
        statistics: What was seen.
        preprocessing: How the images should have been prepared; None leaves out what only it can tell.
    """
    prepared = preprocessing if preprocessing and len(preprocessing.mean) == len(statistics.mean) else None
    normalization = None if prepared is None else _normalization(statistics, prepared)
    noise = _noise(statistics)
    found = [normalization, noise]
    if normalization is None and noise is None:  # else they differ for that reason alone
        found += [_constant(statistics), _copies(statistics), _too_few(statistics)]
        found += [] if prepared is None else [_bgr(statistics, prepared)]
    return tuple(warning for warning in found if warning is not None)


def _normalization(statistics: InputStatistics, preprocessing: Preprocessing) -> InputWarning | None:
    """Undo the normalization: what is then not a picture on the scale 0 to 1 was prepared in another way."""
    mean, std = np.array(preprocessing.mean), np.array(preprocessing.std)
    low, high = np.array(statistics.low) * std + mean, np.array(statistics.high) * std + mean
    seen = f"input values from {min(statistics.low):.3g} to {max(statistics.high):.3g}"
    least, most = float(((0 - mean) / std).min()), float(((1 - mean) / std).max())
    expected = f"{least:.3g} to {most:.3g}, as 8-bit pictures have with mean {preprocessing.mean} and std " + str(
        preprocessing.std
    )
    kind = InputWarningKind.WRONG_NORMALIZATION
    if low.min() < -_PIXEL_TOLERANCE or high.max() > 1 + _PIXEL_TOLERANCE:
        advice = "Prepare the images with runtimes.preprocess, and only once"
        if min(statistics.low) >= 0 and max(statistics.high) > 2 * most:
            advice = "They look like pixels on 0-255: divide by 255, subtract the mean, divide by the std"
        return InputWarning(kind, seen, expected, advice)
    if max(statistics.high) <= 1 and min(statistics.low) >= 0 and least < 0 and most > 1 + _PIXEL_TOLERANCE:
        advice = "They look like pixels on 0-1: subtract the mean and divide by the std"
        return InputWarning(kind, f"{seen}, none below 0", expected, advice)
    takes_bytes = np.allclose(std, 1 / 255, rtol=0.05)  # a network trained on 0-255 without division
    pooled = math.sqrt(float(np.mean(np.square(statistics.std))))
    if not takes_bytes and statistics.num_constant < statistics.num_images and not _within(pooled, STD_RANGE):
        return InputWarning(
            kind,
            f"the normalized input has standard deviation {pooled:.3g} and mean {_short(statistics.mean)}",
            f"a standard deviation near 1, between {STD_RANGE[0]:g} and {STD_RANGE[1]:g}",
            "Check --mean and --std (on the scale 0-1, not 0-255) and that the images are not divided by 255 twice",
        )
    return None


def _constant(statistics: InputStatistics) -> InputWarning | None:
    if statistics.num_constant <= MAX_CONSTANT_SHARE * statistics.num_images:
        return None
    return InputWarning(
        InputWarningKind.CONSTANT,
        f"{statistics.num_constant} of {statistics.num_images} show one colour (standard deviation below "
        f"{CONSTANT_SHARE_OF_RANGE:.0%} of the range)",
        f"at most {MAX_CONSTANT_SHARE:.0%}",
        "Look at the files: empty frames, a failed download or a wrong crop",
    )


def _noise(statistics: InputStatistics) -> InputWarning | None:
    correlation = statistics.autocorrelation
    if correlation is None or correlation[2] >= MAX_NOISE_CORRELATION:
        return None
    return InputWarning(
        InputWarningKind.NOISE,
        f"neighbouring pixels hardly agree (autocorrelation {correlation[1]:.2f} in the median image)",
        "above 0.8, as photographs and drawings have",
        "Give images like those the model will see: ranges of random data fit nothing else",
    )


def _copies(statistics: InputStatistics) -> InputWarning | None:
    if statistics.num_copies <= MAX_COPY_SHARE * statistics.num_compared:
        return None
    return InputWarning(
        InputWarningKind.COPIES,
        f"{statistics.num_copies} of {statistics.num_compared} hardly differ from an earlier one",
        f"at most {MAX_COPY_SHARE:.0%}",
        "Neighbouring video frames and copies add nothing to the ranges: take images further apart",
    )


def _too_few(statistics: InputStatistics) -> InputWarning | None:
    distinct = statistics.num_compared - statistics.num_copies
    if distinct >= MIN_IMAGES:
        return None
    return InputWarning(
        InputWarningKind.TOO_FEW,
        f"{distinct} of {statistics.num_images} images are distinct",
        f"at least {MIN_IMAGES}, better 500",
        "Give more images: what these do not hold is clipped",
    )


def _bgr(statistics: InputStatistics, preprocessing: Preprocessing) -> InputWarning | None:
    """Hint at swapped red and blue, where two independent signs agree.

    Photographs are on average redder than blue (ImageNet 0.485 against 0.406), and bluer above than below, as the
    sky is. Either alone is the other way round in honest sets: aquaria, skies, drawings, lamps at a ceiling. So both
    have to be reversed, in the mean over images, each by `_BGR_MIN_Z` standard errors, and by more than 0.03 and 0.01
    of the pixel scale, with at least `MIN_IMAGES` images and a preprocessing that itself expects more red than blue.
    """
    mean, std = preprocessing.mean, preprocessing.std
    if len(mean) != 3 or mean[0] - mean[2] < 0.03 or statistics.num_images < MIN_IMAGES:
        return None
    half_mean, covariance = np.array(statistics.half_mean), np.array(statistics.half_covariance)
    blue_minus_red = np.array([-std[0], 0.0, std[2]])
    offset = mean[2] - mean[0]
    overall = np.concatenate([blue_minus_red, blue_minus_red]) / 2
    gradient = np.concatenate([blue_minus_red, -blue_minus_red])  # above minus below
    count = statistics.num_images
    bluer = float(overall @ half_mean) + offset
    above = float(gradient @ half_mean)
    bluer_error = math.sqrt(max(float(overall @ covariance @ overall), 0.0) / count)
    above_error = math.sqrt(max(float(gradient @ covariance @ gradient), 0.0) / count)
    if bluer < max(0.03, _BGR_MIN_Z * bluer_error) or -above < max(0.01, _BGR_MIN_Z * above_error):
        return None
    return InputWarning(
        InputWarningKind.BGR,
        f"blue is {bluer:.3f} above red on the scale 0-1, and {-above:.3f} more so in the lower half",
        f"photographs: red about {mean[0] - mean[2]:.2f} above blue, and more blue in the upper half",
        "A hint only: if the images were read or written with OpenCV, convert BGR to RGB",
    )


def _within(value: float, bounds: tuple[float, float]) -> bool:
    return bounds[0] <= value <= bounds[1]


def _short(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.2g}" for value in values)


def _floats(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _deciles(values: NDArray[np.float64]) -> tuple[float, float, float] | None:
    if not len(values):
        return None
    low, median, high = np.percentile(values, (10, 50, 90))
    return float(low), float(median), float(high)


def _variance(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the variance of each image around its channels' means, [n]."""
    flat = centred.reshape(len(centred), -1)
    variance: NDArray[np.float64] = np.einsum("ij,ij->i", flat, flat) / flat.shape[1]
    return variance


def _autocorrelation(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean correlation of horizontal and vertical neighbours of each image, [n]; 0 for a constant one."""
    energy = np.einsum("nchw,nchw->n", centred, centred)
    pairs = 0.0
    for first, second in ((centred[..., 1:], centred[..., :-1]), (centred[..., 1:, :], centred[..., :-1, :])):
        share = centred[0].size / max(first[0].size, 1)  # there is one pair less than pixels in each line
        pairs = pairs + np.einsum("nchw,nchw->n", first, second) * share
    correlation: NDArray[np.float64] = pairs / 2 / np.maximum(energy, np.finfo(np.float64).tiny)
    return correlation


def _thumbnails(images: Images) -> NDArray[np.float32]:
    """Return the means of an 8 x 8 grid of cells, float32 [n, C * 64] or less for smaller images."""
    count, channels, height, width = images.shape
    rows, columns = min(_THUMBNAIL, height), min(_THUMBNAIL, width)
    cut = images[:, :, : height // rows * rows, : width // columns * columns]
    cells = cut.reshape(count, channels, rows, height // rows, columns, width // columns).mean(axis=(3, 5))
    small: NDArray[np.float32] = cells.reshape(count, -1)
    return small


def _num_near_copies(thumbnails: NDArray[np.float32], tolerance: float) -> int:
    """Count the rows that differ from an earlier row by at most `tolerance`, root mean square.

    A block of rows at a time: all distances of 1024 rows would take tens of megabytes with what is made on the way.
    """
    if not len(thumbnails):
        return 0
    count = 0
    limit = np.float32(max(tolerance, 1e-6) ** 2 * thumbnails.shape[1])
    centred = thumbnails - thumbnails.mean(axis=0)  # small numbers, so that float32 does
    norms = np.einsum("ij,ij->i", centred, centred)
    for start in range(0, len(centred), _BLOCK):
        rows = slice(start, start + _BLOCK)
        distances = (
            norms[rows, np.newaxis] + norms[: start + _BLOCK] - 2 * (centred[rows] @ centred[: start + _BLOCK].T)
        )
        count += int(np.tril(distances <= limit, start - 1).any(axis=1).sum())
    return count
