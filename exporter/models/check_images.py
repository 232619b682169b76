"""Sixteen real inputs that ship with the package, for the checks that every export makes.

Four photographs, each whole, mirrored, and its left and right half. They answer one question, whether two files
compute the same. They are never used for calibration, and no accuracy figure comes from them.
"""

from __future__ import annotations

import importlib.resources

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from runtimes.preprocessing.decode import rgb_from_image
from runtimes.preprocessing.transform import Preprocessing, preprocess

PHOTOS = ("astronaut.jpg", "chelsea.jpg", "coffee.jpg", "rocket.jpg")
NUM_CHECK_IMAGES = 4 * len(PHOTOS)


def load_check_images(preprocessing: Preprocessing) -> NDArray[np.float32]:
    """Return the check images, float32 [16, 3, H, W]."""
    folder = importlib.resources.files("exporter.models") / "check_photos"
    views: list[Image.Image] = []
    for name in PHOTOS:
        with (folder / name).open("rb") as file, Image.open(file) as opened:
            photo = rgb_from_image(opened)
        width, height = photo.size
        views += [photo, ImageOps.mirror(photo)]
        views += [photo.crop((0, 0, width // 2, height)), photo.crop((width // 2, 0, width, height))]
    return np.stack([preprocess(preprocessing, view) for view in views])
