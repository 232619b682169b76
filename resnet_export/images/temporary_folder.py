"""A temporary folder that is made when it is first needed: images that lie in a folder already need none."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from types import TracebackType


class TemporaryFolder:
    """Makes folders below one that is removed at the end of the context."""

    def __init__(self) -> None:
        self._root: Path | None = None

    def __enter__(self) -> TemporaryFolder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._root is not None:
            shutil.rmtree(self._root, ignore_errors=True)

    def below(self, name: str) -> Path:
        """Return a new, empty folder of this name.

        Raises:
            OSError: If no folder for temporary files can be written; the message says what to do.
        """
        if self._root is None:
            try:
                self._root = Path(tempfile.mkdtemp(prefix="resnet-export-"))
            except OSError as err:
                raise OSError(
                    f"{name}: what is no folder of pictures is kept in a temporary folder, and none can be made: "
                    f"{err.strerror}; free some space, set TMPDIR to a folder with room, or give a folder of pictures"
                ) from err
        folder = self._root / name
        folder.mkdir()
        return folder
