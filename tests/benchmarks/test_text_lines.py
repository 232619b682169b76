"""Text lines for networks that read them."""

from __future__ import annotations

import random

import numpy as np

from benchmarks.text_lines import SIZE, line


def test_lines_hold_text_darker_than_what_is_behind_it():
    for seed in range(8):
        picture = line(random.Random(seed), gradient=seed % 2 == 1)
        grey = np.asarray(picture.convert("L"))
        assert picture.size == SIZE
        assert grey.min() < 120 < grey.max()
        assert 0.001 < np.mean(grey < 120) < 0.5


def test_about_half_of_them_stand_upside_down():
    """Text begins at the left: upside down, the darkest columns end at the right."""
    begins_left = 0
    for seed in range(40):
        dark = np.flatnonzero((np.asarray(line(random.Random(seed), gradient=False).convert("L")) < 120).any(axis=0))
        begins_left += int(dark[0] < 20)
    assert 10 <= begins_left <= 35
