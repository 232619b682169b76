"""A `torch.save` file with whatever a training script stored beside the weights, read without running any of it.

`torch.load(weights_only=True)` refuses a file as a whole when it names one class that it does not know. Here the file's
pickle is read by `exporter.checkpoints.inert_pickle`, tensors are made from the file's own bytes, and what would need
code is an `Opaque`: its name, and nothing else. The bytes stand in a zip archive or, in files before PyTorch 1.6,
behind the pickle (`legacy_file`).
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from exporter.checkpoints.inert_pickle import Made, Name, Storage, StoredTensor, read_inert
from exporter.checkpoints.legacy_file import BIG_ENDIAN, read_legacy_file
from exporter.checkpoints.pickle_imports import is_zip_archive
from exporter.errors import WeightsError

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
"""Source: torch/storage.py, _dtype_to_storage_type_map (PyTorch 2.15)."""

_ELEMENT_SIZES = {
    **{kind: dtype.itemsize for kind, dtype in _DTYPES.items()},
    **dict.fromkeys(("QInt8Storage", "QUInt8Storage", "QUInt4x2Storage", "QUInt2x4Storage"), 1),
    "QInt32Storage": 4,
}
"""Bytes of one element; a quantized tensor is not made, but its numbers are passed over."""

_NUMBER_CODES = frozenset({"f8", "f4", "f2", "b1", "i8", "i4", "i2", "i1", "u8", "u4", "u2", "u1"})
"""NumPy's type codes of real numbers; the digit is the size in bytes."""

_NUMPY_SCALARS = ("numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar")


@dataclass(frozen=True, slots=True)
class Opaque:
    """Something of the class or function `name` that was not made, because that would run code."""

    name: str


def read_inert_checkpoint(path: Path) -> object:
    """Return what a `torch.save` file holds: tensors, numbers, strings, containers, and `Opaque` for the rest.

    Objects with attributes or items (`argparse.Namespace`, Lightning's AttributeDict, OmegaConf's nodes) come as dicts.

    Raises:
        UnsafeCheckpointError: If it calls what acts on the machine; see `exporter.checkpoints.inert_pickle`.
        WeightsError: If it was written on a big-endian machine.
        Exception: Whatever damage makes a reader raise.
    """
    if not is_zip_archive(path):
        content, numbers = read_legacy_file(path, _ELEMENT_SIZES)
        return _Plain(numbers.__getitem__).of(content)
    with zipfile.ZipFile(path) as archive:
        pickled = next(name for name in archive.namelist() if name.split("/")[-1] == "data.pkl")
        folder = pickled.removesuffix("data.pkl")
        byteorder = f"{folder}byteorder"
        if byteorder in archive.namelist() and archive.read(byteorder).strip() != b"little":
            raise WeightsError(f"{path}: {BIG_ENDIAN}")
        return _Plain(lambda key: archive.read(f"{folder}data/{key}")).of(read_inert(archive.read(pickled)))


class _Plain:
    """Turns inert records into values, each once, so that shared and circular containers stay what they are."""

    def __init__(self, numbers: Callable[[str], bytes | memoryview]) -> None:
        self._numbers = numbers
        self._storages: dict[tuple[str, torch.dtype], Tensor] = {}
        self._done: dict[int, object] = {}
        self._alive: list[object] = []  # an id is only good as long as its object lives

    def of(self, value: object) -> object:
        if value is None or isinstance(value, (str, int, float, bytes, complex)):
            return value
        if id(value) in self._done:
            return self._done[id(value)]
        self._alive.append(value)
        if isinstance(value, dict):
            return self._dict(value, value)
        if isinstance(value, list):
            return self._list(value, value)
        result = self._other(value)
        self._done.setdefault(id(value), result)
        return result

    def _other(self, value: object) -> object:
        if isinstance(value, tuple):
            return tuple(map(self.of, value))
        if isinstance(value, StoredTensor):
            return self._tensor(value)
        if isinstance(value, Made):
            return self._object(value)
        return Opaque(value.text if isinstance(value, Name) else type(value).__name__)

    def _dict(self, key: object, entries: dict[Any, Any]) -> dict[Any, object]:
        result: dict[Any, object] = {}
        self._done[id(key)] = result
        for name, entry in entries.items():
            result[name] = self.of(entry)
        return result

    def _list(self, key: object, elements: list[Any]) -> list[object]:
        result: list[object] = []
        self._done[id(key)] = result
        result.extend(map(self.of, elements))
        return result

    def _object(self, made: Made) -> object:
        if made.name in _NUMPY_SCALARS:
            number = _number(made)
            return Opaque(made.name) if number is None else number
        if made.name.startswith("pathlib."):
            return "/".join(part for part in made.args if isinstance(part, str)).replace("//", "/")
        attributes = made.state if isinstance(made.state, dict) else {}
        if "_modules" in attributes and "_parameters" in attributes:
            return Opaque(made.name)  # a whole module: its forward is code, so it is not taken apart for its weights
        if made.elements and not made.items:
            return self._list(made, made.elements)
        if made.items or attributes:
            return self._dict(made, {**attributes, **made.items})
        return {} if made.name == "argparse.Namespace" else Opaque(made.name)

    def _tensor(self, stored: StoredTensor) -> Tensor:
        dtype = _DTYPES.get(stored.storage.kind)
        if stored.dtype is not None:
            dtype = getattr(torch, stored.dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise pickle.UnpicklingError(f"a tensor of an unknown type {stored.storage.kind}")
        # as_strided refuses what lies outside of the storage
        whole = self._storage(stored.storage, dtype)
        if stored.storage.window is not None:
            first, count = stored.storage.window
            whole = whole[first : first + count].clone()  # alone, so that nothing beside the window is reached
        return whole.as_strided(stored.size, stored.stride, stored.offset)

    def _storage(self, storage: Storage, dtype: torch.dtype) -> Tensor:
        key = (storage.key, dtype)
        if key not in self._storages:
            content = self._numbers(storage.key)
            empty = torch.empty(0, dtype=dtype)
            self._storages[key] = torch.frombuffer(bytearray(content), dtype=dtype) if content else empty
        return self._storages[key]


def _number(made: Made) -> float | int | bool | None:
    """Return the value of a NumPy scalar, or None where it is no real number."""
    dtype, content = (*made.args, None, None)[:2]
    code = dtype.args[0] if isinstance(dtype, Made) and dtype.args else None
    if not isinstance(code, str) or code not in _NUMBER_CODES:
        return None
    if not isinstance(content, bytes) or len(content) != int(code[1]):
        return None
    value: float | int | bool = np.frombuffer(content, f"<{code}").item()
    return value
