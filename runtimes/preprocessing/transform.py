"""From a picture to a model's input: resize, center crop, scale to 0-1, subtract mean, divide by std.

The one preprocessing of calibration, evaluation and the device, without torch: the pixels are bit for bit
those of torchvision's `ImageClassification` preset and of timm's evaluation transform on a Pillow image, and the
float32 values follow their order of operations, `((x / 255) - mean) / std`, each step rounded to float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtimes.counted import counted
from runtimes.errors import ImageReadError
from runtimes.preprocessing.center_crop import BLACK, crop_from_json, cropped, is_color
from runtimes.preprocessing.resize import (
    MAX_SIDE,
    KeepRatio,
    Resize,
    check_resized,
    is_side,
    is_size,
    json_from_resize,
    json_from_size,
    resize_from_json,
    resized_size,
    with_keys,
)

if TYPE_CHECKING:
    from PIL import Image

# Mean and standard deviation of ImageNet-1k's training images, RGB, on the scale 0-1.
# Source: torchvision.transforms.ImageClassification (defaults), the values every torchvision ResNet was
# trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# 4096 x 4096, a hundred times what most networks take; prepared it is 200 MB, three channels of float32. A manifest is
# data from outside: what it asks for must not decide how much memory is taken.
_MAX_INPUT_PIXELS = 4096 * 4096

_MAX_FLOAT32 = float(np.finfo(np.float32).max)

# What is the same for every model; in the JSON so that a reader in another language needs no source code.
_FIXED_JSON = {"layout": "NCHW", "dtype": "float32", "scale": "1/255"}
_JSON_KEYS = {*_FIXED_JSON, "color_order", "resize", "crop", "interpolation", "mean", "std"}

_ORDER_OF_CHANNELS = {1: "L", 3: "RGB"}
_OTHER_ORDER = "bands"
"""In the JSON: one channel is grey, three are red, green, blue; of another number only the data know what they are."""

MAX_CHANNELS = 512


class Interpolation(Enum):
    """How Pillow computes a resized pixel; the values are the names in JSON."""

    NEAREST = "nearest"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"
    BOX = "box"
    HAMMING = "hamming"
    LANCZOS = "lanczos"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """How a model's images are prepared; NCHW, float32, scale 1/255 always; grey, RGB, or bands by `mean`'s length.

    Attributes:
        resize: Shorter side in pixels (the longer one is cut to a whole number), or exactly (height, width), or a
            `KeepRatio`, or None for no resize.
        crop: (height, width) of the center crop in pixels, or None for no crop. A picture smaller than the
            crop is padded with `fill`.
        interpolation: How pixels are computed in the resize; antialiased, as Pillow always is.
        mean: Per channel (grey; R, G, B; or one for each band), on the scale 0-1.
        std: As many, on the scale 0-1, > 0.
        fill: Colour R, G, B, 0-255, of what the crop adds around a smaller picture.

    Raises:
        TypeError: If `interpolation` is not an `Interpolation`.
        ValueError: If a value is out of range, or neither a crop nor an exact resize fixes the size.
    """

    resize: Resize
    crop: tuple[int, int] | None
    interpolation: Interpolation
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fill: tuple[int, int, int] = BLACK

    def __post_init__(self) -> None:
        """Check every field."""
        is_box = self.resize is None or isinstance(self.resize, KeepRatio)
        if not is_box and not is_side(self.resize) and not is_size(self.resize):
            raise ValueError(
                f"resize: got {self.resize!r}, expected a side from 1 to {MAX_SIDE}, (height, width) of "
                "such, KeepRatio, or None"
            )
        if self.crop is not None and not is_size(self.crop):
            raise ValueError(f"crop: got {self.crop!r}, expected (height, width), both > 0, or None")
        if self.crop is None and not isinstance(self.resize, tuple):
            raise ValueError(
                f"got resize {self.resize!r} without a crop: images would differ in size and could not be "
                "batched; give a crop (height, width) or an exact resize (height, width)"
            )
        height, width = self.input_size
        if height * width > _MAX_INPUT_PIXELS:
            raise ValueError(
                f"got inputs of {height} x {width} pixels, expected at most {_MAX_INPUT_PIXELS}: prepared, one image "
                "would fill a device's memory"
            )
        if not isinstance(self.interpolation, Interpolation):
            raise TypeError(f"interpolation: got {self.interpolation!r}, expected one of {list(Interpolation)}")
        if not _is_row_of_floats(self.mean):
            raise ValueError(f"mean: got {self.mean!r}, expected a finite number per channel, on the scale 0-1")
        if not _is_row_of_floats(self.std) or min(np.float32(value) for value in self.std) <= 0:
            raise ValueError(f"std: got {self.std!r}, expected a finite number > 0 per channel, on the scale 0-1")
        if len(self.mean) != len(self.std):
            raise ValueError(f"got {len(self.mean)} numbers of mean and {len(self.std)} of std, expected as many")
        if self.fill != BLACK and self.channels != 3:
            raise ValueError(f"fill: got {self.fill!r} for {self.channels} channels, expected none: it is a color")
        if not is_color(self.fill):
            raise ValueError(f"fill: got {self.fill!r}, expected three whole numbers 0-255 (R, G, B)")
        if self.crop is None and self.fill != BLACK:
            raise ValueError(f"fill: got {self.fill!r} without a crop, which alone adds pixels; give a crop or no fill")

    @property
    def channels(self) -> int:
        """How many channels the model takes."""
        return len(self.mean)

    @property
    def color_order(self) -> str:
        """Kind of the channels: "L" (grey), "RGB", or "bands"."""
        return _ORDER_OF_CHANNELS.get(self.channels, _OTHER_ORDER)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every prepared image."""
        return (self.channels, *self.input_size)

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width) in pixels of every prepared image."""
        if self.crop is not None:
            return self.crop
        assert isinstance(self.resize, tuple)  # __post_init__ refuses the rest
        return self.resize

    @property
    def in_words(self) -> str:
        """Every step in one line: "resize 110 shorter side bilinear, crop 96x96, RGB, /255, mean ..., std ..."."""
        steps = []
        kind = self.interpolation.value
        if isinstance(self.resize, int):
            steps.append(f"resize {self.resize} shorter side {kind}")
        elif isinstance(self.resize, tuple):
            steps.append(f"resize {self.resize[0]}x{self.resize[1]} exactly {kind}")
        elif self.resize is not None:
            how = "inside" if self.resize.inside else "to cover"
            steps.append(f"resize {how} {self.resize.height}x{self.resize.width} {kind}")
        if self.crop is not None:
            height, width = self.crop
            steps.append(f"crop {height}" if height == width else f"crop {height}x{width}")
        names = {"L": "grey", "RGB": "RGB"}
        steps.append(names.get(self.color_order, f"{self.channels} bands"))
        steps += [f"{name} {', '.join(f'{value:g}' for value in getattr(self, name))}" for name in ("mean", "std")]
        return ", ".join(steps)

    def to_json(self) -> dict[str, Any]:
        """Return what `from_json` reads, with nothing left to be guessed."""
        crop: dict[str, Any] | None = json_from_size(self.crop)
        if crop is not None and self.fill != BLACK:
            crop["fill"] = list(self.fill)
        return {
            "color_order": self.color_order,
            **_FIXED_JSON,
            "resize": json_from_resize(self.resize),
            "crop": crop,
            "interpolation": self.interpolation.value,
            "mean": list(self.mean),
            "std": list(self.std),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Preprocessing:
        """Build from the form of `to_json`.

        Raises:
            ValueError: If a key is missing or unknown, or a value is not one this version knows.
        """
        with_keys("preprocessing", data, _JSON_KEYS)
        for key, expected in _FIXED_JSON.items():
            if data[key] != expected:
                raise ValueError(f"preprocessing {key!r}: got {data[key]!r}, expected {expected!r}, the only one known")
        crop, fill = crop_from_json(data["crop"])
        preprocessing = cls(
            resize=resize_from_json(data["resize"]),
            crop=crop,
            interpolation=_interpolation_from_json(data["interpolation"]),
            mean=_floats_from_json("mean", data["mean"]),
            std=_floats_from_json("std", data["std"]),
            fill=fill,
        )
        if data["color_order"] != preprocessing.color_order:
            raise ValueError(
                f"preprocessing 'color_order': got {data['color_order']!r}, expected {preprocessing.color_order!r} for "
                f"{preprocessing.channels} channels"
            )
        return preprocessing


def pixels(preprocessing: Preprocessing, image: Image.Image) -> NDArray[np.uint8]:
    """Resize and crop an image; bit for bit torchvision's and timm's evaluation transforms on a Pillow image.

    Args:
        preprocessing: What to do; of `mean` and `std` only their number is used here.
        image: A picture of mode RGB, as `read_image` returns. A model of one channel gets its grey levels, as
            torchvision's `Grayscale` and Pillow compute them (ITU-R 601-2).

    Returns:
        uint8 [H, W, C], with (H, W) = `preprocessing.input_size`; the caller owns it.

    Raises:
        ValueError: If the image is not of mode RGB or has no pixels.
        ImageReadError: If the image is so long and thin that its resized form would not fit in memory, or the model
            takes bands, which a color picture has not.
    Source: torchvision 0.29, transforms/functional.py, resize and center_crop; timm 1.0.31, data/transforms.py,
        ResizeKeepRatio and CenterCropOrPad.
    """
    if image.mode != "RGB" or 0 in image.size:
        raise ValueError(f"got an image of mode {image.mode} and size {image.size}, expected RGB; use read_image()")
    if preprocessing.channels == 1:
        return np.array(_fitted(preprocessing, image.convert("L")))[..., np.newaxis]
    if preprocessing.channels != 3:
        raise ImageReadError(
            f"it is a color picture, and the model takes {counted(preprocessing.channels, 'channel')}; expected an "
            "array of so many bands (.npy)"
        )
    return np.array(_fitted(preprocessing, image))


def band_pixels(preprocessing: Preprocessing, bands: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Resize and crop a picture of any number of channels, each by itself: uint8 [H, W, C] in, as of `pixels` out.

    Raises:
        ImageReadError: If the number of channels is another, or as in `pixels`.
    """
    if bands.dtype != np.uint8 or bands.ndim != 3 or bands.shape[2] != preprocessing.channels or 0 in bands.shape:
        raise ImageReadError(
            f"it is {bands.dtype} {list(bands.shape)}, expected uint8 [H, W, {preprocessing.channels}]: so many "
            "channels the model takes"
        )
    from PIL import Image as PillowImage

    layers = (PillowImage.fromarray(np.ascontiguousarray(bands[..., place])) for place in range(bands.shape[2]))
    return np.stack([np.array(_fitted(preprocessing, layer)) for layer in layers], axis=-1)


def _fitted(preprocessing: Preprocessing, image: Image.Image) -> Image.Image:
    resized = _resized(preprocessing, image)
    return resized if preprocessing.crop is None else cropped(resized, preprocessing.crop, preprocessing.fill)


def normalize(preprocessing: Preprocessing, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Scale pixels uint8 [..., H, W, C] to 0-1, subtract the mean and divide by the std; one image or a batch.

    Three passes in float32 rather than a lookup table of 256 entries: the same bits, simpler, and as fast as
    the best table lookup (measured 0.16-0.18 against 0.18-0.35 ms per 224 x 224 image, NumPy 2.4, x86-64).

    Returns:
        float32 [..., C, H, W], C-contiguous; equal to torchvision's `convert_image_dtype` and `normalize`.

    Raises:
        ValueError: If `pixels` has another dtype or layout.
    """
    if pixels.dtype != np.uint8 or pixels.ndim < 3 or pixels.shape[-1] != preprocessing.channels:
        expected = f"uint8 [..., H, W, {preprocessing.channels}]"
        raise ValueError(f"got {pixels.dtype} {list(pixels.shape)}, expected {expected}")
    values = np.moveaxis(pixels, -1, -3).astype(np.float32, order="C")
    values /= np.float32(255)
    values -= np.array(preprocessing.mean, dtype=np.float32)[:, np.newaxis, np.newaxis]
    values /= np.array(preprocessing.std, dtype=np.float32)[:, np.newaxis, np.newaxis]
    return values


def preprocess(preprocessing: Preprocessing, image: Image.Image) -> NDArray[np.float32]:
    """Prepare one image, `pixels`, then `normalize`: float32 [C, H, W], (H, W) = `preprocessing.input_size`."""
    return normalize(preprocessing, pixels(preprocessing, image))


def _resized(preprocessing: Preprocessing, image: Image.Image) -> Image.Image:
    if preprocessing.resize is None:
        return image
    width, height = resized_size(preprocessing.resize, image.size)
    if (width, height) == image.size:
        return image
    check_resized(image.size, (width, height))
    from PIL import Image  # here, so that reading a manifest needs NumPy only

    return image.resize((width, height), Image.Resampling[preprocessing.interpolation.name])


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_row_of_floats(value: object) -> bool:
    """Tell whether `value` is a row of numbers that are finite in float32 too."""
    if not isinstance(value, tuple) or not 1 <= len(value) <= MAX_CHANNELS or not all(map(_is_number, value)):
        return False
    return all(abs(number) <= _MAX_FLOAT32 for number in value)  # not so of NaN; of a huge whole number isfinite fails


def _interpolation_from_json(value: object) -> Interpolation:
    try:
        return Interpolation(value)
    except ValueError as err:
        known = ", ".join(interpolation.value for interpolation in Interpolation)
        raise ValueError(f"preprocessing 'interpolation': got {value!r}, expected one of {known}") from err


def _floats_from_json(key: str, value: object) -> tuple[float, ...]:
    if not isinstance(value, (list, tuple)) or not value:
        raise ValueError(f"preprocessing {key!r}: got {value!r}, expected a number per channel")
    return tuple(value)
