"""A model that is not yet a bundle's file, on a runtime by name: what `load` would open there once it is written."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtimes.bundle.file_names import MODEL_FILES
from runtimes.inference.runtime_kind import Choice, Opened, OpenOptions
from runtimes.inference.runtime_registry import RUNTIMES
from runtimes.machine.provider_probe import PROBE_MODEL


@dataclass(frozen=True, slots=True)
class OtherRuntime:
    """A runtime and the file of a bundle that it would run."""

    name: str
    precision: str

    @property
    def title(self) -> str:
        """What the runtime is, for people."""
        return RUNTIMES[self.name].title

    @property
    def file(self) -> str:
        """The file's name in the bundle."""
        return MODEL_FILES[self.precision]

    def open(self, model: Any) -> Opened:
        """Open the model of the file on the runtime.

        Raises:
            RuntimeAdapterError: If it does not run here.
        """
        choice = Choice(Path(self.file), self.name, self.precision, "asked for")
        return RUNTIMES[self.name].open(choice, None, OpenOptions(model=model))

    def check(self) -> None:
        """Raise if the runtime does not work here; it opens a convolution.

        Raises:
            RuntimeAdapterError: With its reason.
        """
        self.open(PROBE_MODEL).runtime.close()


def other_runtime(name: str, written: Collection[str], *, for_tensorrt: bool) -> OtherRuntime:
    """Return a runtime with the file that it prefers."""
    wanted = RUNTIMES[name].precisions_of_dialect(for_tensorrt=for_tensorrt)
    return OtherRuntime(name, next((precision for precision in wanted if precision in written), "fp32"))
