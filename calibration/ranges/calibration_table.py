"""The result of calibration: tensor name -> amax and scale, with where they came from. JSON in and out."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from calibration.errors import CalibrationError
from calibration.methods.dialect import Dialect
from calibration.observers.activation_summary import Observed
from runtimes.io.json_types import check_kinds, finite

SCHEMA_VERSION = 2
"""2 added the dialect and unsigned ranges; 1, without them, is read as the TensorRT dialect."""


@dataclass(frozen=True, slots=True)
class TensorRange:
    """The range kept for one tensor.

    Attributes:
        amax: Largest absolute value kept, in tensor units, > 0.
        scale: The step, as float32 stores it: amax / 127 for INT8, (high - low) / 255 for UINT8.
        max_abs: Largest absolute value seen, exact; `max_abs > amax` means that values are clipped.
        zero_point: The level of 0: 0 for INT8, -low / scale for UINT8.
        dtype: "int8" (-127 to 127) or "uint8" (0 to 255).
        min_value: Least value seen, exact; None where only `max_abs` was looked for.
        max_value: Largest value seen, likewise.
    """

    amax: float
    scale: float
    max_abs: float
    zero_point: int = 0
    dtype: str = "int8"
    min_value: float | None = None
    max_value: float | None = None

    def __post_init__(self) -> None:
        """Refuse a range that no engine takes."""
        with np.errstate(over="ignore"):
            stored = float(np.float32(self.scale))
        if not (math.isfinite(self.amax) and self.amax > 0 and math.isfinite(stored) and stored > 0):
            raise CalibrationError(
                f"a range needs finite amax > 0 and a scale that float32 holds > 0, got {self.amax} and {self.scale}"
            )
        if not (math.isfinite(self.max_abs) and self.max_abs >= 0):
            raise CalibrationError(f"a range needs a finite max_abs >= 0, got {self.max_abs}")
        limits = {"int8": range(1), "uint8": range(256)}
        if self.dtype not in limits or self.zero_point not in limits[self.dtype]:
            raise CalibrationError(
                f"a range needs dtype int8 with zero_point 0 or uint8 with 0 to 255, got {self.dtype!r} with "
                f"{self.zero_point!r}"
            )

    def to_json(self) -> dict[str, Any]:
        """Return the range as `calibration.json` holds it."""
        content: dict[str, Any] = {"amax": self.amax, "scale": self.scale, "max_abs": self.max_abs}
        if self.dtype != "int8":
            content.update(zero_point=self.zero_point, dtype=self.dtype)
        seen = {"min_value": self.min_value, "max_value": self.max_value}
        return {**content, **{name: value for name, value in seen.items() if value is not None}}


@dataclass(frozen=True, slots=True)
class CalibrationTable:
    """Ranges of every quantized tensor and what they were measured on.

    Attributes:
        ranges: Tensor name to range.
        method: How amax was chosen, as `calibration.methods.method.describe` gives it.
        num_images: Number of images that were run.
        input_mean: Per channel mean of the model input over all of them, after normalization.
        input_std: Per channel standard deviation of the same.
        image_list_sha256: Hash of the names and contents of the images, empty when arrays were given.
        seed: Seed of the sample, None when nothing was sampled.
        dialect: Which tensors have ranges, and of which kind.
        observed: How the ranges settled and what the images and activations looked like; None in older tables.
        candidates: Method's command-line word to the range it gives every tensor; `refinement.choose_ranges` reads it.
        chosen: Tensor name to the method that its range is from, where that is not `method`.
    """

    ranges: Mapping[str, TensorRange]
    method: Mapping[str, Any]
    num_images: int
    input_mean: tuple[float, ...]
    input_std: tuple[float, ...]
    image_list_sha256: str = ""
    seed: int | None = None
    dialect: Dialect = Dialect.TENSORRT
    observed: Observed | None = None
    candidates: Mapping[str, Mapping[str, TensorRange]] = field(default_factory=dict)
    chosen: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return the content of `calibration.json`."""
        method = self.method["name"]
        candidates = {
            word: {name: kept.to_json() for name, kept in ranges.items()} for word, ranges in self.candidates.items()
        }
        return {
            "schema_version": SCHEMA_VERSION,
            "dialect": self.dialect.value,
            "method": dict(self.method),
            "num_images": self.num_images,
            "image_list_sha256": self.image_list_sha256,
            "seed": self.seed,
            "input_mean": list(self.input_mean),
            "input_std": list(self.input_std),
            "tensors": {
                name: {**kept.to_json(), "method": self.chosen.get(name, method)} for name, kept in self.ranges.items()
            },
            **({"candidates": candidates} if candidates else {}),
            "observed": None if self.observed is None else self.observed.to_json(),
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> CalibrationTable:
        """Return the table that `to_json` wrote.

        Raises:
            CalibrationError: If a key is missing, a value has a wrong type, or the schema is another.
        """
        if not isinstance(content, Mapping):
            raise CalibrationError(f"calibration table: got {type(content).__name__}, expected an object")
        if content.get("schema_version") not in (1, SCHEMA_VERSION):
            raise CalibrationError(
                f"calibration table: got schema {content.get('schema_version')}, expected 1 or {SCHEMA_VERSION}"
            )
        try:
            _check_kinds(content)
            method = content["method"]["name"]
            candidates = content.get("candidates", {})
            return cls(
                ranges=_ranges_from_json(content["tensors"]),
                method=dict(content["method"]),
                num_images=content["num_images"],
                input_mean=tuple(content["input_mean"]),
                input_std=tuple(content["input_std"]),
                image_list_sha256=content["image_list_sha256"],
                seed=content["seed"],
                dialect=Dialect("tensorrt" if content["schema_version"] == 1 else content["dialect"]),
                observed=None if (seen := content.get("observed")) is None else Observed.from_json(seen),
                candidates={word: _ranges_from_json(entries) for word, entries in candidates.items()},
                chosen={
                    name: str(word)
                    for name, entry in content["tensors"].items()
                    if (word := entry.get("method", method)) != method
                },
            )
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as err:
            raise CalibrationError(f"calibration table: a key is missing or of a wrong type: {err!r}") from err


def _ranges_from_json(entries: Mapping[str, Mapping[str, Any]]) -> dict[str, TensorRange]:
    return {name: _range_from_json(entry) for name, entry in entries.items()}


def _range_from_json(entry: Mapping[str, Any]) -> TensorRange:
    zero_point, dtype = entry.get("zero_point", 0), entry.get("dtype", "int8")
    check_kinds({"zero_point": zero_point, "dtype": dtype}, {"zero_point": int, "dtype": str})
    low, high = entry.get("min_value"), entry.get("max_value")
    return TensorRange(
        _number(entry, "amax"),
        _number(entry, "scale"),
        _number(entry, "max_abs"),
        zero_point,
        dtype,
        None if low is None else finite("min_value", low),
        None if high is None else finite("max_value", high),
    )


def _number(entry: Mapping[str, Any], name: str) -> float:
    """Return a number as it is: `TensorRange` says what is wrong with NaN or Inf."""
    value = entry[name]
    return value if isinstance(value, float) else finite(name, value)


def _check_kinds(content: Mapping[str, Any]) -> None:
    """Raise TypeError or ValueError unless the values outside "tensors" are of the kinds they are annotated with."""
    kinds = {"method": dict, "num_images": int, "image_list_sha256": str, "input_mean": list, "input_std": list}
    check_kinds(content, {**kinds, "seed": (int, type(None)), "tensors": dict})
    check_kinds(content["method"], {"name": str})
    for name in ("input_mean", "input_std"):
        for value in content[name]:
            finite(name, value)
