"""Checkpoints that are small on the disk and made to fill the memory: zips, strides of 0, calls that allocate.

`torch.load(weights_only=True)` runs no code of a file, but takes whatever memory the file asks for.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.checkpoints.pickle_imports import is_zip_archive, names_imported_by_pickle
from exporter.errors import UnsafeCheckpointError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor

RESAVE = (
    "where you trust its author, load it there with its own code and save only the weights: "
    'safetensors.torch.save_file(model.state_dict(), "weights.safetensors") or '
    'torch.save(model.state_dict(), "weights.pth")'
)
"""Advice instead of loading it; the end of several messages."""

_BOMBS = frozenset({"builtins.bytearray", "__builtin__.bytearray"})
"""Calls that torch.load allows with `weights_only=True` and that take as much memory as the file says.

Source: torch/_weights_only_unpickler.py, _get_allowed_globals (PyTorch 2.15)."""


def check_is_no_bomb(path: Path) -> None:
    """Raise before anything of a `torch.save` file is loaded, if it is made to fill the memory.

    Raises:
        UnsafeCheckpointError: If its pickle calls what allocates as much as it is told.
        WeightsError: If it is an archive that unpacks to far more than its size.
    """
    _check_unpacked_size(path)
    if bombs := _BOMBS.intersection(names_imported_by_pickle(path)):
        raise UnsafeCheckpointError(
            f"{path}: it calls {', '.join(sorted(bombs))}, which no weights need and which can fill the memory; "
            f"{RESAVE}"
        )


def _check_unpacked_size(path: Path) -> None:
    """Refuse a zip that claims to unpack to far more than its size; `torch.save` does not compress."""
    if not is_zip_archive(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError):
        return  # torch.load will say what is wrong with it
    if unpacked > _most_bytes(path):
        raise WeightsError(
            f"{path}: {path.stat().st_size:,} bytes that unpack to {unpacked:,}, expected an archive that is not "
            f"compressed, as torch.save writes it: this one is made to fill the memory; {RESAVE}"
        )


def check_tensor_bytes(state_dict: Mapping[str, Tensor], path: Path) -> None:
    """Refuse tensors that show few stored numbers many times over: copied, they would fill the memory.

    Raises:
        WeightsError: If all together have far more bytes than the file.
    """
    total = sum(tensor.numel() * tensor.element_size() for tensor in state_dict.values())
    if total > _most_bytes(path):
        raise WeightsError(
            f"{path}: {path.stat().st_size:,} bytes whose tensors claim {total:,}, expected about as many of both: "
            f"this file is made to fill the memory; {RESAVE}"
        )


def _most_bytes(path: Path) -> int:
    """Return what the content of an honest file has at most: tied weights count more than once."""
    return 4 * path.stat().st_size + (16 << 20)
