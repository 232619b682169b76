"""Facts for `resnet-export doctor`, gathered by `machine.environment`, which loads for real what can be loaded."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from runtimes.machine import environment
from runtimes.machine.provider_probe import OnnxRuntimeInfo, loadable_providers

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that was looked at."""

    machine: environment.MachineInfo
    gpu: environment.GpuInfo
    jetpack: environment.JetPackInfo
    libraries: tuple[environment.LibraryVersion, ...]
    onnxruntime: OnnxRuntimeInfo
    tensorrt: tuple[environment.TensorRTInfo, ...]

    def version(self, library: str) -> str | None:
        """Return the version of an installed library, or None."""
        return next((item.version for item in self.libraries if item.name == library), None)

    def flavor(self, module: str) -> environment.TensorRTInfo:
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
        flavors = pool.map(environment.tensorrt_info, environment.TENSORRT_MODULES)
        libraries, providers, gpu = (
            pool.submit(environment.library_versions),
            pool.submit(loadable_providers),
            pool.submit(environment.gpu_info),
        )
        return Facts(
            machine=environment.machine_info(),
            gpu=gpu.result(),
            jetpack=environment.jetpack_version(),
            libraries=libraries.result(),
            onnxruntime=providers.result(),
            tensorrt=tuple(flavors),
        )
