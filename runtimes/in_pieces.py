"""Any number of rows, through what takes so many at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from runtimes.errors import InputMismatchError
from runtimes.protocol import Array


def run_in_pieces(
    run: Callable[[Mapping[str, Any]], dict[str, Array]], inputs: Mapping[str, Any], size: int
) -> dict[str, Array]:
    """Return the outputs of `run`, which is given at most `size` rows of every input at a time.

    Raises:
        InputMismatchError: If the inputs differ in their rows.
    """
    rows = {name: len(array) for name, array in inputs.items()}
    total = next(iter(rows.values()))
    if set(rows.values()) != {total}:
        raise InputMismatchError(f"the inputs have different batch sizes: {rows}; expected one")
    if total <= size:
        return run(inputs)
    starts = range(0, total, size)
    pieces = [run({name: array[start : start + size] for name, array in inputs.items()}) for start in starts]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}
