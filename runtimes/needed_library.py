"""Libraries that only some steps need, imported when one of these begins."""

from __future__ import annotations

import importlib
from typing import Any

from runtimes.errors import MissingDependencyError


def needed_library(name: str, message: str) -> Any:
    """Import a module; "{err}" in `message`, which says what needs it and what to type, becomes what Python says.

    Raises:
        MissingDependencyError: If it is not installed, or a shared library of it is missing.
    """
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as err:  # OSError: a shared library of it is missing
        raise MissingDependencyError(message.replace("{err}", str(err))) from err
