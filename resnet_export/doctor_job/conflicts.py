"""Find installed packages that are known not to go together, and say what to do about it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from exporter.known_bad import MIN_PYTHON, OLD_ONNXRUNTIME, KnownBad, known_bad_among
from resnet_export.doctor_job.abilities import tensorrt_command
from resnet_export.doctor_job.facts import CUDA, TENSORRT, Facts, dotted
from runtimes.machine.environment import rtx_serves
from runtimes.machine.version_numbers import version_numbers


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two things that do not go together, and what to do about it."""

    what: str
    remedy: str


def find_conflicts(facts: Facts) -> tuple[Conflict, ...]:
    """Return what is known not to go together on this machine."""
    versions = {item.name: item.version for item in facts.libraries if item.version}
    return (*_conflicts(facts), *(Conflict(str(bad), _remedy(bad, facts)) for bad in known_bad_among(versions)))


def _remedy(bad: KnownBad, facts: Facts) -> str:
    """Return what to do about it; never an installation that this Python does not get."""
    if bad is OLD_ONNXRUNTIME and version_numbers(facts.machine.python)[:2] < MIN_PYTHON:
        return (
            f"Python {facts.machine.python} gets none newer than 1.23; measure INT8 with FP16 on a machine with Python "
            f"{dotted(MIN_PYTHON)} or newer; FP32, FP16 and INT8 files are measured rightly here"
        )
    return bad.remedy


def _conflicts(facts: Facts) -> Iterator[Conflict]:
    plain, gpu, python = facts.version("onnxruntime"), facts.version("onnxruntime-gpu"), facts.machine.python
    if plain is not None and plain == gpu:  # what `exporter.known_bad` refuses is two versions
        yield Conflict(
            "onnxruntime and onnxruntime-gpu are both installed; they share one folder, and the last one installed "
            "wins",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
        )
    if version_numbers(python)[:2] < MIN_PYTHON:
        yield Conflict(
            f"Python {python}: onnxruntime-gpu and the main job need {dotted(MIN_PYTHON)}; reading bundles, building "
            "and running engines do not",
            f"export on a machine with Python {dotted(MIN_PYTHON)} or newer and copy the bundle",
        )
    wanted, offered = facts.onnxruntime.cuda_version, facts.gpu.cuda_version
    if wanted is not None and offered is not None and version_numbers(offered)[0] < version_numbers(wanted)[0]:
        yield Conflict(
            f"the driver runs CUDA up to {offered}; onnxruntime-gpu {facts.onnxruntime.version} was built for {wanted}",
            f"install a driver for CUDA {version_numbers(wanted)[0]}, or an onnxruntime-gpu built for CUDA {offered}",
        )
    yield from _missing_libraries(facts)
    rtx = facts.flavor("tensorrt_rtx")
    foreign = [device for device in facts.gpu.devices if not rtx_serves(rtx, device.compute_capability)]
    if rtx.version is not None and foreign:
        names = ", ".join(f"{device.name} (SM {device.compute_capability})" for device in foreign)
        yield Conflict(
            f"TensorRT-RTX {rtx.version} cannot build for {names}; it has SM {', '.join(rtx.compute_capabilities)}",
            "use TensorRT on this GPU: " + tensorrt_command(facts),
        )
    # It installs there and has no kernel for Orin (8.7) or Thor (11.0), nor PTX. Source: wheels of 1.29 to 1.31.1.
    if gpu is not None and facts.is_jetson and not facts.onnxruntime.loads(CUDA):
        yield Conflict(
            f"onnxruntime-gpu {gpu} from PyPI has GPU code for compute capability 8.9, 9.0, 12.0 and 12.1 on ARM, not "
            "for Orin (8.7) or Thor (11.0)",
            "run engines with JetPack's TensorRT; for the CPU: pip uninstall -y onnxruntime-gpu && pip install "
            "onnxruntime",
        )


def _missing_libraries(facts: Facts) -> Iterator[Conflict]:
    """Yield what the libraries that ONNX Runtime's providers lack say of other packages."""
    lacking = {item.name: (item.missing_library or "", item.package) for item in facts.onnxruntime.providers}
    library, package = lacking.get(TENSORRT, ("", None))
    installed = facts.flavor("tensorrt").version or facts.version("tensorrt")
    if library.startswith("libnvinfer.so.") and installed is not None:
        major = library.rpartition(".")[2]  # the provider is bound to one: onnxruntime-gpu 1.31 to libnvinfer.so.10
        if version_numbers(installed)[0] != int(major):
            yield Conflict(
                f"ONNX Runtime's TensorRT provider wants TensorRT {major} ({library}); TensorRT {installed} does not "
                "serve it",
                f"run engines with TensorRT {installed} itself, or: pip install {package}",
            )
    library, package = lacking.get(CUDA, ("", None))
    if library.startswith("libcurand") and (torch := facts.version("torch")):
        yield Conflict(
            f"torch {torch} does not bring {library}, which ONNX Runtime's CUDA provider needs",
            f"pip install {package}",
        )
