"""Whether files can be written to a place, asked before the work whose result goes there.

Rights alone do not tell: root may write everywhere, and not on a disk that is mounted read-only, nor in /proc.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from runtimes.io.atomic_write import TEMPORARY


def why_not_writable(path: Path) -> str:
    """Return why nothing can be put at `path`, in words; an empty string where a file could be made beside it.

    A hidden file is made and removed in the folder that it is to be in, or in the nearest one above that exists, since
    folders between can be made. Nothing else is touched.
    """
    try:
        folder = next(folder for folder in path.absolute().parents if folder.exists())
        if not folder.is_dir():
            return f"{folder} is not a folder"
        handle, name = tempfile.mkstemp(prefix=f"{TEMPORARY}{path.name}-", dir=folder)
        os.close(handle)
        Path(name).unlink(missing_ok=True)  # another writer may have taken it for a leftover
    except OSError as err:
        return f"nothing can be written there: {err.strerror or err}"
    return ""
