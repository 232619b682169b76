"""Which positions of an image stand for all of them, and which values for a whole answer."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

MAX_ANSWERS = 2**17
"""Values of an image's answer that are looked at: all logits of any classifier, a map's at some places. Those of 64
images take 32 MB at most."""


def sampled_positions(num_positions: int, wanted: int) -> slice:
    """Return every k-th of the positions of an image, at least about `wanted` of them (all, if there are no more).

    k shares no factor with the number of positions and so none with the width: the sample visits all columns alike.

    Args:
        num_positions: Height times width, >= 1.
        wanted: How many, >= 1.
    """
    stride = max(1, num_positions // wanted)
    while math.gcd(stride, num_positions) != 1:
        stride -= 1
    return slice(stride // 2, None, stride)


def sampled_answers(output: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return about `MAX_ANSWERS` values of each image's answer, all if there are no more, float32 [n, values]."""
    flat = output.reshape(len(output), -1)
    return flat[:, sampled_positions(flat.shape[1], MAX_ANSWERS)]
