"""ONNX file -> TensorRT or TensorRT-RTX engine (a plain plan, as bytes). Needs neither torch nor onnx.

The types in the file decide the precision, on every version. What the library offers for that is probed, never read
off its version: strong typing where that flag exists (TensorRT 9.1 and newer, TensorRT-RTX); where it does not
(TensorRT 8.x), explicit batch, and the precision flags that the types in the file call for: none for a float32 file.
TensorRT-RTX builds without a GPU; TensorRT needs one.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.errors import EngineBuildError
from runtimes.errors import MissingDependencyError
from runtimes.manifest import DEFAULT_BATCH, BatchRange

FLAVOURS = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
_KEPT_MESSAGES = 5


@dataclass(slots=True)
class _Log:
    """TensorRT takes one logger per process (the first registered wins), so there is one, emptied per build."""

    messages: list[str] = field(default_factory=list)
    logger: dict[str, Any] = field(default_factory=dict)


_LOG = _Log()


def build_engine(
    model: Path,
    *,
    profile: BatchRange | None = None,
    flavour: str = "tensorrt",
    workspace_mib: int | None = None,
) -> bytes:
    """Parse and build one ONNX file.

    Args:
        model: The file; its inputs may have a dynamic first axis.
        profile: Batch sizes to build for; 1, 8, 32 by default.
        flavour: "tensorrt" or "rtx".
        workspace_mib: Limit of scratch memory in MiB; None leaves TensorRT's default.

    Returns:
        The plan.

    Raises:
        MissingDependencyError: If the library is not installed.
        EngineBuildError: If parsing or building fails, with TensorRT's last errors.
        ValueError: If the flavour is unknown.
    """
    trt = _import_flavour(flavour)
    _LOG.messages.clear()
    builder = trt.Builder(_logger(trt, flavour))
    network = builder.create_network(_creation_flags(trt))
    _parse(trt, network, model, flavour)
    config = builder.create_builder_config()
    if workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    _allow_precisions(trt, network, config)
    _add_profile(builder, network, config, profile or DEFAULT_BATCH)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise EngineBuildError(f"{flavour} could not build {model}: {_last_messages()}")
    return bytes(plan)


def _import_flavour(flavour: str) -> Any:
    if flavour not in FLAVOURS:
        raise ValueError(f"flavour: got {flavour!r}, expected one of {', '.join(FLAVOURS)}")
    try:
        return importlib.import_module(FLAVOURS[flavour])
    except ImportError as err:
        raise MissingDependencyError(
            f'{FLAVOURS[flavour]} is needed to build engines ({err}); pip install "resnet-export[{flavour}]", '
            "on a Jetson use JetPack's own Python packages"
        ) from err


def _logger(trt: Any, flavour: str) -> Any:
    """Return the one logger of this process; it keeps warnings and errors in `_LOG`."""
    if flavour not in _LOG.logger:

        class CollectingLogger(trt.ILogger):  # type: ignore[misc]
            """Keeps what TensorRT says instead of printing it."""

            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity <= trt.ILogger.Severity.WARNING:
                    _LOG.messages.append(message)

        _LOG.logger[flavour] = CollectingLogger()
    return _LOG.logger[flavour]


def _creation_flags(trt: Any) -> int:
    offered = trt.NetworkDefinitionCreationFlag
    wanted = (getattr(offered, name, None) for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED"))
    return sum(1 << int(flag) for flag in wanted if flag is not None)


def _parse(trt: Any, network: Any, model: Path, flavour: str) -> None:
    if not model.is_file():
        raise EngineBuildError(f"{model} does not exist")
    parser = trt.OnnxParser(network, _logger(trt, flavour))
    if not parser.parse_from_file(str(model)):
        errors = "; ".join(str(parser.get_error(place).desc()) for place in range(parser.num_errors))
        raise EngineBuildError(f"{flavour} does not parse {model}: {errors or _last_messages()}")


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


def _add_profile(builder: Any, network: Any, config: Any, batch: BatchRange) -> None:
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
        raise EngineBuildError(f"batch profile {batch.min},{batch.opt},{batch.max} was refused: {_last_messages()}")


def _last_messages() -> str:
    return "; ".join(_LOG.messages[-_KEPT_MESSAGES:]) or "it gave no message"
