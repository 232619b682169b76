"""The digits data set as 8-bit pictures, and its fixed split into train, calib and val.

Source: UCI "Optical Recognition of Handwritten Digits", as `sklearn.datasets.load_digits` carries it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.datasets import load_digits

NUM_CALIB = 256
"""Images for calibration, about 26 of each digit. Our choice: enough for stable amax values, quick to run."""

_VAL_EVERY = 5  # one image in five, 360 of 1797, is held out
_MAX_GREY = 16  # the data set's brightest value


@dataclass(frozen=True, slots=True, eq=False)
class DigitsSplit:
    """Indices into the data set, each int64 and ascending.

    Attributes:
        train: [1437], what the model is trained on.
        calib: [256], a part of `train`.
        val: [360], held out: neither trained on nor calibrated with.
    """

    train: NDArray[np.int64]
    calib: NDArray[np.int64]
    val: NDArray[np.int64]


def load_pictures() -> tuple[list[Image.Image], NDArray[np.int64]]:
    """Return all digits as grey pictures, with their labels.

    Returns:
        1797 pictures of 8x8 pixels, mode "L", `round(value * 255 / 16)` of the data set's 0-16; labels, int64
        [1797].
    """
    digits = load_digits()
    grey: NDArray[Any] = np.rint(digits.images * 255 / _MAX_GREY).astype(np.uint8)
    return [Image.fromarray(pixels) for pixels in grey], digits.target.astype(np.int64)


def split_digits(labels: NDArray[np.int64]) -> DigitsSplit:
    """Split the data set, each part with the digits in equal shares (to within one image).

    The images are laid in order of digit, then index, and taken at even distances: no random numbers, so the
    split is the same with every version of every library.

    Args:
        labels: int64 [1797], as `load_pictures` returns.

    Returns:
        The split; `val` shares no image with the others.
    """
    by_digit = np.argsort(labels, kind="stable")
    is_val = np.arange(len(by_digit)) % _VAL_EVERY == 0
    train = by_digit[~is_val]
    calib = train[np.arange(NUM_CALIB) * len(train) // NUM_CALIB]
    return DigitsSplit(train=np.sort(train), calib=np.sort(calib), val=np.sort(by_digit[is_val]))
