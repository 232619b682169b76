"""Numbers in messages: one image, two images."""

from __future__ import annotations

import pytest

from runtimes.counted import counted


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 images"), (1, "1 image"), (2, "2 images"), (33432, "33,432 images")],
)
def test_a_noun_agrees_with_its_number(number: int, words: str) -> None:
    assert counted(number, "image") == words


def test_a_noun_may_have_a_plural_of_its_own() -> None:
    assert [counted(number, "bias", "biases") for number in (1, 2)] == ["1 bias", "2 biases"]
