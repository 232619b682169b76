"""A file that `torch.save` wrote before PyTorch 1.6 (or with `_use_new_zipfile_serialization=False`), read inertly.

Five pickles stand one after the other: a magic number, the protocol, facts of the machine, what was saved, and the keys
of its storages. Then, for each key in that order, the number of elements (int64) and the elements themselves.

Source: torch/serialization.py, _legacy_save and _legacy_load (PyTorch 2.14).
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from exporter.checkpoints.inert_pickle import Storage, read_inert
from exporter.errors import WeightsError

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
BIG_ENDIAN = "it was written on a big-endian machine; save it anew on a little-endian one"
_COUNT_BYTES = 8


def read_legacy_file(path: Path, element_sizes: Mapping[str, int]) -> tuple[object, Mapping[str, memoryview]]:
    """Return what was saved, as `read_inert` gives it, and each storage's bytes by key; `element_sizes`: bytes by kind.

    Raises:
        UnsafeCheckpointError: If it calls what acts on the machine.
        WeightsError: If it was written on a big-endian machine.
        Exception: Whatever damage makes a reader raise.
    """
    content = path.read_bytes()
    stream = BytesIO(content)
    if read_inert(stream) != MAGIC or read_inert(stream) != PROTOCOL:
        raise pickle.UnpicklingError("no file of torch.save")
    machine = read_inert(stream)
    if isinstance(machine, dict) and machine.get("little_endian") is False:
        raise WeightsError(f"{path}: {BIG_ENDIAN}")
    storages: dict[str, Storage] = {}
    saved = read_inert(stream, storages)
    keys = read_inert(stream)
    if not isinstance(keys, list):
        raise pickle.UnpicklingError("no list of storages")
    sizes = [(str(key), element_sizes[storages[str(key)].kind]) for key in keys]
    return saved, _numbers(memoryview(content)[stream.tell() :], sizes)


def _numbers(rest: memoryview, sizes: list[tuple[str, int]]) -> dict[str, memoryview]:
    """Return the bytes of each storage; `sizes` are (key, bytes of an element) in the order of the file."""
    found = {}
    for key, element_size in sizes:
        count = int.from_bytes(rest[:_COUNT_BYTES], "little", signed=True)
        end = _COUNT_BYTES + count * element_size
        if count < 0 or end > len(rest):
            raise pickle.UnpicklingError("a storage that is longer than the file")
        found[key] = rest[_COUNT_BYTES:end]
        rest = rest[end:]
    return found
