"""Whether the calibration images can be right: random noise, wrong normalization, empty or repeated images, BGR.

Wrong calibration images do not fail: ranges come out, only wrong ones. So what was seen of them is judged against the
preprocessing. Every rule has to let photographs, drawings, grey digits and dark scans pass; a rule that could not is a
hint only, and needs much evidence (see `_bgr`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

import numpy as np

from calibration.observers.input_statistics import CONSTANT_SHARE_OF_RANGE, InputStatistics
from calibration.observers.sample_images import MIN_IMAGES
from runtimes.io.json_fields import JsonFields
from runtimes.preprocessing.transform import Preprocessing

MAX_NOISE_CORRELATION = 0.5
"""Random noise has a lag-1 autocorrelation of 0, and 0.25 to 0.36 after a bilinear resize by 0.25 to 1.15 (measured;
enlarged further it is smooth, and not told from a picture). Photographs, clip art and digits have 0.77 to 1.00 in all
but a tenth of the images, a lawn seen from above 0.70. The set is noise when nine in ten images are below this."""

MAX_CONSTANT_SHARE = 0.10
"""Share of constant images that is tolerated."""

MAX_COPY_SHARE = 0.25
"""Share of near copies that is tolerated: a folder of drawings had 8 %, crops of six photographs 4 % (measured)."""

STD_RANGE = (0.1, 10.0)
"""The standard deviation of the normalized input, 1 for the images of training, must lie between these: photographs
had 0.9 to 1.4, pale ones 0.23, photographs darkened to an eighth 0.13 (measured); on another scale (0-255, divided by
255 twice) it is off by a factor of 255."""

_PIXEL_TOLERANCE = 0.01
"""Beyond 0 to 1 by more than this no 8-bit picture lies; float32 rounding is a thousand times less."""

_BGR_MIN_Z = 4.0
"""Standard errors."""


class InputWarningKind(Enum):
    """Problem with the calibration images."""

    NOISE = "random noise"
    WRONG_NORMALIZATION = "wrong normalization"
    BGR = "BGR order"
    CONSTANT = "constant images"
    COPIES = "near copies"
    TOO_FEW = "too few distinct images"


@dataclass(frozen=True, slots=True)
class InputWarning(JsonFields):
    """One thing that is not as it should be: what was seen, with figures, what was expected, and what to do."""

    kind: InputWarningKind
    seen: str
    expected: str
    advice: str

    def said_of(self, what: str) -> str:
        """Return one line about `what`."""
        return f"{what}: {self.kind.value}: {self.seen}; expected {self.expected}. {self.advice}"

    def __str__(self) -> str:
        """Return one line."""
        return self.said_of("calibration images")


def judge_input(statistics: InputStatistics, preprocessing: Preprocessing | None = None) -> tuple[InputWarning, ...]:
    """Return what is wrong with the images, worst first; without preprocessing what needs none."""
    prepared = preprocessing if preprocessing and len(preprocessing.mean) == len(statistics.mean) else None
    found = [*(() if prepared is None else judge_normalization(statistics, prepared)), *_noise(statistics)]
    if not found:  # else they differ for that reason alone
        found = [*_choice(statistics), *(() if prepared is None else _bgr(statistics, prepared))]
    return tuple(found)


def judge_normalization(statistics: InputStatistics, preprocessing: Preprocessing) -> Iterator[InputWarning]:
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
        yield InputWarning(kind, seen, expected, advice)
        return
    shows_something = statistics.num_constant < statistics.num_images  # grey frames alone lie anywhere
    if shows_something and max(statistics.high) <= 1 and min(statistics.low) >= 0 and least < 0:
        advice = "They look like pixels on 0-1: subtract the mean and divide by the std"
        yield InputWarning(kind, f"{seen}, none below 0", expected, advice)
        return
    takes_bytes = np.allclose(std, 1 / 255, rtol=0.05)  # a network trained on 0-255 without division
    pooled = math.sqrt(float(np.mean(np.square(statistics.std))))
    low, high = STD_RANGE
    if not takes_bytes and shows_something and not low <= pooled <= high:
        center = ", ".join(f"{value:.2g}" for value in statistics.mean)
        yield InputWarning(
            kind,
            f"the normalized input has standard deviation {pooled:.3g} and mean {center}",
            f"a standard deviation near 1, between {low:g} and {high:g}",
            "Check --mean and --std (on the scale 0-1, not 0-255) and that the images are not divided by 255 twice",
        )


def _noise(statistics: InputStatistics) -> Iterator[InputWarning]:
    correlation = statistics.autocorrelation
    if correlation is not None and correlation[2] < MAX_NOISE_CORRELATION:
        yield InputWarning(
            InputWarningKind.NOISE,
            f"neighboring pixels hardly agree (autocorrelation {correlation[1]:.2f} in the median image)",
            "above 0.8, as photographs and drawings have",
            "Give images like those the model will see: ranges of random data fit nothing else",
        )


def _choice(statistics: InputStatistics) -> Iterator[InputWarning]:
    """Look for images that tell nothing, tell it again, or are too few."""
    if statistics.num_constant > MAX_CONSTANT_SHARE * statistics.num_images:
        yield InputWarning(
            InputWarningKind.CONSTANT,
            f"{statistics.num_constant} of {statistics.num_images} show one color (standard deviation below "
            f"{CONSTANT_SHARE_OF_RANGE:.0%} of the range)",
            f"at most {MAX_CONSTANT_SHARE:.0%}",
            "Look at the files: empty frames, a failed download or a wrong crop",
        )
    if statistics.num_copies > MAX_COPY_SHARE * statistics.num_compared:
        yield InputWarning(
            InputWarningKind.COPIES,
            f"{statistics.num_copies} of {statistics.num_compared} hardly differ from an earlier one",
            f"at most {MAX_COPY_SHARE:.0%}",
            "Neighbouring video frames and copies add nothing to the ranges: take images further apart",
        )
    if (distinct := statistics.num_compared - statistics.num_copies) < MIN_IMAGES:
        yield InputWarning(
            InputWarningKind.TOO_FEW,
            f"{distinct} of {statistics.num_images} images are distinct",
            f"at least {MIN_IMAGES}, better 500",
            "Give more images: what these do not hold is clipped",
        )


def _bgr(statistics: InputStatistics, preprocessing: Preprocessing) -> Iterator[InputWarning]:
    """Hint at swapped red and blue, where two independent signs agree.

    Photographs are on average redder than blue (ImageNet 0.485 against 0.406), and bluer above than below, as the
    sky is. Either alone is the other way round in honest sets: aquaria, skies, drawings, lamps at a ceiling. So both
    have to be reversed, in the mean over images, each by `_BGR_MIN_Z` standard errors, and by more than 0.03 and 0.01
    of the pixel scale, with at least `MIN_IMAGES` images and a preprocessing that itself expects more red than blue.
    """
    mean, std = preprocessing.mean, preprocessing.std
    if len(mean) != 3 or mean[0] - mean[2] < 0.03 or statistics.num_images < MIN_IMAGES:
        return
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
    if bluer >= max(0.03, _BGR_MIN_Z * bluer_error) and -above >= max(0.01, _BGR_MIN_Z * above_error):
        yield InputWarning(
            InputWarningKind.BGR,
            f"blue is {bluer:.3f} above red on the scale 0-1, and {-above:.3f} more so in the lower half",
            f"photographs: red about {mean[0] - mean[2]:.2f} above blue, and more blue in the upper half",
            "A hint only: if the images were read or written with OpenCV, convert BGR to RGB",
        )
