"""A deserialized engine: what loaded it, its tensors, its profile and who holds that."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtimes.errors import ModelClosedError, RuntimeAdapterError
from runtimes.protocol import TensorSpec
from runtimes.trt.tensorrt_library import TensorRtLibrary

PROFILE = 0
"""The builder adds one optimization profile."""


class ProfileInUseError(RuntimeAdapterError):
    """TensorRT 8.6 lets one context at a time use a profile, unless the engine was built to share it, as ours are."""


def closed_error() -> ModelClosedError:
    """Return the error of a use after close."""
    return ModelClosedError("this runtime is closed; open the engine again")


@dataclass(frozen=True, slots=True)
class LoadedEngine:
    """A deserialized engine.

    Attributes:
        loaded_by: The library that loaded it.
        runtime: TensorRT's runtime, which must live as long as the engine.
        engine: The engine.
        inputs: Specification of each input; the first axis is None where the profile has a range.
        outputs: Specification of each output.
        batch: Smallest and largest batch of the profile, or None when all shapes are fixed.
        shares_profile: Whether several contexts may use the profile at the same time: always from TensorRT 10 on; an
            engine of 8.6 only where it was built so.
        making: Held while contexts are made or exchanged for others.
        holders: The contexts that are alive and use the profile.
    """

    loaded_by: TensorRtLibrary
    runtime: Any
    engine: Any
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    batch: tuple[int, int] | None
    shares_profile: bool
    making: threading.RLock = field(default_factory=threading.RLock)
    holders: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)

    def shape(self, spec: TensorSpec, batch: int) -> tuple[int, ...]:
        """Return the shape of a tensor at a batch size."""
        return tuple(batch if size is None else size for size in spec.shape)

    def failed(self, what: str) -> RuntimeAdapterError:
        """Return the error for a refused call, with TensorRT's own words."""
        return RuntimeAdapterError(f"{self.loaded_by.flavor}: {what} failed: {self.loaded_by.log.last_words()}")
