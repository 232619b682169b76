"""The contract every runtime keeps: named input arrays in, named output arrays out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runtimes.errors import InputMismatchError

if TYPE_CHECKING:
    from typing_extensions import Self

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """What one input or output looks like.

    Attributes:
        dtype: NumPy name of the element type, such as "float32".
        shape: One entry per axis; None is a dynamic axis.
    """

    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        """Return the form messages use, `float32 [N, 3, 224, 224]`."""
        return f"{self.dtype} [{', '.join('N' if n is None else str(n) for n in self.shape)}]"

    def admits(self, array: Array) -> bool:
        """Tell whether `array` has this dtype and fits this shape."""
        return (
            array.dtype == np.dtype(self.dtype)
            and array.ndim == len(self.shape)
            and all(want is None or want == got for want, got in zip(self.shape, array.shape, strict=True))
        )


class Runtime(Protocol):
    """A loaded model. The caller owns the returned arrays; `run` after `close` raises."""

    @property
    def input_specs(self) -> Mapping[str, TensorSpec]:
        """Name to specification of every input."""
        ...

    @property
    def output_specs(self) -> Mapping[str, TensorSpec]:
        """Name to specification of every output, in the model's order."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model once; arrays are checked against `input_specs`."""
        ...

    def close(self) -> None:
        """Release the model; a second call does nothing."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


def check_inputs(specs: Mapping[str, TensorSpec], inputs: Mapping[str, Array]) -> None:
    """Raise unless `inputs` has exactly the names, dtypes and shapes of `specs`.

    Raises:
        InputMismatchError: Naming the input, what was got and what was expected.
    """
    if missing := sorted(specs.keys() - inputs.keys()):
        raise InputMismatchError(f"input {missing[0]!r} is missing; got {sorted(inputs)}, expected {sorted(specs)}")
    if unknown := sorted(inputs.keys() - specs.keys()):
        raise InputMismatchError(f"input {unknown[0]!r} is not one of the model's: {sorted(specs)}")
    for name, spec in specs.items():
        array = inputs[name]
        if not isinstance(array, np.ndarray):
            raise InputMismatchError(f"input {name!r}: got {type(array).__name__}, expected a NumPy array, {spec}")
        if not spec.admits(array):
            got = TensorSpec(array.dtype.name, array.shape)
            raise InputMismatchError(f"input {name!r}: got {got}, expected {spec}; resize and cast before run()")
        if 0 in array.shape:
            raise InputMismatchError(f"input {name!r}: got an empty array {list(array.shape)}, expected {spec}")
