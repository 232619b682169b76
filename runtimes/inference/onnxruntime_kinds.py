"""ONNX Runtime's execution providers as runtimes: the CPU, CUDA, and TensorRT inside ONNX Runtime."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from runtimes.bundle.manifest import DEFAULT_BATCH, Manifest, file_entry
from runtimes.bundle.precision import is_int8
from runtimes.errors import ProviderUnavailableError
from runtimes.inference.fixed_batch import any_batch, fixed_batch
from runtimes.inference.model_description import ModelDescription, library_versions
from runtimes.inference.runtime_kind import Availability, Choice, Machine, Opened, OpenOptions, RuntimeKind
from runtimes.machine.environment import machine_info
from runtimes.needed_library import needed_library
from runtimes.protocol import TensorSpec

if TYPE_CHECKING:
    from runtimes.ort.adapter import OrtRuntime

_IN_FLOAT = (
    "INT8 on ONNX Runtime's CUDA provider is computed in float: it has no INT8 convolutions, so that INT8 is no faster "
    "there than FP32; build an engine, or use ort-tensorrt"
)
_SLOW_INT8 = (
    "INT8 in TensorRT's dialect on the CPU is computed as written, as TensorRT computes it, to check the file; FP32 is "
    "faster there, and so is a bundle for --target onnxruntime"
)
_SLOW_FP16 = "FP16 on the CPU is there to check the file; FP32 is faster there"
_ADDS_IN_FP16 = (
    "this ARM processor has FP16 arithmetic, and ONNX Runtime's CPU provider also adds in it: FP16 answers are less "
    "exact here than elsewhere (46 instead of 62 dB on a ResNet-18, under emulation); FP32 and INT8 are not"
)


def open_onnx(choice: Choice, manifest: Manifest | None, options: OpenOptions) -> Opened:
    """Open an ONNX file in ONNX Runtime, on the provider of `choice.provider`.

    Raises:
        RuntimeAdapterError: If it cannot run as chosen; see `runtimes.load`.
    """
    onnxruntime = needed_library(
        "onnxruntime",
        f"{choice.path} needs ONNX Runtime, which is not installed ({{err}}); pip install onnxruntime, or "
        "onnxruntime-gpu for an NVIDIA GPU",
    )
    from runtimes.ort.session import CPU_PROVIDER

    exact = choice.provider == "cpu" and _is_exact(choice, manifest, options)
    runtime = _open_session(choice, manifest, options, exact=exact)
    notes = _notes(choice, manifest, exact=exact)
    warnings = notes if choice.provider == "cuda" else ()
    if choice.provider == "cpu" and choice.precision in ("fp16", "int8-fp16") and "asimdhp" in machine_info().cpu_flags:
        warnings += (_ADDS_IN_FP16,)
    elsewhere = {provider for provider in runtime.node_providers.values() if provider != runtime.provider}
    if elsewhere:
        share = sum(provider in elsewhere for provider in runtime.node_providers.values())
        warnings += (
            f"{share} of {len(runtime.node_providers)} nodes run on {', '.join(sorted(elsewhere))}, not on "
            f"{runtime.provider}, as allow_fallback=True permits",
        )
    notes = tuple(dict.fromkeys((*notes, *warnings)))
    size = fixed_batch(runtime)
    description = ModelDescription(
        file=str(choice.path),
        precision=choice.precision,
        runtime="ONNX Runtime",
        provider=runtime.provider,
        node_providers=runtime.node_providers,
        reason=choice.reason,
        batch="any" if size is None else f"{size} in the file: more in pieces, fewer padded",
        inputs=runtime.input_specs if size is None else any_batch(runtime.input_specs),
        outputs=runtime.output_specs if size is None else any_batch(runtime.output_specs),
        threads=options.threads if runtime.provider == CPU_PROVIDER else None,
        exact=exact,
        may_saturate=runtime.may_saturate and choice.precision != "fp32" and runtime.provider == CPU_PROVIDER,
        notes=notes,
        versions=library_versions(onnxruntime=onnxruntime.__version__),
    )
    return Opened(runtime, description, warnings, runtime.metadata)


def _open_session(choice: Choice, manifest: Manifest | None, options: OpenOptions, *, exact: bool) -> OrtRuntime:
    from runtimes.ort.adapter import OrtRuntime
    from runtimes.ort.providers import check_machine, missing_library, prepare_libraries, provider_setup
    from runtimes.ort.session import CPU_PROVIDER

    setup = provider_setup(
        choice.provider,
        precision=choice.precision,
        sha256=lambda: _sha256(choice.path, manifest),
        inputs=None if manifest is None else _specs(manifest),
        batch=DEFAULT_BATCH if manifest is None else manifest.batch,
        options=options.provider_options,
    )
    check_machine(choice.provider)
    prepare_libraries(choice.provider)
    others = () if options.strict or setup.name == CPU_PROVIDER else (CPU_PROVIDER,)
    try:
        return OrtRuntime(
            choice.path if options.model is None else options.model,
            providers=(setup.name, *others),
            provider_options=(setup.options, *({} for _ in others)),
            plugin=setup.plugin,
            exact_qdq=exact,
            num_threads=options.threads or 0,
            record_nodes=True,
            keep_float_weights=is_int8(choice.precision) and manifest is not None and not manifest.int8_for_tensorrt,
        )
    except ProviderUnavailableError as err:
        raise ProviderUnavailableError(f"{err}{missing_library(setup.name)}") from err


def _is_exact(choice: Choice, manifest: Manifest | None, options: OpenOptions) -> bool:
    if options.exact is not None:
        return options.exact
    return is_int8(choice.precision) and manifest is not None and manifest.int8_for_tensorrt


def _notes(choice: Choice, manifest: Manifest | None, *, exact: bool) -> tuple[str, ...]:
    if is_int8(choice.precision) and choice.provider == "cuda":
        return (_IN_FLOAT,)
    if exact:
        return (_SLOW_INT8,)
    return (_SLOW_FP16,) if choice.precision == "fp16" and choice.provider == "cpu" else ()


def _sha256(path: Path, manifest: Manifest | None) -> str:
    if manifest is not None and path.name in manifest.files:
        return manifest.files[path.name].sha256
    return file_entry(path).sha256


def _specs(manifest: Manifest) -> dict[str, TensorSpec]:
    return {
        entry.name: TensorSpec(entry.dtype, tuple(size if isinstance(size, int) else None for size in entry.shape))
        for entry in manifest.inputs
    }


def _provider_works(name: str, machine: Machine) -> Availability:
    found = machine.onnxruntime
    if found.version is None:
        return Availability(False, f"onnxruntime: {found.reason}")
    if (provider := found.provider(name)) is None:
        return Availability(False, f"ONNX Runtime {found.version} has no {name}")
    if not provider.loads:
        return Availability(False, provider.reason)
    if name != "CPUExecutionProvider" and not machine.gpu.is_usable:
        return Availability(False, machine.gpu.reason or "no usable GPU")
    return Availability(True, f"ONNX Runtime {found.version}")


def _plugin_works(machine: Machine) -> Availability:
    """Tell whether the TensorRT-RTX plug-in of ONNX Runtime is installed, and there is a GPU."""
    from importlib.util import find_spec

    if find_spec("onnxruntime_ep_nv_tensorrt_rtx") is None:
        return Availability(False, "onnxruntime-ep-nv-tensorrt-rtx: not installed")
    if not machine.gpu.is_usable:
        return Availability(False, machine.gpu.reason or "no usable GPU")
    return Availability(True, f"ONNX Runtime {machine.onnxruntime.version}, with its plug-in")


_kind = partial(RuntimeKind, computed_by="onnxruntime", open=open_onnx)
_tensorrt_kind = partial(_kind, needs_gpu=True, reads_onnxruntime_int8=False)

CPU = _kind(
    name="cpu",
    title="ONNX Runtime on the CPU",
    probe=partial(_provider_works, "CPUExecutionProvider"),
    aliases=("CPUExecutionProvider",),
    preferred=("fp32",),
    preferred_of_onnxruntime=("int8", "fp32"),
    where="the CPU",
    why={
        "fp32": "FP32, which is faster there than FP16 or INT8 in TensorRT's dialect",
        "int8": "INT8, which a bundle for ONNX Runtime runs in integer kernels",
    },
)
CUDA = _kind(
    name="cuda",
    title="ONNX Runtime on a GPU, CUDA",
    needs_gpu=True,
    probe=partial(_provider_works, "CUDAExecutionProvider"),
    aliases=("CUDAExecutionProvider",),
    preferred=("fp16", "fp32"),
    where="a GPU and ONNX Runtime with CUDA",
)
ORT_TENSORRT = _tensorrt_kind(
    name="ort-tensorrt",
    title="TensorRT inside ONNX Runtime",
    probe=partial(_provider_works, "TensorrtExecutionProvider"),
    aliases=("TensorrtExecutionProvider",),
)
ORT_TENSORRT_RTX = _tensorrt_kind(
    name="ort-tensorrt-rtx",
    title="TensorRT-RTX inside ONNX Runtime",
    probe=_plugin_works,
    aliases=("NvTensorRTRTXExecutionProvider",),
)
