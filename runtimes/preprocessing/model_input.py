"""From whatever an app has of a picture to a model's input, with Pillow (the reference) or OpenCV (faster)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtimes.preprocessing.bands import read_bands
from runtimes.preprocessing.resize import draft_size
from runtimes.preprocessing.transform import Preprocessing, band_pixels, normalize, pixels

if TYPE_CHECKING:
    from runtimes.preprocessing.image_input import Channels, ImageInput

BACKENDS = ("pillow", "opencv")


@dataclass(frozen=True, slots=True)
class Preparation:
    """How a model's pictures are prepared.

    Attributes:
        preprocessing: Resize, crop, mean and std.
        takes_pixels: Whether the model's input is uint8 [N, H, W, 3], the normalization being in the model.
        backend: "pillow", bit for bit the training's pixels; or "opencv", faster and a little different.
        draft: Whether huge JPEGs are decoded at a reduced size: faster, and a little different.
    """

    preprocessing: Preprocessing
    takes_pixels: bool = False
    backend: str = "pillow"
    draft: bool = False

    def __post_init__(self) -> None:
        """Refuse an unknown backend, and OpenCV where it is not installed."""
        if self.backend not in BACKENDS:
            raise ValueError(f"backend: got {self.backend!r}, expected one of {', '.join(BACKENDS)}")
        if self.backend == "opencv":
            from runtimes.preprocessing.opencv_backend import load_opencv

            load_opencv()

    def pixels(self, image: ImageInput, *, channels: Channels | None = None) -> NDArray[np.uint8]:
        """Return one picture resized and cropped: uint8 [H, W, C]; C is 3 (R, G, B) but for models of other channels.

        Raises:
            ImageReadError: If it cannot be read.
            InputMismatchError: If it is an array of another kind than uint8 [H, W, 3].
            TypeError: If it is nothing that is a picture.
            ValueError: If `channels` is missing for an array, or given for something else.
        """
        bands = self._bands(image)
        if bands is not None:
            return band_pixels(self.preprocessing, bands)
        if self.backend == "opencv" and self.preprocessing.channels == 3:
            from runtimes.preprocessing.opencv_backend import opencv_pixels

            return opencv_pixels(self.preprocessing, image, channels=channels, draft=self.draft)
        from runtimes.preprocessing.image_input import rgb_image  # an app that only runs arrays needs no Pillow

        return pixels(self.preprocessing, rgb_image(image, channels=channels, draft=self._draft_size()))

    def batch(self, pictures: Sequence[NDArray[np.uint8]]) -> NDArray[Any]:
        """Return pixels as the model takes them, contiguous: float32 [n, C, H, W] normalized, or uint8 [n, H, W, C]."""
        stacked = pictures[0][np.newaxis] if len(pictures) == 1 else np.stack(pictures)
        return stacked if self.takes_pixels else normalize(self.preprocessing, stacked)

    def _bands(self, image: ImageInput) -> NDArray[Any] | None:
        """Return the array of a model of bands, or of a grey array; None for what is a color picture."""
        if isinstance(image, (str, os.PathLike)) and os.fspath(image).lower().endswith(".npy"):
            return read_bands(Path(image), self.preprocessing.channels)
        if self.preprocessing.channels == 3 or not isinstance(image, np.ndarray):
            return None
        array = image[..., np.newaxis] if image.ndim == 2 else image
        return array if array.ndim == 3 and array.shape[2] == self.preprocessing.channels else None

    def _draft_size(self) -> tuple[int, int] | None:
        resize = self.preprocessing.resize
        return draft_size(resize) if self.draft and resize is not None else None
