"""Arrays in GPU memory of other libraries, read in place: DLPack and `__cuda_array_interface__`.

Whoever made the array may still be writing it, in a stream of theirs. With DLPack we name our stream and the producer
makes it wait; `__cuda_array_interface__` names theirs, and we wait. Version 2 of that names none: then for the default
stream, where PyTorch, CuPy and Numba work unless told otherwise.

Source: Python array API standard, data interchange (`__dlpack__`); dlpack.h; Numba, CUDA Array Interface (version 3).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from runtimes.errors import InputMismatchError
from runtimes.protocol import TensorSpec, check_inputs, check_names

CUDA_ARRAY = "__cuda_array_interface__"
LEGACY_STREAM = 1
"""The default stream, by both protocols' numbering and CUDA's (cudaStreamLegacy)."""

_CUDA_DEVICES = (2, 13)  # kDLCUDA, kDLCUDAManaged
_KINDS = {0: "int", 1: "uint", 2: "float", 6: "bool"}  # DLDataTypeCode
_CAPSULE = b"dltensor"


@dataclass(frozen=True, slots=True, eq=False)
class DeviceArray:
    """An array in GPU memory, C-contiguous unless it says otherwise.

    Attributes:
        address: Of its first element.
        owner: What keeps the memory alive.
        wait_for: The stream in which it is written, to wait for; None when there is nothing to wait for.
        is_writeable: Whether its producer lets others write.
    """

    address: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    owner: Any
    wait_for: int | None = None
    is_contiguous: bool = True
    is_writeable: bool = True

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> DeviceArray:
        """Return some rows, in place."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise ValueError(f"rows of an array in GPU memory: got step {step}, expected 1")
        size = self.nbytes // len(self)
        return replace(self, address=self.address + start * size, shape=(max(0, stop - start), *self.shape[1:]))


def is_on_device(value: Any) -> bool:
    """Tell whether a value is an array that says it is in GPU memory."""
    if isinstance(value, (np.ndarray, DeviceArray)):
        return isinstance(value, DeviceArray)
    return hasattr(value, CUDA_ARRAY) or _dlpack_device(value) in _CUDA_DEVICES


def read_inputs(specs: Mapping[str, TensorSpec], inputs: Mapping[str, Any], stream: int) -> dict[str, Any]:
    """Return the inputs of a model as NumPy arrays and `DeviceArray`s, without copying any.

    Args:
        specs: What the model takes.
        inputs: Name to what `check_inputs` takes, or to an array on GPU 0 with `__dlpack__` or
            `__cuda_array_interface__`.
        stream: Where the model will run.

    Raises:
        InputMismatchError: If a name, device, dtype, shape or layout is wrong.
    """
    check_names(specs, inputs)
    on_device = {name for name, value in inputs.items() if is_on_device(value)}
    on_host = {name: spec for name, spec in specs.items() if name not in on_device}
    read: dict[str, Any] = dict(check_inputs(on_host, {name: inputs[name] for name in on_host}))
    for name in on_device:
        read[name] = _read(name, inputs[name], specs[name], stream)
    return read


def _read(name: str, value: Any, spec: TensorSpec, stream: int) -> DeviceArray:
    try:
        has_dlpack = _dlpack_device(value) in _CUDA_DEVICES  # before the other protocol: PyTorch's has no stream
        array = _from_dlpack(name, value, stream) if has_dlpack else read_cuda_array(value)
    except InputMismatchError:
        raise
    except Exception as err:  # what another library's conversion raises is its own choice
        raise InputMismatchError(f"input {name!r}: {type(value).__name__} cannot be read in place: {err!r}") from err
    got = TensorSpec(array.dtype.name, array.shape)
    if not spec.fits(array.dtype, array.shape):
        raise InputMismatchError(f"input {name!r}: got {got} on the GPU, expected {spec}; resize and cast before run()")
    if 0 in array.shape:
        raise InputMismatchError(f"input {name!r}: got an empty array {list(array.shape)}, expected {spec}")
    if not array.is_contiguous:
        raise InputMismatchError(
            f"input {name!r}: got {got} on the GPU with gaps or turned axes, expected C-contiguous; make it contiguous "
            "before run()"
        )
    return array


def read_cuda_array(value: Any) -> DeviceArray:
    """Return an array with `__cuda_array_interface__`, version 2 or 3, as it is."""
    told = getattr(value, CUDA_ARRAY)
    address, read_only = told["data"]
    dtype, shape = np.dtype(told["typestr"]), tuple(int(size) for size in told["shape"])
    strides = told.get("strides")
    dense = strides is None or _is_dense(shape, [step / dtype.itemsize for step in strides])
    stream = told.get("stream") if told.get("version", 0) >= 3 else LEGACY_STREAM
    if stream == 0:
        raise ValueError(f"{CUDA_ARRAY}: got stream 0, expected None, 1, 2 or a stream's address")
    return DeviceArray(int(address or 0), dtype, shape, value, stream, dense, not read_only)


def _is_dense(shape: tuple[int, ...], strides: list[float]) -> bool:
    """Tell whether strides, counted in elements, are those of a C-contiguous array; of axes of size 1 none matters."""
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True


def _dlpack_device(value: Any) -> int | None:
    """Return the kind of device that a value's DLPack protocol tells, or None where it has none."""
    if not (hasattr(value, "__dlpack__") and hasattr(value, "__dlpack_device__")):
        return None
    return int(value.__dlpack_device__()[0])


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


def _from_dlpack(name: str, value: Any, stream: int) -> DeviceArray:
    """Read a DLPack capsule, which begins with a DLTensor. Not consumed, it frees its tensor when it is dropped."""
    device = int(value.__dlpack_device__()[1])
    if device != 0:
        raise InputMismatchError(
            f"input {name!r}: got {type(value).__name__} on GPU {device}, expected GPU 0, where the engine is"
        )
    capsule = value.__dlpack__(stream=stream)
    get_pointer = ctypes.pythonapi.PyCapsule_GetPointer
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _DLTensor.from_address(get_pointer(capsule, _CAPSULE))
    if tensor.code not in _KINDS or tensor.lanes != 1:
        raise InputMismatchError(
            f"input {name!r}: got DLPack type {tensor.code} of {tensor.bits} bits, which NumPy lacks"
        )
    kind = _KINDS[tensor.code]
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = None if not tensor.strides else [float(step) for step in tensor.strides[: tensor.ndim]]
    return DeviceArray(
        (tensor.data or 0) + tensor.byte_offset,
        np.dtype(kind if kind == "bool" else f"{kind}{tensor.bits}"),
        shape,
        (value, capsule),
        is_contiguous=strides is None or _is_dense(shape, strides),
    )
