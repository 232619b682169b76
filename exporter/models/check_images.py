"""Inputs that ship with the package, for the checks that every export makes: sixteen real ones and four hard ones.

Four photographs, each whole, mirrored, and its left and right half; and what a camera gives when something is wrong: a
black frame, a white one, one of training's mean color, and noise. They answer one question, whether two files compute
the same. They are never used for calibration, and no accuracy figure comes from them. On a black frame all features may
be zero, and what keeps a quotient finite there matters on no photograph.
"""

from __future__ import annotations

import importlib.resources

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from runtimes.preprocessing.decode import rgb_from_image
from runtimes.preprocessing.transform import Preprocessing, band_pixels, normalize, preprocess

PHOTOS = ("astronaut.jpg", "chelsea.jpg", "coffee.jpg", "rocket.jpg")

HARD_FRAMES = ("a black frame", "a white frame", "a frame of the mean color", "noise")
"""Descriptions of the frames that `load_hard_frames` returns, in its order."""

_NOISE_SEED = 20261129


def load_check_images(preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return the check images, float32 [16, C, H, W]."""
    folder = importlib.resources.files("exporter.models") / "check_photos"
    views: list[Image.Image] = []
    for name in PHOTOS:
        with (folder / name).open("rb") as file, Image.open(file) as opened:
            photo = rgb_from_image(opened)
        width, height = photo.size
        views += [photo, ImageOps.mirror(photo)]
        views += [photo.crop((0, 0, width // 2, height)), photo.crop((width // 2, 0, width, height))]
    if preprocessing.channels in (1, 3):
        return np.stack([preprocess(preprocessing, view) for view in views])
    return np.stack(
        [normalize(preprocessing, band_pixels(preprocessing, _bands(preprocessing, view))) for view in views]
    )


def _bands(preprocessing: Preprocessing, view: Image.Image) -> NDArray[np.uint8]:
    """Return red, green and blue over and over, as many as the model has channels, each time a little darker."""
    colors = np.asarray(view)
    darker = (min(place // 3, 7) for place in range(preprocessing.channels))
    bands = [colors[..., place % 3] - colors[..., place % 3] // 8 * steps for place, steps in enumerate(darker)]
    return np.stack(bands, axis=-1)


def load_hard_frames(preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return the frames of `HARD_FRAMES`, normalized, float32 [4, C, H, W]; each is a picture of whole levels 0-255."""
    shape = (*preprocessing.input_size, preprocessing.channels)
    mean = np.clip(np.rint(np.multiply(preprocessing.mean, 255.0)), 0, 255)
    noise = np.random.default_rng(_NOISE_SEED).integers(0, 256, shape)
    levels = np.stack([np.broadcast_to(level, shape) for level in (np.zeros(1), np.full(1, 255), mean)])
    return normalize(preprocessing, np.concatenate([levels, noise[np.newaxis]]).astype(np.uint8))
