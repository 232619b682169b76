"""ONNX file -> TensorRT or TensorRT-RTX engine (a plain plan, as bytes). Needs neither torch nor onnx.

The types in the file decide the precision, on every version. What the library offers for that is probed, never read
off its version: strong typing where that flag exists (TensorRT 9.1 and newer, TensorRT-RTX); where it does not
(TensorRT 8.x), explicit batch, and the precision flags that the types in the file call for: none for a float32 file.
For a DLA the flags decide instead (`exporter.engines.dla`). TensorRT-RTX builds without a GPU; TensorRT needs one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from exporter.engines.build_options import HARDWARE_COMPATIBILITY, BuildOptions
from exporter.engines.dla import DlaPlacement, attach_scales, check_batch, check_offered, check_placement, choose_dla
from exporter.engines.network_products import layers_of, network_products
from exporter.engines.timing_cache import attach_timing_cache, save_timing_cache
from exporter.engines.turing import check_turing
from exporter.errors import EngineBuildError
from runtimes.bundle.manifest import BatchRange
from runtimes.io.file_name import name_or_bytes
from runtimes.machine.environment import gpu_info
from runtimes.trt.engine_layers import NetworkProducts
from runtimes.trt.tensorrt_library import TensorRtLibrary, load_library

Progress = Callable[[str, int, int], None]
"""Called as (phase, steps done, steps in all), perhaps from several threads."""

_CAUSES: tuple[tuple[str, str], ...] = (
    ("CUDA initialization failure", "no usable GPU or driver; TensorRT needs one to build, TensorRT-RTX does not"),
    ("cudaError", "the GPU or its driver does not answer; see nvidia-smi"),
    ("No importer registered", "an operator is unknown to this version; export with a --target that fits it"),
    ("Unsupported ONNX", "the opset is too new for this version; export with a --target that fits it"),
    ("OutOfMemory", "memory ran out; lower --workspace or the largest --batch, or close other programs"),
    ("out of memory", "memory ran out; lower --workspace or the largest --batch, or close other programs"),
    ("dynamic or shape inputs, but no optimization profile", "the file has a dynamic axis that no profile covers"),
    ("Failed to parse ONNX model", "the file is no ONNX model, or is damaged"),
    ("Failed to parse the ONNX model", "the file is no ONNX model, or is damaged"),
    ("libnvinfer_lean", "this flavor has no lean runtime; build without --version-compat"),
)
"""Words in TensorRT's messages, and what they most likely mean; the first that occurs is told."""


def build_engine(
    model: Path,
    *,
    flavor: str = "tensorrt",
    options: BuildOptions | None = None,
    progress: Progress | None = None,
    timing_cache: Path | None = None,
    scales: Path | None = None,
    on_placement: Callable[[DlaPlacement], None] | None = None,
    on_products: Callable[[NetworkProducts], None] | None = None,
    on_notice: Callable[[str], None] | None = None,
) -> bytes:
    """Parse and build one ONNX file; return the plan.

    Args:
        model: The file; its inputs may have a dynamic first axis.
        flavor: "tensorrt" or "rtx".
        options: How to build; batch 1, 8, 32 and TensorRT's defaults when None.
        progress: Hears of every step of the build, where the library reports them (9.1 and newer).
        timing_cache: File of kernel timings to read and to add to; see `exporter.engines.timing_cache`.
        scales: For a DLA in INT8, the calibration cache with the scale of every tensor; FP16 without.
        on_placement: For a DLA, hears which layers run there and which on the GPU.
        on_products: Hears of the network's convolutions and matrix products, before they are built.
        on_notice: Hears, before the build, what the target will compute otherwise than the file says.

    Raises:
        MissingDependencyError: If the library is not installed.
        EngineBuildError: If the library does not start or lacks an option, or parsing or building fails: with
            TensorRT's last errors and the likely cause.
        ValueError: If the flavor is unknown.
    """
    chosen = options or BuildOptions()
    library = load_library(flavor)
    library.log.clear()
    core = chosen.dla_core
    if core is not None:
        check_batch(chosen.batch)
    builder = _start_builder(library)
    if core is not None:
        check_offered(library, builder, core)
    network = builder.create_network(_creation_flags(library.module, typed=core is None))
    parser = _parse(library, network, model)
    notices = check_turing(library, network, chosen.compute_capabilities)
    if on_products is not None:
        on_products(network_products(library.module, network))
    if on_notice is not None:
        for notice in notices:
            on_notice(notice)
    config = builder.create_builder_config()
    calibrator = _settle(library, builder, network, config, chosen, scales=scales)
    if core is not None:
        placement = check_placement(library, network, config, gpu_fallback=chosen.gpu_fallback)
        if on_placement is not None:
            on_placement(placement)
    monitor = _attach_progress(library.module, config, progress)
    timings = attach_timing_cache(library, config, timing_cache)
    built = builder.build_serialized_network(network, config)
    del parser, monitor, calibrator  # all must outlive the build: the network reads the parser's weights
    if built is None:
        raise EngineBuildError(f"{flavor} could not build {model}: {_explained(library.log.last_words())}")
    plan = bytes(built)
    save_timing_cache(library, config, timings)
    return plan


def _settle(
    library: TensorRtLibrary, builder: Any, network: Any, config: Any, options: BuildOptions, *, scales: Path | None
) -> Any:
    """Write every choice into `config`: options, precisions or the DLA, the profile; return what must outlive it."""
    _configure(library, config, options)
    _share_profiles(library.module, config)
    if options.dla_core is None:
        _allow_precisions(library.module, network, config)
    else:
        choose_dla(library, config, options.dla_core, gpu_fallback=options.gpu_fallback)
    profile = _add_profile(library, builder, network, config, options.batch)
    return None if options.dla_core is None or scales is None else attach_scales(library, config, scales, profile)


def _start_builder(library: TensorRtLibrary) -> Any:
    """Return TensorRT's builder; where CUDA does not start, TensorRT has none to give."""
    try:
        return library.module.Builder(library.logger)
    except TypeError as err:  # pybind11's way to say that the factory returned nothing
        reason = gpu_info().reason
        told = "; ".join(filter(None, [library.log.last_words() if library.log.entries else "", reason]))
        remedy = "TensorRT builds on the GPU that runs the engine: build there, or with --rtx, which needs none"
        if library.flavor == "rtx":
            remedy = "see resnet-export doctor"
        raise EngineBuildError(
            f"{library.flavor} {library.version} does not start: {told or 'it gave no message'}; {remedy}"
        ) from err


def _creation_flags(trt: Any, *, typed: bool) -> int:
    offered = trt.NetworkDefinitionCreationFlag
    names = ("EXPLICIT_BATCH", "STRONGLY_TYPED") if typed else ("EXPLICIT_BATCH",)
    wanted = (getattr(offered, name, None) for name in names)
    return sum(1 << int(flag) for flag in wanted if flag is not None)


def _parse(library: TensorRtLibrary, network: Any, model: Path) -> Any:
    if not model.is_file():
        raise EngineBuildError(f"{model} does not exist")
    parser = library.module.OnnxParser(network, library.logger)
    named = name_or_bytes(model)
    if not (parser.parse_from_file(named) if isinstance(named, str) else parser.parse(named)):
        errors = "; ".join(str(parser.get_error(index).desc()) for index in range(parser.num_errors))
        words = errors or library.log.last_words()
        raise EngineBuildError(f"{library.flavor} does not parse {model}: {_explained(words)}")
    return parser


def _configure(library: TensorRtLibrary, config: Any, options: BuildOptions) -> None:
    trt = library.module
    if hasattr(trt, "ProfilingVerbosity"):  # else an engine tells the names of its layers and nothing of their types
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.opt_level is not None:
        config.builder_optimization_level = options.opt_level
    if options.version_compat:
        config.set_flag(_offered(library, trt.BuilderFlag, "VERSION_COMPATIBLE", "--version-compat"))
    if options.hardware_compat is not None:
        member = HARDWARE_COMPATIBILITY[options.hardware_compat]
        levels = getattr(trt, "HardwareCompatibilityLevel", None)
        config.hardware_compatibility_level = _offered(library, levels, member, "--hardware-compat")
    if options.compute_capabilities:
        if not hasattr(config, "num_compute_capabilities"):
            raise _not_offered(library, f"--compute-capability {','.join(options.compute_capabilities)}")
        kinds = getattr(trt, "ComputeCapability", None)
        capabilities = [
            _offered(library, kinds, f"SM{words.replace('.', '')}", f"--compute-capability {words}")
            for words in options.compute_capabilities
        ]
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            config.set_compute_capability(capability, index)


def _share_profiles(trt: Any, config: Any) -> None:
    """Let several contexts of the engine use its one profile at the same time, where that is not so anyway.

    Off by default in 8.6; always on in 10, later without the name. Source: NvInfer.h 8.6 and 10.3, PreviewFeature.
    """
    sharing = getattr(getattr(trt, "PreviewFeature", None), "PROFILE_SHARING_0806", None)
    if sharing is not None and not config.get_preview_feature(sharing):
        config.set_preview_feature(sharing, True)


def _offered(library: TensorRtLibrary, choices: Any, member: str, option: str) -> Any:
    value = getattr(choices, member, None)
    if value is None:
        raise _not_offered(library, option)
    return value


def _not_offered(library: TensorRtLibrary, option: str) -> EngineBuildError:
    return EngineBuildError(f"{option} is not offered by {library.flavor} {library.version}; build without it")


def _allow_precisions(trt: Any, network: Any, config: Any) -> None:
    """Where typing is weak, allow the precisions that the file holds; with strong typing a flag would be an error."""
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return
    layers = layers_of(network)
    quantized = any(layer.type == trt.LayerType.QUANTIZE for layer in layers)
    half = any(
        layer.get_output(index).dtype == trt.DataType.HALF for layer in layers for index in range(layer.num_outputs)
    )
    if quantized:
        config.set_flag(trt.BuilderFlag.INT8)
    if quantized or half:  # what is not quantized in an INT8 network may run in FP16
        config.set_flag(trt.BuilderFlag.FP16)


def _add_profile(library: TensorRtLibrary, builder: Any, network: Any, config: Any, batch: BatchRange) -> Any:
    """Add the profile and return it; None where no axis is dynamic."""
    profile = builder.create_optimization_profile()
    dynamic = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if -1 not in shape:
            continue
        if shape[0] != -1 or -1 in shape[1:]:
            raise EngineBuildError(f"input {tensor.name!r} has shape {list(shape)}; only the first axis may be dynamic")
        dynamic = True
        smallest, best, largest = ((size, *shape[1:]) for size in (batch.min, batch.opt, batch.max))
        try:
            profile.set_shape(tensor.name, smallest, best, largest)
        except RuntimeError as err:
            raise _refused_profile(library, batch, str(err)) from err
    if dynamic and config.add_optimization_profile(profile) < 0:
        raise _refused_profile(library, batch, library.log.last_words())
    return profile if dynamic else None


def _refused_profile(library: TensorRtLibrary, batch: BatchRange, words: str) -> EngineBuildError:
    return EngineBuildError(
        f"{library.flavor} refused the batch profile {batch.min},{batch.opt},{batch.max}: {_explained(words)}"
    )


def _attach_progress(trt: Any, config: Any, progress: Progress | None) -> Any:
    """Report the build's outermost phase to `progress`, where the library has progress monitors."""
    if progress is None or not hasattr(trt, "IProgressMonitor"):
        return None
    report: Progress = progress

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Passes on the steps of phases that have no parent."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = num_steps
                report(phase_name, 0, num_steps)

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in self.steps:
                report(phase_name, self.steps[phase_name], self.steps[phase_name])

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                report(phase_name, step + 1, self.steps[phase_name])
            return True

    monitor = Monitor()
    config.progress_monitor = monitor
    return monitor


def _explained(words: str) -> str:
    """Return TensorRT's words, with the likely cause where one is known."""
    cause = next((cause for sign, cause in _CAUSES if sign in words), None)
    return words if cause is None else f"{words}. Likely cause: {cause}"
