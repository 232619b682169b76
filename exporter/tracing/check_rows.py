"""Does an answer depend on its own picture alone? Two looks at the reference, before a file of it is trusted.

Wherever a batch is padded or requests are joined (a fixed batch, the batcher, Triton's dynamic batching), a picture
meets neighbors that it did not have in training. BatchNorm without running statistics, or a mean over the batch, makes
its answer depend on them; Dropout in training mode makes it depend on chance. Neither shows when file and reference
are compared on the same batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from exporter.errors import UnstableAnswerError
from exporter.tracing.check_export import Exact, outputs_in_order
from runtimes.protocol import Array, Runtime

MAX_RELATIVE_CHANGE = 1e-3
"""Of the largest |output|. Float32 sums in another order move answers by up to 2e-4 of it (see `check_export`)."""


def check_rows_are_independent(
    reference: Runtime,
    images: NDArray[np.float32],
    *,
    tensors: Callable[[NDArray[np.float32], NDArray[np.float32]], Sequence[Mapping[str, Array]]],
    reference_name: str = "PyTorch",
    exact: Exact | None = None,
) -> None:
    """Raise unless a picture, float32 [n, 3, H, W], gets one answer, alone, again, and beside others.

    `tensors` returns what the exported file computes of two batches, by name in graph order, to say where it begins.

    Raises:
        UnstableAnswerError: Naming the tensor, and whether it is chance or the neighbors.
    """
    several = np.concatenate([images[:3], -3 * images[:1]])  # the last one is unlike all, whatever the pictures are

    def answers(batch: NDArray[np.float32]) -> list[Array]:
        return [values[:1] for values in outputs_in_order(reference, batch)]

    alone = answers(several[:1])
    if not _same(alone, answers(several[:1])):
        where = _first_change(*tensors(several[:1], several[:1]))
        raise UnstableAnswerError(
            f"{reference_name} gives two answers for one picture{where}: "
            "something in it draws by chance (Dropout in training mode) or counts; call model.eval(), or take it out"
        )
    if _same(alone, answers(several)):
        return
    if exact is not None and _same(*([out.values[:1] for out in exact(batch)] for batch in (several[:1], several))):
        return  # float32 rounds that much in this network; float64 does not
    raise UnstableAnswerError(
        f"an answer of {reference_name} depends on the other pictures of its batch"
        f"{_first_change(*tensors(several[:1], several))}: a server that joins requests would mix them up; "
        "normalize by stored statistics (BatchNorm with track_running_stats=True, model.eval()), or by the picture"
    )


def _same(one: list[Array], other: list[Array]) -> bool:
    return all(_change(a, b) <= MAX_RELATIVE_CHANGE for a, b in zip(one, other, strict=True))


def _change(one: Array, other: Array) -> float:
    """Return the largest |difference| as a share of the largest |value|; NaN in both is no change."""
    if one.shape != other.shape or one.size == 0:
        return np.inf
    both = [np.nan_to_num(side.astype(np.float64), posinf=1e300, neginf=-1e300) for side in (one, other)]
    difference = float(np.abs(both[0] - both[1]).max())
    return difference / largest if (largest := float(np.abs(both[0]).max())) else difference


def _first_change(before: Mapping[str, Array], after: Mapping[str, Array]) -> str:
    """Return ", first in TENSOR" where the exported file shows it, else nothing."""
    name = next((name for name in before if _is_changed(before[name], after[name])), None)
    return "" if name is None else f", first in {name!r}"


def _is_changed(one: Array, other: Array) -> bool:
    if one.dtype.kind != "f" or one.ndim < 2 or one.shape[1:] != other.shape[1:] or len(one) != 1:
        return False
    return _change(one, other[:1]) > MAX_RELATIVE_CHANGE
