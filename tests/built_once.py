"""What is built once in a run of the tests, by whichever worker asks first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def folder_of_the_run(factory: pytest.TempPathFactory) -> Path:
    """Return the folder that all workers of this run share; it goes when pytest's temporary folders go."""
    base = factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def built_once(path: Path, build: Callable[[Path], object]) -> Path:
    """Return `path`, a file or folder that `build` writes; a second worker waits for the first.

    A build that failed is begun anew by whoever asks next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    done = path.with_name(f"{path.name}.done")
    with FileLock(path.with_name(f"{path.name}.lock")):
        if not done.exists():
            shutil.rmtree(path, ignore_errors=True)
            build(path)
            done.touch()
    return path
