"""A runtime of a fixed batch size that serves any: what exceeds it runs in pieces, what falls short of it is padded."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from runtimes.in_pieces import run_in_pieces
from runtimes.protocol import Array, InputCheck, Runtime, RuntimeAdapter, TensorSpec


def fixed_batch(runtime: Runtime) -> int | None:
    """Return the one batch size that a runtime takes, or None where it takes any, or none can be told.

    It can be told where every input and output has the same first axis.
    """
    specs = (*runtime.input_specs.values(), *runtime.output_specs.values())
    firsts = {spec.shape[0] if spec.shape else None for spec in specs}
    return firsts.pop() if len(firsts) == 1 else None


def any_batch(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """Return the specifications with a first axis of any size."""
    return {name: TensorSpec(spec.dtype, (None, *spec.shape[1:])) for name, spec in specs.items()}


class AnyBatch(RuntimeAdapter):
    """A runtime of a fixed batch size, closed with this one, taking any."""

    def __init__(self, runtime: Runtime, size: int) -> None:
        self._runtime = runtime
        self._size = size
        self.input_specs = any_batch(runtime.input_specs)
        self.output_specs = any_batch(runtime.output_specs)
        self._check = InputCheck(self.input_specs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run any number of rows; see `Runtime.run`.

        Raises:
            InputMismatchError: If an input has a wrong name, dtype or shape, or the inputs differ in their rows.
        """
        return run_in_pieces(self._run_padded, self._check(inputs), self._size)

    def close(self) -> None:
        """Release the model; a second call does nothing."""
        self._runtime.close()

    def _run_padded(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        count = len(next(iter(inputs.values())))
        if count == self._size:
            return self._runtime.run(inputs)
        padded = {
            # With a real row, not zeros: whatever a model makes of it, it is no worse than what it is for.
            name: np.concatenate([array, np.broadcast_to(array[-1:], (self._size - count, *array.shape[1:]))])
            for name, array in inputs.items()
        }
        return {name: array[:count].copy() for name, array in self._runtime.run(padded).items()}
