"""Which positions of an image stand for all of them."""

from __future__ import annotations

import math


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
