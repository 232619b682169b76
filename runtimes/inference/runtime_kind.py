"""A runtime as the registry holds it: names, whether it works here, which precisions it prefers, how it opens a file.

One value of `RuntimeKind` is all there is to tell of a runtime; `load`, `verify`, `classify`, `bench` and `doctor` know
none by name. Imports no inference library.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtimes.bundle.manifest import Manifest
from runtimes.bundle.precision import LOWEST_FIRST, is_int8
from runtimes.inference.model_description import ModelDescription
from runtimes.protocol import Runtime
from runtimes.trt.engine_sidecar import EngineSidecar

if TYPE_CHECKING:
    from runtimes.machine.environment import GpuInfo, TensorRTInfo
    from runtimes.machine.provider_probe import OnnxRuntimeInfo

_AS_SUCH = "the lowest precision of the bundle that it computes as such"


@dataclass(frozen=True, slots=True)
class Choice:
    """File that was chosen, the runtime to open it on, and why."""

    path: Path
    provider: str
    precision: str | None
    reason: str
    sidecar: EngineSidecar | None = None


MAX_THREADS = max(64, os.cpu_count() or 1)
"""All of them are made when a model opens, and spin: 1,000 on two cores took minutes, 100,000 also 10 GB."""


@dataclass(frozen=True, slots=True, eq=False)
class OpenOptions:
    """How files are opened.

    Attributes:
        threads: Threads of one operator on the CPU; None lets the runtime choose.
        provider_options: Further options of ONNX Runtime's provider.
        strict: Whether every node must run where it was asked for.
        exact: Whether INT8 is computed as written (quantize, dequantize, float sums); None leaves it to the bundle.
        model: A `ModelProto` that runs in place of what the file holds: to get the logits before a softmax.
    """

    threads: int | None = None
    provider_options: Mapping[str, str] = field(default_factory=dict)
    strict: bool = True
    exact: bool | None = None
    model: Any = None

    def __post_init__(self) -> None:
        """Refuse more threads than this machine could run."""
        if self.threads is not None and not 1 <= self.threads <= MAX_THREADS:
            raise ValueError(f"threads: got {self.threads}, expected a whole number from 1 to {MAX_THREADS}")


@dataclass(frozen=True, slots=True, eq=False)
class Opened:
    """An open file: what computes, what is told of it, what of that is worth a warning, and the file's own metadata."""

    runtime: Runtime
    description: ModelDescription
    warnings: tuple[str, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Machine:
    """Facts about this machine that `doctor` found by loading for real what can be loaded."""

    gpu: GpuInfo
    onnxruntime: OnnxRuntimeInfo
    tensorrt: tuple[TensorRTInfo, ...]


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a runtime works on this machine; `detail` says with which library, or why not."""

    works: bool
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RuntimeKind:
    """One way to run a file.

    Attributes:
        name: The word of `--provider` and `load(provider=...)`.
        title: What it is, for people.
        computed_by: The library that computes, as reports name it: "onnxruntime", "tensorrt".
        open: Opens the chosen file of a bundle, or a file without a bundle (None). Raises a `RuntimeAdapterError` where
            it does not run as asked; it never runs anything else instead.
        probe: Tells whether it works on this machine.
        aliases: Other names of it, such as ONNX Runtime's own.
        engine_flavor: "tensorrt" or "rtx" where it runs engines of that flavor; None where it runs ONNX files.
        needs_gpu: Whether it computes on a GPU: a Ray worker is then given one.
        reads_onnxruntime_int8: Whether it runs INT8 in ONNX Runtime's own dialect (UINT8 activations, INT32 bias).
        preferred: Precisions that it is given where nobody chooses, best first.
        preferred_of_onnxruntime: The same of a bundle whose INT8 is in ONNX Runtime's dialect; None takes `preferred`
            without INT8.
        where: Begin of the sentence that says why this file was chosen.
        why: Precision to why it is preferred.
    """

    name: str
    title: str
    computed_by: str
    open: Callable[[Choice, Manifest | None, OpenOptions], Opened]
    probe: Callable[[Machine], Availability]
    aliases: tuple[str, ...] = ()
    engine_flavor: str | None = None
    needs_gpu: bool = False
    reads_onnxruntime_int8: bool = True
    preferred: tuple[str, ...] = LOWEST_FIRST
    preferred_of_onnxruntime: tuple[str, ...] | None = None
    where: str = ""
    why: Mapping[str, str] = field(default_factory=dict)

    def precisions_for(self, manifest: Manifest) -> tuple[str, ...]:
        """Return the precisions that it prefers of a bundle, best first."""
        return self.precisions_of_dialect(for_tensorrt=manifest.int8_for_tensorrt)

    def precisions_of_dialect(self, *, for_tensorrt: bool) -> tuple[str, ...]:
        """Return the precisions that it prefers of files whose INT8 is in TensorRT's dialect, or in ONNX Runtime's."""
        if for_tensorrt:
            return self.preferred
        if self.preferred_of_onnxruntime is not None:
            return self.preferred_of_onnxruntime
        return tuple(name for name in self.preferred if not is_int8(name))

    def reason(self, precision: str, *, asked: bool) -> str:
        """Return why a bundle's file of this precision was chosen."""
        where = self.where or f"{self.name}, as asked"
        return f"{where}; {f'{precision} as asked' if asked else self.why.get(precision, _AS_SUCH)}"
