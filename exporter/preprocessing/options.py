"""Preprocessing options of a user, laid over those of the weights; or alone, where nothing else tells.

Imports no framework.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from exporter.errors import PreprocessingError
from runtimes.counted import counted
from runtimes.io.json_fields import JsonFields
from runtimes.preprocessing.resize import KeepRatio, Resize
from runtimes.preprocessing.transform import Interpolation, Preprocessing


@dataclass(frozen=True, slots=True)
class PreprocessingOptions(JsonFields):
    """Changes to a preprocessing; None leaves what the weights say.

    Attributes:
        input_size: Side in pixels of a square input, or (height, width).
        resize: Shorter side before the crop, or exactly (height, width).
        mean: Per channel, in the order `color_order` and on the scale that `scale` gives.
        std: As many.
        interpolation: Of the resize.
        color_order: "BGR" for a network that was trained on blue, green, red; None and "RGB" for the usual order.
        scale: What 8-bit levels were multiplied by in training; None for the usual 1/255.
    """

    input_size: int | tuple[int, int] | None = None
    resize: int | tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    interpolation: Interpolation | None = None
    color_order: str | None = None
    scale: float | None = None

    def __post_init__(self) -> None:
        """Refuse what contradicts itself, and statistics of another scale: every pixel would be nearly one value."""
        if self.scale is not None and (self.mean is None or self.std is None):
            raise PreprocessingError(
                "--scale says what --mean and --std are measured in; give both (of a network of plain levels 0-255: "
                "--scale 1 --mean 0,0,0 --std 1,1,1)"
            )
        if self.color_order == "BGR" and self.mean is not None and len(self.mean) != 3:
            raise PreprocessingError(f"--color-order BGR is for three channels, got --mean of {len(self.mean)}")
        white = 255 * (1 / 255 if self.scale is None else self.scale)
        for name, most in (("mean", white), ("std", 10 * white)):
            values = getattr(self, name) or ()
            if any(value > most for value in values):
                raise PreprocessingError(
                    f"{name}: got {', '.join(f'{value:g}' for value in values)} for pixels from 0 to {white:g}, of "
                    "which no picture has such a one; where they are measured in levels 0-255 say --scale 1, or "
                    "divide both mean and std by 255"
                )

    @property
    def channels(self) -> int | None:
        """How many channels were said to be, by the length of mean or std; None where neither was given."""
        given = self.mean or self.std
        return None if given is None else len(given)

    @property
    def _statistics(self) -> dict[str, tuple[float, ...]]:
        """Mean and std, as far as given, in the order R, G, B and on the scale 0-1.

        (x s - mean) / std of levels x is (x / 255 - mean k) / (std k) with k = 1 / (255 s).
        """
        factor = 1.0 if self.scale is None else 1 / (255 * self.scale)
        found = {name: values for name in ("mean", "std") if (values := getattr(self, name)) is not None}
        if self.color_order == "BGR":
            found = {name: values[::-1] for name, values in found.items()}
        return {name: tuple(value * factor for value in values) for name, values in found.items()}

    def applied_to(self, preprocessing: Preprocessing) -> Preprocessing:
        """Return `preprocessing` with these changes; a new input size keeps the share of the picture that is seen.

        Raises:
            PreprocessingError: If the result makes no sense, such as a standard deviation of 0.
        """
        changes: dict[str, Any] = dict(self._statistics)
        if self.interpolation is not None:
            changes["interpolation"] = self.interpolation
        if self.input_size is not None:
            changes.update(_at_size(preprocessing, self.input_size))
        if self.resize is not None:
            changes["resize"] = self.resize
            if isinstance(self.resize, tuple) and self.input_size is None:
                changes["crop"] = None
        try:
            return replace(preprocessing, **changes)
        except ValueError as err:
            raise PreprocessingError(f"preprocessing options: {err}") from err

    def complete(self, reason: str) -> Preprocessing:
        """Return the preprocessing that these options alone say: shorter side to the input size, center crop.

        Raises:
            PreprocessingError: Naming the options that are missing.
        """
        needed = {"--input-size": self.input_size, "--mean": self.mean, "--std": self.std}
        if isinstance(self.resize, tuple):
            del needed["--input-size"]
        if missing := [option for option, value in needed.items() if value is None]:
            raise PreprocessingError(
                f"{reason}; say how its images were prepared in training: {', '.join(missing)} "
                "(such as --input-size 224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225)"
            )
        size = _height_and_width(self.input_size)
        resize: Resize = self.resize
        if resize is None and size is not None:
            resize = size[0] if size[0] == size[1] else KeepRatio(*size, inside=False)
        try:
            return Preprocessing(
                resize=resize,
                crop=size,
                interpolation=self.interpolation or Interpolation.BILINEAR,
                mean=self._statistics["mean"],
                std=self._statistics["std"],
            )
        except ValueError as err:
            raise PreprocessingError(f"preprocessing options: {err}") from err


def wrong_channels(what: str, taken: int, given: int) -> str:
    """Return what to say where `what` takes `taken` channels and `--mean` or `--std` has `given` numbers."""
    channels, numbers = counted(taken, "channel"), counted(given, "number")
    example = ",".join(["0.5"] * taken)
    return (
        f"{what} takes {channels}, and --mean and --std give {numbers}; expected {taken} each. If its pictures have "
        f"{channels}, say them as in training (such as --mean {example} --std {example}); if they have {given}, the "
        f"network is another one: build it with a first convolution of {counted(given, 'channel')} (timm: "
        f"in_chans={given}) and give the weights trained with it"
    )


def unknown_channels(what: str, taken: int) -> str:
    """Return what to say where a network takes other than three channels, and nothing tells their statistics."""
    return (
        f"{what} takes {counted(taken, 'channel')}, and nothing tells how they were normalized; say --mean and --std, "
        f"{counted(taken, 'number')} each"
    )


def assumed_resize(options: PreprocessingOptions, result: Preprocessing) -> str | None:
    """Return what to say of a resize that follows from `--input-size` alone, or does not fill the crop; else None."""
    if options.resize is not None:
        return _black_border(result)
    if options.input_size is None or result.crop is None:
        return None
    height, width = result.crop
    exactly, side = f"{height}x{width}", min(height, width)
    if not isinstance(result.resize, int) or result.resize == side:
        return (
            f"assumed: what lies outside of the crop of {exactly} is cut off; --resize {exactly} keeps all of a picture"
        )
    return (
        f"assumed: resize {result.resize}, the usual {result.resize / side:.2f} times {side}, then crop {exactly}; if "
        f"training resized the whole picture, --resize {exactly} does exactly that"
    )


def _black_border(preprocessing: Preprocessing) -> str | None:
    """Return what to say of a crop that is larger than any resized picture; None where pictures can fill it."""
    if preprocessing.crop is None:
        return None
    resize, (height, width) = preprocessing.resize, preprocessing.crop
    if isinstance(resize, int):
        is_outside = resize < min(height, width)
    else:
        is_outside = isinstance(resize, tuple) and (resize[0] < height or resize[1] < width)
    if not is_outside:
        return None
    shown = f"{resize[0]}x{resize[1]}" if isinstance(resize, tuple) else f"{resize} pixels on its shorter side"
    return (
        f"a picture resized to {shown} does not fill the crop of {height}x{width}: the rest is black, as torchvision "
        f"pads it; if training did not, give --resize {height}x{width}, or --input-size as large as the resized picture"
    )


def _height_and_width(size: int | tuple[int, int] | None) -> tuple[int, int] | None:
    return (size, size) if isinstance(size, int) else size


def _at_size(old: Preprocessing, asked: int | tuple[int, int]) -> dict[str, Any]:
    """Return the fields of `old` that change for an input of another size: the share that is cut off stays."""
    size = _height_and_width(asked)
    assert size is not None
    if old.crop is None:
        return {"resize": size, "crop": None}
    changes: dict[str, Any] = {"crop": size}
    if isinstance(old.resize, int) and size[0] == size[1]:
        changes["resize"] = round(old.resize * size[0] / min(old.input_size))
    elif isinstance(old.resize, int):
        ratio = old.resize / min(old.input_size)
        changes["resize"] = KeepRatio(round(size[0] * ratio), round(size[1] * ratio), inside=False)
    elif isinstance(old.resize, tuple):
        changes["resize"] = _scaled(*old.resize, old, size)
    elif isinstance(old.resize, KeepRatio):
        height, width = _scaled(old.resize.height, old.resize.width, old, size)
        changes["resize"] = KeepRatio(height, width, inside=old.resize.inside)
    return changes


def _scaled(height: int, width: int, old: Preprocessing, size: tuple[int, int]) -> tuple[int, int]:
    old_height, old_width = old.input_size
    return round(height * size[0] / old_height), round(width * size[1] / old_width)
