"""Back from a normalized image to the 8-bit pixels that it was made of: `normalize` the other way round."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from runtimes.preprocessing.transform import Preprocessing, normalize


def pixels_of(preprocessing: Preprocessing, images: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the pixels of normalized images, uint8 [n, H, W, 3].

    Raises:
        ValueError: If `images`, float32 [n, 3, H, W], are not what `normalize` makes of pixels.
    """
    mean, std = (
        np.array(values, np.float64)[:, np.newaxis, np.newaxis] for values in (preprocessing.mean, preprocessing.std)
    )
    levels = np.rint((images * std + mean) * 255)
    pixels = np.moveaxis(np.clip(levels, 0, 255).astype(np.uint8), 1, -1)
    if not np.array_equal(normalize(preprocessing, pixels), images):
        raise ValueError("these images do not come from 8-bit pixels")
    return pixels
