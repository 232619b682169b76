"""Facts for `resnet-export doctor`, gathered by `machine.environment`, which loads for real what can be loaded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from runtimes.machine.environment import (
    TENSORRT_MODULES,
    GpuInfo,
    JetPackInfo,
    LibraryVersion,
    MachineInfo,
    TensorRTInfo,
    gpu_info,
    jetpack_version,
    library_versions,
    machine_info,
    tensorrt_info,
)
from runtimes.machine.provider_probe import OnnxRuntimeInfo, loadable_providers

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"

MIN_PYTHON = (3, 11)
"""The Python of onnxruntime-gpu from 1.24 on, and so of the main job. Source: its metadata, Requires-Python."""


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that was looked at."""

    machine: MachineInfo
    gpu: GpuInfo
    jetpack: JetPackInfo
    libraries: tuple[LibraryVersion, ...]
    onnxruntime: OnnxRuntimeInfo
    tensorrt: tuple[TensorRTInfo, ...]

    def version(self, library: str) -> str | None:
        """Return the version of an installed library, or None."""
        return next((item.version for item in self.libraries if item.name == library), None)

    def flavor(self, module: str) -> TensorRTInfo:
        """Return what was found out about one of `TENSORRT_MODULES`."""
        return next(item for item in self.tensorrt if item.module == module)

    @property
    def is_jetson(self) -> bool:
        """Whether this is a Jetson."""
        return self.jetpack.l4t is not None or self.jetpack.board is not None


def dotted(version: tuple[int, ...]) -> str:
    """Return "3.11" of (3, 11)."""
    return ".".join(str(number) for number in version)


def gather_facts() -> Facts:
    """Run every probe, those in children at the same time."""
    with ThreadPoolExecutor() as pool:
        flavors = pool.map(tensorrt_info, TENSORRT_MODULES)
        libraries, providers, gpu = (
            pool.submit(library_versions),
            pool.submit(loadable_providers),
            pool.submit(gpu_info),
        )
        return Facts(
            machine=machine_info(),
            gpu=gpu.result(),
            jetpack=jetpack_version(),
            libraries=libraries.result(),
            onnxruntime=providers.result(),
            tensorrt=tuple(flavors),
        )
