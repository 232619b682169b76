"""Names of a package that are imported when they are first used, so that importing the package imports no library."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def lazy_names(package: str, names_of: Mapping[str, Sequence[str]]) -> Callable[[str], Any]:
    """Return the `__getattr__` of a package; `names_of`: module to those of its names that are the package's too.

    No module is named like one of these: it would hide it.
    """
    homes = {name: module for module, names in names_of.items() for name in names}

    def getattribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}; it has {', '.join(sorted(homes))}")
        return getattr(importlib.import_module(homes[name]), name)

    return getattribute
