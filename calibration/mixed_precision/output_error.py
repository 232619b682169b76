"""How far a quantized model's answers are from the float model's, over images added batch by batch.

SQNR       10 log10( sum reference^2 / sum (reference - candidate)^2 )  in dB, over all logits
KL         mean over images of  sum_c p_c log(p_c / q_c)  in nats, p and q the softmax of reference and candidate
agreement  share of images with equal argmax
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.errors import CalibrationError
from runtimes.metrics.kl_divergence import kl_divergence
from runtimes.metrics.parity import first_output
from runtimes.protocol import Runtime

Logits = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class OutputError:
    """Distance between two models' outputs.

    Attributes:
        num_images: Images compared, >= 1.
        sqnr_db: Signal to noise in dB; None where there is no noise, or no signal.
        kl: Kullback-Leibler divergence of the softmax in nats, mean over the images, >= 0.
        agreement: Share of images with equal argmax, 0 to 1.
    """

    num_images: int
    sqnr_db: float | None
    kl: float
    agreement: float

    def to_json(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


class OutputErrorMeter:
    """Adds up batches of logits."""

    def __init__(self) -> None:
        self._num_images = 0
        self._equal = 0
        self._signal = self._noise = self._divergence = 0.0

    def add(self, reference: Logits, candidate: Logits) -> None:
        """Add one batch.

        Args:
            reference: The float model's logits [n, num_classes].
            candidate: The quantized model's, same shape.

        Raises:
            CalibrationError: If a logit is NaN or Inf: then there is no distance.
        """
        trusted, tested = reference.astype(np.float64), candidate.astype(np.float64)
        if not (np.isfinite(trusted).all() and np.isfinite(tested).all()):
            raise CalibrationError("the model gives NaN or Inf; check the weights and the preprocessing")
        self._num_images += len(trusted)
        self._equal += int(np.sum(trusted.argmax(axis=1) == tested.argmax(axis=1)))
        self._signal += float(np.sum(np.square(trusted)))
        self._noise += float(np.sum(np.square(trusted - tested)))
        self._divergence += float(kl_divergence(trusted, tested).sum())

    def result(self) -> OutputError:
        """Return the distance over everything added.

        Raises:
            CalibrationError: If nothing was added.
        """
        if not self._num_images:
            raise CalibrationError("got no image to compare outputs on, expected at least one")
        sqnr = 10.0 * math.log10(self._signal / self._noise) if self._signal > 0 and self._noise > 0 else None
        kl = max(0.0, self._divergence / self._num_images)  # rounding may leave -1e-17
        return OutputError(self._num_images, sqnr, kl, self._equal / self._num_images)


def output_error(
    reference: Iterable[Logits], candidate: Runtime, batches: Iterable[NDArray[np.float32]]
) -> OutputError:
    """Return the distance of `candidate` from known logits.

    Args:
        reference: The float model's logits, batch by batch.
        candidate: The quantized model, open.
        batches: The same images, float32 [n, C, H, W].
    """
    meter = OutputErrorMeter()
    for logits, images in zip(reference, batches, strict=True):
        meter.add(logits, first_output(candidate, images))
    return meter.result()
