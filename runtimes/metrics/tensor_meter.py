"""Adds up batches of an output that is no logits, such as a feature map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from runtimes.errors import RuntimeAdapterError
from runtimes.io.json_fields import JsonFields
from runtimes.metrics.difference_sums import DifferenceSums
from runtimes.protocol import Array


@dataclass(frozen=True, slots=True)
class TensorParity(JsonFields):
    """How a tensor that is no logits compares with the reference's: a feature map.

    Attributes:
        max_abs_diff: Largest |reference - candidate|.
        sqnr_db: Signal to noise in dB; None where it is no finite number.
        cosine: Cosine of the angle between the two, over all values of all images; None where one is zero.
        pixel_agreement: Of maps [n, C, H, W] with several channels: share of positions at which both have the same
            largest channel, the class that a segmentation network gives; None for other tensors.
    """

    num_images: int
    max_abs_diff: float
    max_abs_reference: float
    sqnr_db: float | None
    cosine: float | None
    pixel_agreement: float | None = None


class TensorMeter:
    """Adds up batches of one output; `report` may be asked for at any time."""

    def __init__(self) -> None:
        self._num_images = 0
        self._sums = DifferenceSums()
        self._positions = self._equal = 0

    def add(self, reference: Array, candidate: Array) -> None:
        """Add one batch, float [n, ...] each.

        Raises:
            ValueError: If the shapes differ.
            RuntimeAdapterError: If either side holds NaN or Inf.
        """
        if reference.shape != candidate.shape:
            raise ValueError(f"features: got {reference.shape} and {candidate.shape}, expected equal shapes")
        trusted, tested = reference.astype(np.float64), candidate.astype(np.float64)
        for side, values in (("reference", trusted), ("candidate", tested)):
            if not np.isfinite(values).all():
                raise RuntimeAdapterError(f"the {side} gave NaN or Inf in {np.sum(~np.isfinite(values))} values")
        self._sums.add(trusted, tested)
        self._num_images += len(trusted)
        if trusted.ndim == 4 and trusted.shape[1] > 1:
            same = trusted.argmax(axis=1) == tested.argmax(axis=1)
            self._positions += same.size
            self._equal += int(same.sum())

    def include(self, other: TensorMeter) -> None:
        """Add what another meter has added up."""
        self._sums.include(other._sums)
        self._num_images += other._num_images
        self._positions += other._positions
        self._equal += other._equal

    def report(self) -> TensorParity:
        """Return the comparison of everything added.

        Raises:
            ValueError: If nothing was added.
        """
        if not self._num_images:
            raise ValueError("no image was compared; an empty comparison proves nothing")
        return TensorParity(
            num_images=self._num_images,
            max_abs_diff=self._sums.max_abs_diff,
            max_abs_reference=self._sums.max_abs_reference,
            sqnr_db=self._sums.sqnr_db,
            cosine=self._sums.cosine,
            pixel_agreement=self._equal / self._positions if self._positions else None,
        )
