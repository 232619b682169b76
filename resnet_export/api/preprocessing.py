"""How a model's images are prepared, as a Python user says it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Union

from exporter.preprocessing.options import PreprocessingOptions
from runtimes.preprocessing.resize import KeepRatio
from runtimes.preprocessing.transform import Interpolation
from runtimes.preprocessing.transform import Preprocessing as Resolved

PreprocessingLike = Union["Preprocessing", Resolved, PreprocessingOptions, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """How images are prepared; what is left out is taken from the weights, where those say it.

    Attributes:
        size: Side of the center crop in pixels: the network's input is [3, size, size].
        resize: Shorter side in pixels before the crop, or exactly (height, width) without a crop; `size` by default.
        mean: R, G, B, subtracted on the scale 0-1.
        std: R, G, B, divided by on the scale 0-1.
        interpolation: "bilinear", "bicubic", "nearest", "box", "hamming" or "lanczos", antialiased.
    """

    size: int | None = None
    resize: int | tuple[int, int] | None = None
    mean: Sequence[float] | None = None
    std: Sequence[float] | None = None
    interpolation: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no preprocessing.

        Raises:
            ValueError, TypeError: Naming the field.
        """
        self.options()

    def options(self) -> PreprocessingOptions:
        """Return the same as the exporter takes it."""
        interpolation = None
        if self.interpolation is not None:
            try:
                interpolation = Interpolation(self.interpolation)
            except ValueError:
                known = ", ".join(one.value for one in Interpolation)
                raise ValueError(f"interpolation: got {self.interpolation!r}, expected one of {known}") from None
        return PreprocessingOptions(
            input_size=_side("size", self.size),
            resize=_resize(self.resize),
            mean=_numbers("mean", self.mean),
            std=_numbers("std", self.std),
            interpolation=interpolation,
        )


def preprocessing_options(given: PreprocessingLike) -> PreprocessingOptions:
    """Return what was said about preprocessing as the exporter takes it.

    Raises:
        TypeError: If it is no preprocessing.
    """
    if given is None:
        return PreprocessingOptions()
    if isinstance(given, PreprocessingOptions):
        return given
    if isinstance(given, Preprocessing):
        return given.options()
    if isinstance(given, Resolved):
        return _options_from_resolved(given)
    raise TypeError(
        f"preprocessing: got {type(given).__name__}, expected resnet_export.Preprocessing(size=..., mean=..., std=...)"
    )


def _options_from_resolved(given: Resolved) -> PreprocessingOptions:
    height, width = given.input_size
    exact = given.crop is None
    if isinstance(given.resize, KeepRatio) or given.resize is None or (not exact and height != width):
        raise ValueError(
            f"preprocessing: got {given}, expected a square center crop, or an exact resize; other ways are read from "
            "weights only"
        )
    size = None if exact else height
    return PreprocessingOptions(size, given.resize, given.mean, given.std, given.interpolation)


def _side(name: str, value: Any) -> int | None:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ValueError(f"{name}: got {value!r}, expected pixels, a whole number >= 1")
    return value


def _resize(value: Any) -> int | tuple[int, int] | None:
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"resize: got {value!r}, expected a shorter side, or (height, width)")
        height, width = (_side("resize", side) for side in value)
        assert height is not None
        assert width is not None
        return height, width
    return _side("resize", value)


def _numbers(name: str, value: Any) -> Any:
    if value is None:
        return None
    try:
        return tuple(float(number) for number in value)
    except (TypeError, ValueError) as err:
        raise TypeError(
            f"{name}: got {value!r}, expected one number per channel, such as (0.485, 0.456, 0.406)"
        ) from err
