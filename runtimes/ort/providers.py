"""ONNX Runtime's execution providers by the words of `load`: which options they get, and why one does not load here."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import onnxruntime

from runtimes.bundle.manifest import BatchRange
from runtimes.bundle.precision import is_int8
from runtimes.errors import ProviderUnavailableError
from runtimes.io.cache_dir import user_cache_folder
from runtimes.machine.environment import gpu_info
from runtimes.machine.installed_versions import installed_versions
from runtimes.machine.provider_probe import probe_provider
from runtimes.ort.rtx_plugin import INPUT_SEPARATOR, plugin_version, rtx_plugin
from runtimes.ort.session import CPU_PROVIDER, PluginProvider
from runtimes.protocol import TensorSpec

CUDA_PROVIDER = "CUDAExecutionProvider"
TENSORRT_PROVIDER = "TensorrtExecutionProvider"
RTX_PROVIDER = "NvTensorRTRTXExecutionProvider"

PROVIDER_OF_WORD: Mapping[str, str] = {
    "cpu": CPU_PROVIDER,
    "cuda": CUDA_PROVIDER,
    "ort-tensorrt": TENSORRT_PROVIDER,
    "ort-tensorrt-rtx": RTX_PROVIDER,
}
"""Word of `load(provider=...)` to ONNX Runtime's name."""


@dataclass(frozen=True, slots=True)
class ProviderSetup:
    """How a session is opened on one provider."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)
    plugin: PluginProvider | None = None


def provider_setup(
    word: str,
    *,
    precision: str | None,
    sha256: Callable[[], str],
    inputs: Mapping[str, TensorSpec] | None,
    batch: BatchRange,
    options: Mapping[str, str],
) -> ProviderSetup:
    """Return how to open a file on a provider.

    FP32 on CUDA runs without TF32, whose 10 bits of mantissa are not FP32. TensorRT's provider gets the precision's
    flags, the batch range as its profile, and a folder for its engines that belongs to this file and these libraries
    alone: its own cache does not notice that they changed.

    Args:
        word: One of `PROVIDER_OF_WORD`.
        precision: A key of `runtimes.bundle.precision.MODEL_FILES`, or None where it is not known.
        sha256: Returns that of the file; asked where the provider has a cache.
        inputs: The file's inputs, or None where they are not known before it is opened.
        batch: What TensorRT plans for.
        options: Of the caller; they win.

    Raises:
        ProviderUnavailableError: If the provider is not part of the installed ONNX Runtime.
        MissingDependencyError: If the plug-in's package is not installed.
    Source: ONNX Runtime docs, CUDA, TensorRT and NvTensorRTRTX execution providers.
    """
    name = PROVIDER_OF_WORD[word]
    if name == RTX_PROVIDER:
        folder = _engine_folder("rtx", sha256())
        chosen = {
            "nv_runtime_cache_path": str(folder),
            **_profile("nv_profile", inputs, batch, separator=INPUT_SEPARATOR),
            **options,
        }
        return ProviderSetup(name, chosen, rtx_plugin(chosen))
    if name not in onnxruntime.get_available_providers():
        raise ProviderUnavailableError(
            f"the installed ONNX Runtime {onnxruntime.__version__} has no {name}, it has "
            f"{', '.join(onnxruntime.get_available_providers())}; pip uninstall onnxruntime, pip install "
            "onnxruntime-gpu"
        )
    if name == CUDA_PROVIDER:
        return ProviderSetup(name, {"use_tf32": "0", **options})
    if name == TENSORRT_PROVIDER:
        ours = {
            "trt_fp16_enable": str(precision is not None and precision != "fp32"),
            "trt_int8_enable": str(is_int8(precision)),
            "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": str(_engine_folder("tensorrt", sha256())),
            **_profile("trt_profile", inputs, batch),
        }
        return ProviderSetup(name, {**ours, **options})
    return ProviderSetup(name, dict(options))


def prepare_libraries(word: str) -> None:
    """Load the CUDA libraries of pip packages, which lie outside the loader's path; what is missing shows later."""
    if word in ("cuda", "ort-tensorrt") and hasattr(onnxruntime, "preload_dlls"):
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does not find
            onnxruntime.preload_dlls()


def check_machine(word: str) -> None:
    """Raise where a GPU provider cannot load, with everything that is missing, before ONNX Runtime is asked.

    Raises:
        ProviderUnavailableError: If there is no usable GPU.
    """
    if word == "cpu":
        return
    gpus = gpu_info()
    if not gpus.is_usable:
        name = PROVIDER_OF_WORD[word]
        raise ProviderUnavailableError(f"{name} needs an NVIDIA GPU: {gpus.reason}{missing_library(name)}")


def missing_library(name: str) -> str:
    """Return, as a half-sentence, the shared library that a provider misses and what brings it; "" if none is known.

    The provider is tried in a child process, because only its error output names the library.
    """
    if name not in onnxruntime.get_available_providers():
        return ""
    info = probe_provider(name, getattr(onnxruntime, "cuda_version", None) or None)
    if info.missing_library is None:
        return "" if info.loads else f"; in a process of its own: {info.reason}"
    bring = f" (pip install {info.package})" if info.package else ""
    return f"; its library {info.missing_library} is missing too{bring}"


def _profile(
    prefix: str, inputs: Mapping[str, TensorSpec] | None, batch: BatchRange, *, separator: str = ","
) -> dict[str, str]:
    if not inputs or any(None in spec.shape[1:] or spec.shape[:1] != (None,) for spec in inputs.values()):
        return {}

    def shapes(rows: int) -> str:
        return separator.join(f"{name}:{'x'.join(map(str, (rows, *spec.shape[1:])))}" for name, spec in inputs.items())

    sizes = {"min": batch.min, "opt": batch.opt, "max": batch.max}
    return {f"{prefix}_{word}_shapes": shapes(rows) for word, rows in sizes.items()}


def _engine_folder(flavor: str, sha256: str) -> Path:
    gpus = gpu_info()
    gpu = f"{gpus.devices[0].name} {gpus.devices[0].compute_capability}" if gpus.devices else "none"
    import hashlib

    facts = f"{sha256} {onnxruntime.__version__} {_tensorrt_version(flavor)} {gpu} {gpus.driver_version}"
    folder = user_cache_folder() / "engines" / f"{flavor}-{hashlib.sha256(facts.encode()).hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _tensorrt_version(flavor: str) -> str:
    if flavor == "rtx":
        return plugin_version() or "?"
    return next(iter(installed_versions(("tensorrt", "tensorrt-cu13", "tensorrt-cu12")).values()), "?")
