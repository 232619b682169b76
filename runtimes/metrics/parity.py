"""Does the candidate answer like the reference? Logits in, evidence out, in memory that does not grow.

agreement   share of images on which both have the same argmax
SQNR        10 log10( sum reference^2 / sum (reference - candidate)^2 )  in dB, over all logits of all images
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from runtimes.errors import RuntimeAdapterError
from runtimes.metrics.difference_sums import DifferenceSums
from runtimes.protocol import Array, Runtime


@dataclass(frozen=True, slots=True)
class ParityReport:
    """How a candidate's logits compare with the reference's.

    Attributes:
        num_images: Number of images compared, >= 1.
        agreement: Share of images with equal argmax, 0 to 1.
        max_abs_diff: Largest |reference - candidate| over all logits.
        max_abs_reference: Largest |reference| over all logits: the yardstick for max_abs_diff.
        sqnr_db: Signal to quantization noise in dB; None where it is no finite number: the two are bit-equal
            (`max_abs_diff` is 0), or the reference is zero everywhere and the candidate is not.
        top1_reference: Share of images whose label the reference gives, or None without labels.
        top1_candidate: Share of images whose label the candidate gives, or None without labels.
    """

    num_images: int
    agreement: float
    max_abs_diff: float
    max_abs_reference: float
    sqnr_db: float | None
    top1_reference: float | None
    top1_candidate: float | None

    @property
    def top1_drop_pp(self) -> float | None:
        """Top-1 lost by the candidate in percentage points (negative: gained), or None without labels."""
        if self.top1_reference is None or self.top1_candidate is None:
            return None
        return 100.0 * (self.top1_reference - self.top1_candidate)

    def to_json(self) -> dict[str, Any]:
        """Return all fields and the drop."""
        return {**asdict(self), "top1_drop_pp": self.top1_drop_pp}


class ParityMeter:
    """Adds up batches of logits; `report` may be asked for at any time."""

    def __init__(self) -> None:
        self._num_images = 0
        self._num_labelled = 0
        self._equal = 0
        self._correct = [0, 0]
        self._sums = DifferenceSums()

    def add(self, reference: Array, candidate: Array, labels: Sequence[int] | None = None) -> None:
        """Add one batch.

        Args:
            reference: Logits, float [n, num_classes].
            candidate: Logits of the same images, same shape.
            labels: Class index per image, 0 <= index < num_classes, or None.

        Raises:
            ValueError: If shapes or lengths differ, or a label is no class; nothing is added then.
            RuntimeAdapterError: If either side holds NaN or Inf; such logits are never compared.
        """
        if reference.shape != candidate.shape or reference.ndim != 2:
            raise ValueError(f"logits: got {reference.shape} and {candidate.shape}, expected equal [n, num_classes]")
        for side, logits in (("reference", reference), ("candidate", candidate)):
            if not np.isfinite(logits).all():
                raise RuntimeAdapterError(f"the {side} gave NaN or Inf in {np.sum(~np.isfinite(logits))} logits")
        truth = None if labels is None else _checked_labels(labels, reference)
        trusted, tested = reference.astype(np.float64), candidate.astype(np.float64)
        winners = trusted.argmax(axis=1), tested.argmax(axis=1)
        self._num_images += len(trusted)
        self._equal += int(np.sum(winners[0] == winners[1]))
        self._sums.add(trusted, tested)
        if truth is not None:
            self._num_labelled += len(truth)
            for place, winner in enumerate(winners):
                self._correct[place] += int(np.sum(winner == truth))

    def report(self) -> ParityReport:
        """Return the comparison of everything added.

        Raises:
            ValueError: If nothing was added, or only some images came with labels.
        """
        if not self._num_images:
            raise ValueError("no image was compared; an empty comparison proves nothing")
        if self._num_labelled not in (0, self._num_images):
            raise ValueError(f"{self._num_labelled} of {self._num_images} images came with labels; give all or none")
        top1 = [count / self._num_images for count in self._correct] if self._num_labelled else [None, None]
        return ParityReport(
            num_images=self._num_images,
            agreement=self._equal / self._num_images,
            max_abs_diff=self._sums.max_abs_diff,
            max_abs_reference=self._sums.max_abs_reference,
            sqnr_db=self._sums.sqnr_db,
            top1_reference=top1[0],
            top1_candidate=top1[1],
        )


@dataclass(frozen=True, slots=True)
class TensorParity:
    """How a tensor that is no logits compares with the reference's: a feature map.

    Attributes:
        num_images: Number of images compared, >= 1.
        max_abs_diff: Largest |reference - candidate|.
        max_abs_reference: Largest |reference|.
        sqnr_db: As in `ParityReport`.
        cosine: Cosine of the angle between the two, over all values of all images; None where one is zero.
    """

    num_images: int
    max_abs_diff: float
    max_abs_reference: float
    sqnr_db: float | None
    cosine: float | None

    def to_json(self) -> dict[str, Any]:
        """Return all fields."""
        return asdict(self)


class TensorMeter:
    """Adds up batches of one output; `report` may be asked for at any time."""

    def __init__(self) -> None:
        self._num_images = 0
        self._sums = DifferenceSums()

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
        )


def _checked_labels(labels: Sequence[int], logits: Array) -> Array:
    truth = np.asarray(labels)
    num_images, num_classes = logits.shape
    if truth.shape != (num_images,):
        raise ValueError(f"labels: got shape {list(truth.shape)}, expected [{num_images}]")
    if num_images and (truth.min() < 0 or truth.max() >= num_classes):
        raise ValueError(f"labels: got {truth.min()} to {truth.max()}, expected 0 to {num_classes - 1}")
    return truth


def compare(
    reference: Runtime, candidate: Runtime, batches: Iterable[Array], *, labels: Sequence[int] | None = None
) -> ParityReport:
    """Run both runtimes over the same images and compare their first outputs.

    Args:
        reference: The trusted side.
        candidate: The tested side.
        batches: Preprocessed images, float32 [n, C, H, W].
        labels: Class index of every image of all batches, in order, or None.

    Raises:
        ValueError: If there was no image, or the labels do not match in number.
    """
    meter = ParityMeter()
    done = 0
    for images in batches:
        truth = None if labels is None else labels[done : done + len(images)]
        meter.add(first_output(reference, images), first_output(candidate, images), truth)
        done += len(images)
    if labels is not None and done != len(labels):
        raise ValueError(f"got {len(labels)} labels for {done} images")
    return meter.report()


def first_output(runtime: Runtime, images: Array) -> Array:
    """Run a model of one input and return its first output."""
    outputs = runtime.run({next(iter(runtime.input_specs)): images})
    return outputs[next(iter(runtime.output_specs))]
