"""Events of a running job: steps done, warnings, progress. Silent unless somebody listens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from resnet_export.console.interrupt import raise_if_requested

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Event:
    """Something that a job tells.

    Attributes:
        kind: "done" (a step ended), "warning" (worth a look), or "progress" (a step goes on).
        message: A sentence; of "progress" the step's name.
        completed: Of "progress": how much is done, in units of `total`.
        total: Of "progress": how much there is; None while nobody knows.
    """

    kind: Literal["done", "warning", "progress"]
    message: str
    completed: int | None = None
    total: int | None = None


Listener = Callable[[Event], object]


class Reporter:
    """Remembers what a job told, and hands each event on, in the thread where it happens; None is silence."""

    def __init__(self, on_event: Listener | None = None) -> None:
        self._on_event = on_event
        self._named: Callable[[str], str] = str
        self.messages: list[str] = []
        self.warnings: list[str] = []
        self.doubted: set[str] = set()

    def done(self, message: str) -> None:
        """Tell that a step ended, and what came out."""
        raise_if_requested()
        self.messages.append(message)
        self._tell(Event("done", message))

    def warn(self, message: str, *, doubted: Iterable[str] = ()) -> None:
        """Tell what the user should look at; `doubted` names the files that the message says not to deploy."""
        self.doubted.update(doubted)
        named = self._named(message)
        self.warnings.append(named)
        self._tell(Event("warning", named))

    @contextmanager
    def warnings_named(self, named: Callable[[str], str]) -> Iterator[None]:
        """Inside of it warnings are told as `named` gives them back."""
        before, self._named = self._named, named
        try:
            yield
        finally:
            self._named = before

    @contextmanager
    def working(self, what: str) -> Iterator[None]:
        """Tell that something of unknown length runs."""
        raise_if_requested()
        self._tell(Event("progress", what, 0))
        yield

    @contextmanager
    def steps(self, what: str) -> Iterator[Callable[[str, int, int], None]]:
        """Give a function `(phase, steps done, steps in all)` that the caller may call from any thread."""

        def move(phase: str, done: int, total: int) -> None:
            self._tell(Event("progress", f"{what}: {phase}", done, total or None))

        yield move

    def track(self, what: str, items: Iterable[Item], total: int, sizes: Any = None) -> Iterator[Item]:
        """Yield `items`, telling how many of `total` went by: `sizes(item)` each, 1 when None."""
        completed = 0
        for item in items:
            raise_if_requested()
            yield item
            completed += 1 if sizes is None else sizes(item)
            self._tell(Event("progress", what, completed, total))

    def _tell(self, event: Event) -> None:
        if self._on_event is not None:
            self._on_event(event)
