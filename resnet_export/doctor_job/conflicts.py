"""Find installed packages that are known not to go together, and say what to do about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from exporter.known_bad import OLD_ONNXRUNTIME, KnownBad, known_bad_among
from resnet_export.doctor_job.abilities import tensorrt_command
from resnet_export.doctor_job.facts import CUDA, MIN_PYTHON, TENSORRT, Facts, dotted
from runtimes.machine.environment import rtx_serves
from runtimes.machine.version_numbers import version_numbers


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two things that do not go together, and what to do about it."""

    what: str
    remedy: str


def find_conflicts(facts: Facts) -> tuple[Conflict, ...]:
    """Return what is known not to go together on this machine."""
    checks: tuple[Callable[[Facts], Conflict | None], ...] = (
        _two_onnxruntimes,
        _old_python,
        _old_driver,
        _tensorrt_provider_version,
        _torch_without_curand,
        _rtx_without_this_gpu,
        _onnxruntime_gpu_on_jetson,
    )
    found = [conflict for check in checks if (conflict := check(facts)) is not None]
    versions = {item.name: item.version for item in facts.libraries if item.version}
    return (*found, *(Conflict(str(bad), _remedy(bad, facts)) for bad in known_bad_among(versions)))


def _remedy(bad: KnownBad, facts: Facts) -> str:
    """Return what to do about it; never an installation that this Python does not get."""
    if bad is OLD_ONNXRUNTIME and version_numbers(facts.machine.python)[:2] < MIN_PYTHON:
        return (
            f"Python {facts.machine.python} gets none newer than 1.23; measure INT8 with FP16 on a machine with Python "
            f"{dotted(MIN_PYTHON)} or newer; FP32, FP16 and INT8 files are measured rightly here"
        )
    return bad.remedy


def _two_onnxruntimes(facts: Facts) -> Conflict | None:
    """Of one version; what `exporter.known_bad` refuses is two versions."""
    plain, gpu = facts.version("onnxruntime"), facts.version("onnxruntime-gpu")
    if plain is None or plain != gpu:
        return None
    return Conflict(
        "onnxruntime and onnxruntime-gpu are both installed; they share one folder, and the last one installed wins",
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
    )


def _onnxruntime_gpu_on_jetson(facts: Facts) -> Conflict | None:
    """It installs there and has no kernel for Orin (8.7) or Thor (11.0), nor PTX. Source: wheels of 1.29 to 1.31.1."""
    installed = facts.version("onnxruntime-gpu")
    if installed is None or not facts.is_jetson or facts.onnxruntime.loads(CUDA):
        return None
    return Conflict(
        f"onnxruntime-gpu {installed} from PyPI has GPU code for compute capability 8.9, 9.0, 12.0 and 12.1 on ARM, "
        "not for Orin (8.7) or Thor (11.0)",
        "run engines with JetPack's TensorRT; for the CPU: pip uninstall -y onnxruntime-gpu && pip install onnxruntime",
    )


def _old_python(facts: Facts) -> Conflict | None:
    if version_numbers(facts.machine.python)[:2] >= MIN_PYTHON:
        return None
    return Conflict(
        f"Python {facts.machine.python}: onnxruntime-gpu and the main job need {dotted(MIN_PYTHON)}; "
        "reading bundles, building and running engines do not",
        f"export on a machine with Python {dotted(MIN_PYTHON)} or newer and copy the bundle",
    )


def _old_driver(facts: Facts) -> Conflict | None:
    wanted, offered = facts.onnxruntime.cuda_version, facts.gpu.cuda_version
    if wanted is None or offered is None or version_numbers(offered)[0] >= version_numbers(wanted)[0]:
        return None
    return Conflict(
        f"the driver runs CUDA up to {offered}; onnxruntime-gpu {facts.onnxruntime.version} was built for {wanted}",
        f"install a driver for CUDA {version_numbers(wanted)[0]}, or an onnxruntime-gpu built for CUDA {offered}",
    )


def _tensorrt_provider_version(facts: Facts) -> Conflict | None:
    """ONNX Runtime's TensorRT provider is bound to one major version: onnxruntime-gpu 1.31 to libnvinfer.so.10."""
    missing = _missing_library(facts, TENSORRT, "libnvinfer.so.")
    installed = facts.flavor("tensorrt").version or facts.version("tensorrt")
    if missing is None or installed is None:
        return None
    library, package = missing
    wanted = library.rpartition(".")[2]
    if version_numbers(installed)[0] == int(wanted):
        return None
    return Conflict(
        f"ONNX Runtime's TensorRT provider wants TensorRT {wanted} ({library}); TensorRT {installed} does not serve it",
        f"run engines with TensorRT {installed} itself, or: pip install {package}",
    )


def _torch_without_curand(facts: Facts) -> Conflict | None:
    missing = _missing_library(facts, CUDA, "libcurand")
    if missing is None or not facts.version("torch"):
        return None
    library, package = missing
    return Conflict(
        f"torch {facts.version('torch')} does not bring {library}, which ONNX Runtime's CUDA provider needs",
        f"pip install {package}",
    )


def _missing_library(facts: Facts, provider: str, beginning: str) -> tuple[str, str | None] | None:
    """Return the library of such a name that an execution provider lacks, and the package that has it."""
    for item in facts.onnxruntime.providers:
        if item.name == provider and item.missing_library and item.missing_library.startswith(beginning):
            return item.missing_library, item.package
    return None


def _rtx_without_this_gpu(facts: Facts) -> Conflict | None:
    rtx = facts.flavor("tensorrt_rtx")
    foreign = [gpu for gpu in facts.gpu.devices if not rtx_serves(rtx, gpu.compute_capability)]
    if rtx.version is None or not foreign:
        return None
    names = ", ".join(f"{gpu.name} (SM {gpu.compute_capability})" for gpu in foreign)
    return Conflict(
        f"TensorRT-RTX {rtx.version} cannot build for {names}; it has SM {', '.join(rtx.compute_capabilities)}",
        "use TensorRT on this GPU: " + tensorrt_command(facts),
    )
