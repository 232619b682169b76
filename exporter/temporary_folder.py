"""Whether there is a folder for temporary files, which PyTorch asks for when it is imported and when it traces."""

from __future__ import annotations

import tempfile

from exporter.errors import ExportError


def require_temporary_folder() -> None:
    """Raise where there is none: PyTorch ends in errors that do not say what to do.

    Raises:
        ExportError: With what to do.
    """
    try:
        tempfile.gettempdir()
    except FileNotFoundError as err:
        raise ExportError(
            f"PyTorch needs a temporary folder: {err.strerror}: the disk is full, or none of them may be written; free "
            "some space, or set TMPDIR to a folder with room"
        ) from err
