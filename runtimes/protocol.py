"""The contract every runtime keeps: named input arrays in, named output arrays out."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from runtimes.closing import Closing
from runtimes.errors import InputMismatchError

if TYPE_CHECKING:
    from typing_extensions import Self

Array = NDArray[Any]

_NUMPY_DTYPES = frozenset(
    ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool")
)


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """Type by its NumPy name, such as "float32", and shape of one input or output; None is a dynamic axis."""

    dtype: str
    shape: tuple[int | None, ...]

    def __str__(self) -> str:
        """Return the form messages use, `float32 [N, 3, 224, 224]`."""
        return f"{self.dtype} [{', '.join('N' if n is None else str(n) for n in self.shape)}]"

    def admits(self, array: Array) -> bool:
        """Tell whether `array` has this dtype and fits this shape."""
        return self.fits(array.dtype, array.shape)

    def fits(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bool:
        """Tell whether an array of `dtype` and `shape`, wherever it is, may be given."""
        return (
            dtype == np.dtype(self.dtype)
            and len(shape) == len(self.shape)
            and all(want is None or want == got for want, got in zip(self.shape, shape, strict=True))
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


class RuntimeAdapter(Closing):
    """Base of the adapters, which are closed at the end of a `with` block.

    Attributes:
        input_specs: Name to specification of every input.
        output_specs: Name to specification of every output, in the model's order.
    """

    input_specs: Mapping[str, TensorSpec]
    output_specs: Mapping[str, TensorSpec]

    @abstractmethod
    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model once; see `Runtime.run`."""


class InputCheck:
    """`check_inputs` for one model, in about a microsecond where the inputs are right: what it compares is prepared."""

    __slots__ = ("_expected", "_specs")

    def __init__(self, specs: Mapping[str, TensorSpec]) -> None:
        self._specs = specs
        self._expected = tuple(
            (
                name,
                np.dtype(spec.dtype) if spec.dtype in _NUMPY_DTYPES else None,
                len(spec.shape),
                tuple((axis, size) for axis, size in enumerate(spec.shape) if size is not None),
            )
            for name, spec in specs.items()
        )

    def __call__(self, inputs: Mapping[str, Any]) -> Mapping[str, Array]:
        """Return what `check_inputs` returns, or raise what it raises."""
        if isinstance(inputs, Mapping) and len(inputs) == len(self._expected):
            for name, dtype, rank, sizes in self._expected:
                array = inputs.get(name)
                if type(array) is not np.ndarray or array.dtype != dtype or array.ndim != rank or not array.size:
                    break
                shape = array.shape
                if any(shape[axis] != size for axis, size in sizes):
                    break
            else:
                return inputs
        return check_inputs(self._specs, inputs)


def outputs_of(runtime: Runtime, images: Array) -> dict[str, Array]:
    """Run a model of one input and return its outputs by name."""
    return runtime.run({next(iter(runtime.input_specs)): images})


def check_names(specs: Mapping[str, TensorSpec], inputs: Mapping[str, Any]) -> None:
    """Raise unless `inputs` has exactly the names of `specs`.

    Raises:
        InputMismatchError: Naming the input.
    """
    if not isinstance(inputs, Mapping):
        names = ", ".join(specs)
        raise InputMismatchError(f"inputs: got {type(inputs).__name__}, expected a mapping {{{names!r}: array}}")
    if missing := sorted(specs.keys() - inputs.keys()):
        raise InputMismatchError(f"input {missing[0]!r} is missing; got {sorted(inputs)}, expected {sorted(specs)}")
    if unknown := sorted(inputs.keys() - specs.keys()):
        raise InputMismatchError(f"input {unknown[0]!r} is not one of the model's: {sorted(specs)}")


def check_inputs(specs: Mapping[str, TensorSpec], inputs: Mapping[str, Any]) -> Mapping[str, Array]:
    """Return NumPy and DLPack arrays as NumPy arrays, without a copy, if they are exactly as `specs` say.

    Raises:
        InputMismatchError: Naming the input, what was got and what was expected.
    """
    check_names(specs, inputs)
    arrays = {name: _host_array(name, inputs[name], spec) for name, spec in specs.items()}
    for name, spec in specs.items():
        array = arrays[name]
        if not array.dtype.isnative and spec.fits(array.dtype.newbyteorder("="), array.shape):
            raise InputMismatchError(
                f"input {name!r}: got {array.dtype.str}, {array.dtype.name} in the byte order of another machine, "
                f"expected this machine's; give array.astype(np.{spec.dtype})"
            )
        if not spec.admits(array):
            got = TensorSpec(array.dtype.name, array.shape)
            raise InputMismatchError(f"input {name!r}: got {got}, expected {spec}; resize and cast before run()")
        if 0 in array.shape:
            raise InputMismatchError(f"input {name!r}: got an empty array {list(array.shape)}, expected {spec}")
    return arrays


def _host_array(name: str, value: Any, spec: TensorSpec) -> Array:
    """Return a value as NumPy's array, without a copy."""
    if isinstance(value, np.ndarray):
        return value
    if not hasattr(value, "__dlpack__"):
        raise InputMismatchError(f"input {name!r}: got {type(value).__name__}, expected a NumPy array, {spec}")
    try:
        array: Array = np.from_dlpack(value)
    except Exception as err:  # what another library's conversion raises is its own choice
        raise InputMismatchError(
            f"input {name!r}: got {type(value).__name__} that NumPy cannot read by DLPack ({err}), expected an array "
            f"in main memory, {spec}"
        ) from err
    return array
