"""ONNX file -> TensorRT or TensorRT-RTX engine (a plain plan, as bytes). Needs neither torch nor onnx.

The types in the file decide the precision, on every version. What the library offers for that is probed, never read
off its version: strong typing where that flag exists (TensorRT 9.1 and newer, TensorRT-RTX); where it does not
(TensorRT 8.x), explicit batch, and the precision flags that the types in the file call for: none for a float32 file.
For a DLA the flags decide instead (`exporter.engines.dla`). TensorRT-RTX builds without a GPU; TensorRT needs one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from exporter.engines.dla import (
    DlaPlacement,
    attach_scales,
    check_batch,
    check_offered,
    check_placement,
    choose_dla,
)
from exporter.engines.timing_cache import attach_timing_cache, save_timing_cache
from exporter.errors import EngineBuildError
from runtimes.bundle.manifest import DEFAULT_BATCH, BatchRange
from runtimes.trt.library import TensorRtLibrary, load_library

Progress = Callable[[str, int, int], None]
"""Called as (phase, steps done, steps in all), perhaps from several threads."""

HARDWARE_COMPATIBILITY: Mapping[str, str] = MappingProxyType(
    {"ampere-plus": "AMPERE_PLUS", "same-compute-capability": "SAME_COMPUTE_CAPABILITY"}
)
"""Word of `--hardware-compat` to the member of TensorRT's HardwareCompatibilityLevel."""

_CAUSES: tuple[tuple[str, str], ...] = (
    (
        "CUDA initialization failure",
        "no usable GPU or driver; TensorRT needs one to build, TensorRT-RTX does not",
    ),
    ("cudaError", "the GPU or its driver does not answer; see nvidia-smi"),
    ("No importer registered", "an operator is unknown to this version; export with a --target that fits it"),
    ("Unsupported ONNX", "the opset is too new for this version; export with a --target that fits it"),
    ("OutOfMemory", "memory ran out; lower --workspace or the largest --batch, or close other programs"),
    ("out of memory", "memory ran out; lower --workspace or the largest --batch, or close other programs"),
    ("dynamic or shape inputs, but no optimization profile", "the file has a dynamic axis that no profile covers"),
    ("Failed to parse ONNX model", "the file is no ONNX model, or is damaged"),
    ("libnvinfer_lean", "this flavor has no lean runtime; build without --version-compat"),
)
"""Words in TensorRT's messages, and what they most likely mean; the first that occurs is told."""


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How to build.

    Attributes:
        batch: Batch sizes of the optimization profile; all other axes come from the file.
        workspace_mib: Limit of scratch memory in MiB; None leaves TensorRT's default.
        opt_level: Builder optimization level, 0 (fast build) to 5 (fast engine); None leaves TensorRT's default, 3.
        hardware_compat: A key of `HARDWARE_COMPATIBILITY`, or None for this GPU only.
        version_compat: Whether later TensorRT versions may load the engine.
        strip_weights: Whether the plan is written without weights, to be refitted from the ONNX file.
        compute_capabilities: TensorRT-RTX only: what to build for, such as ("8.6", "8.9"); empty leaves its default.
        dla_core: The DLA core to build for, from 0; None builds for the GPU.
        gpu_fallback: Whether layers that the DLA cannot run may run on the GPU.
    """

    batch: BatchRange = DEFAULT_BATCH
    workspace_mib: int | None = None
    opt_level: int | None = None
    hardware_compat: str | None = None
    version_compat: bool = False
    strip_weights: bool = False
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


def build_engine(
    model: Path,
    *,
    flavor: str = "tensorrt",
    options: BuildOptions | None = None,
    progress: Progress | None = None,
    timing_cache: Path | None = None,
    scales: Path | None = None,
    on_placement: Callable[[DlaPlacement], None] | None = None,
) -> bytes:
    """Parse and build one ONNX file.

    Args:
        model: The file; its inputs may have a dynamic first axis.
        flavor: "tensorrt" or "rtx".
        options: How to build; batch 1, 8, 32 and TensorRT's defaults when None.
        progress: Hears of every step of the build, where the library reports them (9.1 and newer).
        timing_cache: File of kernel timings to read and to add to; see `exporter.engines.timing_cache`.
        scales: For a DLA in INT8, the calibration cache with the scale of every tensor; FP16 without.
        on_placement: For a DLA, hears which layers run there and which on the GPU.

    Returns:
        The plan.

    Raises:
        MissingDependencyError: If the library is not installed.
        EngineBuildError: If the library lacks an option, or parsing or building fails: with TensorRT's last errors and
            the likely cause.
        ValueError: If the flavor is unknown.
    """
    chosen = options or BuildOptions()
    library = load_library(flavor)
    library.log.clear()
    core = chosen.dla_core
    if core is not None:
        check_batch(chosen.batch)
    builder = library.module.Builder(library.logger)
    if core is not None:
        check_offered(library, builder, core)
    network = builder.create_network(_creation_flags(library.module, typed=core is None))
    parser = _parse(library, network, model)
    config = builder.create_builder_config()
    _configure(library, config, chosen)
    _share_profiles(library.module, config)
    calibrator: Any = None
    if core is None:
        _allow_precisions(library.module, network, config)
    else:
        choose_dla(library, config, core, gpu_fallback=chosen.gpu_fallback)
        calibrator = None if scales is None else attach_scales(library, config, scales)
    profile = _add_profile(library, builder, network, config, chosen.batch)
    if calibrator is not None and profile is not None:
        config.set_calibration_profile(profile)
    if core is not None:
        placement = check_placement(library, network, config, gpu_fallback=chosen.gpu_fallback)
        if on_placement is not None:
            on_placement(placement)
    monitor = _attach_progress(library.module, config, progress)
    timings = attach_timing_cache(library, config, timing_cache)
    plan = builder.build_serialized_network(network, config)
    del parser, monitor, calibrator  # all must outlive the build: the network reads the parser's weights
    if plan is None:
        raise EngineBuildError(f"{flavor} could not build {model}: {_explained(library.log.last_words())}")
    save_timing_cache(library, config, timings, timing_cache)
    return bytes(plan)


def _creation_flags(trt: Any, *, typed: bool) -> int:
    offered = trt.NetworkDefinitionCreationFlag
    names = ("EXPLICIT_BATCH", "STRONGLY_TYPED") if typed else ("EXPLICIT_BATCH",)
    wanted = (getattr(offered, name, None) for name in names)
    return sum(1 << int(flag) for flag in wanted if flag is not None)


def _parse(library: TensorRtLibrary, network: Any, model: Path) -> Any:
    if not model.is_file():
        raise EngineBuildError(f"{model} does not exist")
    parser = library.module.OnnxParser(network, library.logger)
    if not parser.parse_from_file(str(model)):
        errors = "; ".join(str(parser.get_error(place).desc()) for place in range(parser.num_errors))
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
    if options.strip_weights:
        config.set_flag(_offered(library, trt.BuilderFlag, "STRIP_PLAN", "--strip-weights"))
    if options.hardware_compat is not None:
        member = HARDWARE_COMPATIBILITY[options.hardware_compat]
        levels = getattr(trt, "HardwareCompatibilityLevel", None)
        config.hardware_compatibility_level = _offered(library, levels, member, "--hardware-compat")
    if options.compute_capabilities:
        kinds = getattr(trt, "ComputeCapability", None)
        capabilities = [
            _offered(library, kinds, f"SM{words.replace('.', '')}", f"--compute-capability {words}")
            for words in options.compute_capabilities
        ]
        config.num_compute_capabilities = len(capabilities)
        for place, capability in enumerate(capabilities):
            config.set_compute_capability(capability, place)


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
        raise EngineBuildError(f"{option} is not offered by {library.flavor} {library.version}; build without it")
    return value


def _allow_precisions(trt: Any, network: Any, config: Any) -> None:
    """Where typing is weak, allow the precisions that the file holds; with strong typing a flag would be an error."""
    if hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"):
        return
    layers = [network.get_layer(place) for place in range(network.num_layers)]
    quantized = any(layer.type == trt.LayerType.QUANTIZE for layer in layers)
    half = any(
        layer.get_output(place).dtype == trt.DataType.HALF for layer in layers for place in range(layer.num_outputs)
    )
    if quantized:
        config.set_flag(trt.BuilderFlag.INT8)
    if quantized or half:  # what is not quantized in an INT8 network may run in FP16
        config.set_flag(trt.BuilderFlag.FP16)


def _add_profile(library: TensorRtLibrary, builder: Any, network: Any, config: Any, batch: BatchRange) -> Any:
    """Add the profile and return it; None where no axis is dynamic."""
    profile = builder.create_optimization_profile()
    dynamic = False
    for place in range(network.num_inputs):
        tensor = network.get_input(place)
        shape = tuple(tensor.shape)
        if -1 not in shape:
            continue
        if shape[0] != -1 or -1 in shape[1:]:
            raise EngineBuildError(f"input {tensor.name!r} has shape {list(shape)}; only the first axis may be dynamic")
        dynamic = True
        profile.set_shape(tensor.name, *((size, *shape[1:]) for size in (batch.min, batch.opt, batch.max)))
    if dynamic and config.add_optimization_profile(profile) < 0:
        words = library.log.last_words()
        raise EngineBuildError(f"batch profile {batch.min},{batch.opt},{batch.max} was refused: {_explained(words)}")
    return profile if dynamic else None


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
    cause = next((cause for sign, cause in _CAUSES if sign in words), None)
    return words if cause is None else f"{words}. Likely cause: {cause}"
