"""Images that refine a model: how many from which layer on, by hand, and how they are taken."""

from __future__ import annotations

import numpy as np
import pytest
from graph_builder import three_convolutions

from calibration.observers.tensor_bytes import multiply_adds
from calibration.pipeline import refinement_sample
from calibration.pipeline.refinement_sample import (
    MAX_SAMPLE,
    MIN_SAMPLE,
    images_per_layer,
    take_images,
)


def test_counts_follow_the_bytes_that_live_from_the_layer_before_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """6, 8, 7, 6 and 5 channels of 256 bytes live at a, its ReLU, b, its ReLU and c; whoever reads c has run b."""
    monkeypatch.setattr(refinement_sample, "MAX_LIVE_BYTES", 56 * 5 * 256)
    counts = images_per_layer(three_convolutions())
    assert counts == {"a": 35, "b": 35, "c": 40}
    assert list(counts) == ["a", "b", "c"]


def test_small_tensors_let_all_take_part() -> None:
    assert set(images_per_layer(three_convolutions()).values()) == {MAX_SAMPLE}


def test_fewer_take_part_where_one_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    macs = sum(multiply_adds(three_convolutions(), "abc").values())
    for images, count in ((80, 64), (50, 50), (32, 32), (10, 32)):
        monkeypatch.setattr(refinement_sample, "MAX_MACS", images * macs)
        assert set(images_per_layer(three_convolutions()).values()) == {count}


def test_few_take_part_where_one_is_large_or_sizes_are_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    model = three_convolutions()
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    assert set(images_per_layer(model).values()) == {MIN_SAMPLE}
    monkeypatch.setattr(refinement_sample, "MAX_LIVE_BYTES", 1)
    assert set(images_per_layer(three_convolutions()).values()) == {MIN_SAMPLE}


@pytest.mark.parametrize(
    ("sizes", "count"), [([40], 33), ([3, 20, 1], 21), ([5], 9), ([], 4), ([2, 2], 0), ([8, 8], 8)]
)
def test_images_are_taken_in_order_and_none_is_lost(sizes: list[int], count: int) -> None:
    numbers = np.arange(sum(sizes), dtype=np.float32)
    stream = iter(np.split(numbers, np.cumsum(sizes)[:-1]) if sizes else [])
    taken, left = take_images(stream, count)
    assert sum(map(len, taken)) == min(count, len(numbers))
    assert all(1 <= len(batch) <= refinement_sample.BATCH for batch in taken)
    assert [*np.concatenate([numbers[:0], *taken, *left])] == [*numbers]
