"""What a user says about preprocessing, laid over what the weights say; or alone, where nothing else tells.

Imports no framework.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from exporter.errors import PreprocessingError
from runtimes.preprocessing.resize import KeepRatio, Resize
from runtimes.preprocessing.transform import Interpolation, Preprocessing


@dataclass(frozen=True, slots=True)
class PreprocessingOptions:
    """Changes to a preprocessing; None leaves what the weights say.

    Attributes:
        input_size: Side in pixels of a square input.
        resize: Shorter side before the crop, or exactly (height, width).
        mean: R, G, B on the scale 0-1.
        std: R, G, B on the scale 0-1.
        interpolation: Of the resize.
    """

    input_size: int | None = None
    resize: int | tuple[int, int] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: Interpolation | None = None

    def applied_to(self, preprocessing: Preprocessing) -> Preprocessing:
        """Return `preprocessing` with these changes; a new input size keeps the share of the picture that is seen.

        Raises:
            PreprocessingError: If the result makes no sense, such as a standard deviation of 0.
        """
        changes: dict[str, Any] = {
            name: value for name in ("mean", "std", "interpolation") if (value := getattr(self, name)) is not None
        }
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
        """Return the preprocessing that these options alone say: shorter side to the input size, centre crop.

        Args:
            reason: Why nothing else tells.

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
        assert self.mean is not None
        assert self.std is not None
        side = self.input_size
        resize: Resize = self.resize or side
        try:
            return Preprocessing(
                resize=resize,
                crop=None if side is None else (side, side),
                interpolation=self.interpolation or Interpolation.BILINEAR,
                mean=self.mean,
                std=self.std,
            )
        except ValueError as err:
            raise PreprocessingError(f"preprocessing options: {err}") from err

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON can hold them."""
        shown = {name: getattr(self, name) for name in self.__slots__}
        return shown | {"interpolation": None if self.interpolation is None else self.interpolation.value}


def _at_size(old: Preprocessing, side: int) -> dict[str, Any]:
    """Return the fields of `old` that change for a square input of `side` pixels."""
    ratio = side / min(old.input_size)
    if old.crop is None:
        return {"resize": (side, side), "crop": None}
    changes: dict[str, Any] = {"crop": (side, side)}
    if isinstance(old.resize, int):
        changes["resize"] = round(old.resize * ratio)
    elif isinstance(old.resize, tuple):
        changes["resize"] = _scaled(*old.resize, old, side)
    elif isinstance(old.resize, KeepRatio):
        height, width = _scaled(old.resize.height, old.resize.width, old, side)
        changes["resize"] = KeepRatio(height, width, inside=old.resize.inside)
    return changes


def _scaled(height: int, width: int, old: Preprocessing, side: int) -> tuple[int, int]:
    old_height, old_width = old.input_size
    return round(height * side / old_height), round(width * side / old_width)
