"""List what a pickle would import if it were run, from its bytes, without running it.

This words the message about a checkpoint that `torch.load(weights_only=True)` has refused; it judges no safety.
"""

from __future__ import annotations

import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_TENSOR_IMPORTS = ("collections.OrderedDict", "torch._utils._rebuild_", "torch.storage.")
"""How the imports begin that any saved state dict has; its storages (`torch.FloatStorage`) end alike."""


def is_zip_archive(path: Path) -> bool:
    """Tell whether `torch.load` takes a file for a zip: by its first bytes, whatever follows.

    Source: torch/serialization.py, _is_zipfile (PyTorch 2.14).
    """
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def names_imported_by_pickle(path: Path) -> list[str]:
    """Return each "module.name" that a pickle imports beyond those of tensors, in order, as far as it is whole."""
    if not is_zip_archive(path):
        with path.open("rb") as file:
            return _imported_names(file)
    try:
        with zipfile.ZipFile(path) as archive:
            member = next(name for name in archive.namelist() if name.split("/")[-1] == "data.pkl")
            with archive.open(member) as file:
                return _imported_names(file)
    except Exception:  # a member that is encrypted, packed in an unknown way, missing: torch.load tells what is wrong
        return []


def _imported_names(file: IO[bytes]) -> list[str]:
    """Return the imports of all pickles that stand one after the other in `file`."""
    names: dict[str, None] = {}
    try:
        while True:  # an older torch.save file is several pickles, then raw data
            for name in _global_names(file):
                names[name] = None
    except Exception:  # the end of the file, raw data, or damage, which raises a dozen types; what was read counts
        pass
    return [name for name in names if not name.startswith(_TENSOR_IMPORTS) and not name.endswith("Storage")]


def _global_names(file: IO[bytes]) -> Iterator[str]:
    """Yield "module.name" for each import in one pickle.

    Source: Python's `pickletools`: GLOBAL and INST carry both names, STACK_GLOBAL takes two strings pushed
        before it (the last two in the file, unless the pickler reused an older one).
    """
    strings: list[str] = []
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name in ("GLOBAL", "INST"):
            yield str(argument).replace(" ", ".")
        elif opcode.name == "STACK_GLOBAL":
            yield ".".join(strings[-2:])
        elif isinstance(argument, str):
            strings.append(argument)
