"""How an engine is built: what `resnet-export build` can be told, checked before anything is parsed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from runtimes.bundle.manifest import DEFAULT_BATCH, BatchRange

HARDWARE_COMPATIBILITY: Mapping[str, str] = {
    "ampere-plus": "AMPERE_PLUS",
    "same-compute-capability": "SAME_COMPUTE_CAPABILITY",
}
"""Word of `--hardware-compat` to the member of TensorRT's HardwareCompatibilityLevel."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build.

    Attributes:
        batch: Batch sizes of the optimization profile; all other axes come from the file.
        workspace_mib: Limit of scratch memory in MiB; None leaves TensorRT's default.
        opt_level: Builder optimization level, 0 (fast build) to 5 (fast engine); None leaves TensorRT's default, 3.
        hardware_compat: A key of `HARDWARE_COMPATIBILITY`, or None for this GPU only.
        version_compat: Whether later TensorRT versions may load the engine.
        compute_capabilities: TensorRT-RTX only: what to build for, such as ("8.6", "8.9"); empty leaves its default.
        dla_core: The DLA core to build for, from 0; None builds for the GPU.
        gpu_fallback: Whether layers that the DLA cannot run may run on the GPU.
    """

    batch: BatchRange = DEFAULT_BATCH
    workspace_mib: int | None = None
    opt_level: int | None = None
    hardware_compat: str | None = None
    version_compat: bool = False
    compute_capabilities: tuple[str, ...] = ()
    dla_core: int | None = None
    gpu_fallback: bool = False

    def __post_init__(self) -> None:
        """Refuse values that no version takes."""
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise ValueError(f"workspace: got {self.workspace_mib} MiB, expected at least 1")
        if self.opt_level is not None and not 0 <= self.opt_level <= 5:
            raise ValueError(f"optimization level: got {self.opt_level}, expected 0 to 5")
        if self.hardware_compat is not None and self.hardware_compat not in HARDWARE_COMPATIBILITY:
            raise ValueError(
                f"hardware compatibility: got {self.hardware_compat!r}, expected {', '.join(HARDWARE_COMPATIBILITY)}"
            )
        if self.dla_core is not None and self.dla_core < 0:
            raise ValueError(f"DLA core: got {self.dla_core}, expected 0 or more")
        if self.gpu_fallback and self.dla_core is None:
            raise ValueError("GPU fallback is for layers that a DLA cannot run; give --dla CORE too")

    def flags(self) -> dict[str, Any]:
        """Return every option that is not its default, but the batch: part of an engine's cache key."""
        default = BuildOptions()
        names = [name for name in self.__slots__ if name != "batch" and getattr(self, name) != getattr(default, name)]
        return {name: list(value) if isinstance(value := getattr(self, name), tuple) else value for name in names}
