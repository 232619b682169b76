"""Arrays from an `.npz` file that came from outside, such as a bundle's `golden.npz`.

`numpy.load` believes what such a file says: a header of a hundred bytes makes it allocate terabytes, and a few
megabytes of compressed zeros unpack to as many gigabytes. Here every size is known and compared before anything is
allocated. Arrays of Python objects, which are pickles and run code, are refused.
"""

from __future__ import annotations

import math
import stat
import zipfile
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from runtimes.errors import BundleError

MAX_NPZ_BYTES = 1 << 30
"""Unpacked, all arrays together: 16 golden images of 2048 x 2048 pixels are 805 MB."""

_READ_HEADER = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
"""By format version; 3.0 is for names of fields in other alphabets, which plain arrays do not have."""


def load_npz(path: Path, max_bytes: int = MAX_NPZ_BYTES) -> dict[str, NDArray[Any]]:
    """Return the arrays of a file by name; numbers and booleans only.

    Raises:
        BundleError: If the file is missing, no plain file, damaged, too large unpacked, or holds more than numbers.
    """
    try:
        return _read_archive(path, max_bytes)
    except BundleError as err:
        raise BundleError(f"{path}: {err}; export the bundle anew") from err
    except Exception as err:  # damaged archives make zipfile, zlib and NumPy raise a dozen unrelated types
        raise BundleError(f"{path}: cannot be read ({type(err).__name__}: {err}); export the bundle anew") from err


def _read_archive(path: Path, max_bytes: int) -> dict[str, NDArray[Any]]:
    if not stat.S_ISREG(path.stat().st_mode):
        raise BundleError("got a folder, pipe or device, expected an .npz file")
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        total = sum(member.file_size for member in members)
        if total > max_bytes:
            raise BundleError(f"it would unpack to {total:,} bytes, expected at most {max_bytes:,}")
        arrays = {}
        for member in members:
            with archive.open(member) as file:
                arrays[member.filename.removesuffix(".npy")] = _read_array(file, member.file_size)
        return arrays


def _read_array(file: IO[bytes], size_bytes: int) -> NDArray[Any]:
    """Read one array of a member that has `size_bytes`, its header included."""
    version = npy.read_magic(file)
    if version not in _READ_HEADER:
        raise ValueError(f"got version {version} of the .npy format, expected 1.0 or 2.0")
    shape, is_fortran, dtype = _READ_HEADER[version](file)
    if dtype.kind not in "biuf":
        raise ValueError(f"got an array of {dtype}, expected numbers")
    num_bytes = math.prod(shape) * dtype.itemsize
    if num_bytes != size_bytes - file.tell() or any(size < 0 for size in shape):
        raise ValueError(f"got {size_bytes - file.tell()} bytes for {dtype} {list(shape)}, expected {num_bytes}")
    values = np.frombuffer(bytearray(file.read()), dtype)
    return values.reshape(shape, order="F" if is_fortran else "C")
