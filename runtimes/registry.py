"""Things that are chosen by name and may come from outside: runtimes, calibration methods, targets, families, rules.

A registry knows what the package brings, often as "module:attribute" that is imported when it is asked for; what was
registered by a call; and what other installed packages declare as entry points of its group:

    [project.entry-points."resnet_export.runtimes"]
    openvino = "my_package.openvino_runtime:OPENVINO"

Entry points are only looked for when a name is none of the others, or when all names are wanted: reading the metadata
of every installed package takes tens of milliseconds, which a program that names `cpu` need not wait for.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Mapping
from typing import Any, Generic, TypeVar

from runtimes.errors import RegistryError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Names to things of one kind, in the order: the package's own, registered ones, entry points.

    Args:
        what: What is registered, for messages: "calibration method".
        kind: The class that everything in it must be an instance of.
        group: Name of the entry points' group.
        builtin: Name to the thing, or to its "module:attribute".
    """

    def __init__(self, what: str, kind: type[T], *, group: str, builtin: Mapping[str, str | T]) -> None:
        self._what = what
        self._kind = kind
        self._group = group
        self._builtin = dict(builtin)
        self._registered: dict[str, T] = {}
        self._declared: dict[str, Any] | None = None

    def register(self, name: str, item: T) -> None:
        """Add something under a name; the same thing twice is taken, another one under a name in use is not.

        Raises:
            TypeError: If it is not of this registry's kind.
            ValueError: If the name is taken, or none that a command line can hold.
        """
        self._check(name, item)
        if not re.fullmatch(r"[\w.+-]+", name):
            raise ValueError(f"{self._what}: got the name {name!r}, expected a word of letters, digits and _.+-")
        if name in self._builtin or self._registered.get(name, item) is not item:
            raise ValueError(f"{self._what} {name!r} is taken; register yours under another name")
        self._registered[name] = item

    def unregister(self, name: str) -> None:
        """Take back what `register` added."""
        self._registered.pop(name, None)

    def __getitem__(self, name: str) -> T:
        """Return what a name stands for.

        Raises:
            KeyError: If nothing does.
            RegistryError: If what an entry point names cannot be imported, or is something else.
        """
        if name in self._registered:
            return self._registered[name]
        if name in self._builtin:
            return self._from_builtin(self._builtin[name])
        return self._from_entry_point(name, self._entry_points()[name])

    def named(self, name: str) -> T:
        """Return what a name stands for.

        Raises:
            ValueError: If nothing does; the message lists all names.
            RegistryError: As `__getitem__`.
        """
        try:
            return self[name]
        except KeyError:
            raise ValueError(f"{self._what}: got {name!r}, expected one of {', '.join(self)}") from None

    def __contains__(self, name: object) -> bool:
        """Tell whether something has that name, without importing it."""
        return name in self._registered or name in self._builtin or name in self._entry_points()

    def __iter__(self) -> Iterator[str]:
        """Iterate over all names; entry points are looked for behind the others."""
        yield from self._builtin
        registered = tuple(self._registered)
        yield from registered
        yield from (name for name in self._entry_points() if name not in registered)

    def __len__(self) -> int:
        """Return how many names there are."""
        return sum(1 for _ in self)

    def _from_builtin(self, item: str | T) -> T:
        if not isinstance(item, str):
            return item
        module, _, attribute = item.partition(":")
        found: T = getattr(importlib.import_module(module), attribute)
        return found

    def _entry_points(self) -> dict[str, Any]:
        if self._declared is None:
            from importlib import metadata  # here, because it brings the email package, 2 MB

            declared = metadata.entry_points(group=self._group)
            self._declared = {entry.name: entry for entry in declared if entry.name not in self._builtin}
        return self._declared

    def _from_entry_point(self, name: str, entry: Any) -> T:
        package = getattr(entry.dist, "name", None) or "a package"
        origin = f"{self._what} {name!r}, which {package} declares as {entry.value}"
        try:
            item = entry.load()
        except Exception as err:  # another package's code
            raise RegistryError(f"{origin}, cannot be imported: {type(err).__name__}: {err}") from err
        try:
            self._check(name, item)
        except TypeError as err:
            raise RegistryError(f"{origin}: {err}") from err
        self._registered[name] = item
        checked: T = item
        return checked

    def _check(self, name: str, item: object) -> None:
        if not isinstance(item, self._kind):
            raise TypeError(f"{self._what} {name!r}: got {item!r}, expected a {self._kind.__name__}")
