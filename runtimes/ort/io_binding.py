"""Arrays of the caller, in main memory or on a GPU, as a session's inputs and outputs, without a copy in between."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from runtimes.cuda.device_array import CUDA_ARRAY, read_cuda_array
from runtimes.errors import InputMismatchError
from runtimes.protocol import TensorSpec


class _Memory(NamedTuple):
    device: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    address: int
    is_contiguous: bool
    is_writeable: bool


def bind_arrays(
    session: Any,
    input_specs: Mapping[str, TensorSpec],
    inputs: Mapping[str, Any],
    output_specs: Mapping[str, TensorSpec],
    outputs: Mapping[str, Any],
) -> Any:
    """Return an `IOBinding` of every input and output; the arrays must live until the session has run.

    Source of the GPU form: Numba, "CUDA Array Interface (version 3)". Not yet run on a GPU.

    Raises:
        InputMismatchError: If a name is missing or unknown, or an array has a wrong dtype, shape or layout.
    """
    binding = session.io_binding()
    for what, specs, arrays, bind in (
        ("input", input_specs, inputs, binding.bind_input),
        ("output", output_specs, outputs, binding.bind_output),
    ):
        if specs.keys() != arrays.keys():
            raise InputMismatchError(f"{what}s: got {sorted(arrays)}, expected {sorted(specs)}")
        for name, spec in specs.items():
            memory = _memory(what, name, spec, arrays[name])
            if what == "output" and not memory.is_writeable:
                raise InputMismatchError(f"output {name!r}: got a read-only array; give one that can be written")
            bind(name, memory.device, 0, memory.dtype.type, list(memory.shape), memory.address)
    return binding


def _memory(what: str, name: str, spec: TensorSpec, array: Any) -> _Memory:
    if isinstance(array, np.ndarray):
        memory = _Memory(
            "cpu", array.dtype, array.shape, array.ctypes.data, array.flags.c_contiguous, array.flags.writeable
        )
    elif hasattr(array, CUDA_ARRAY):
        told = read_cuda_array(array)
        memory = _Memory("cuda", told.dtype, told.shape, told.address, told.is_contiguous, told.is_writeable)
    else:
        raise InputMismatchError(
            f"{what} {name!r}: got {type(array).__name__}, expected a NumPy array or one with {CUDA_ARRAY}, {spec}"
        )
    if not spec.fits(memory.dtype, memory.shape) or 0 in memory.shape:
        got = TensorSpec(memory.dtype.name, memory.shape)
        raise InputMismatchError(f"{what} {name!r}: got {got}, expected {spec}")
    if not memory.is_contiguous:
        raise InputMismatchError(f"{what} {name!r}: got an array with gaps or turned axes, expected C-contiguous")
    return memory
