"""A stand-in for TensorRT, for tests only: what it proves is how TensorRT is *called*, never how it computes.

`make_tensorrt(version, cuda)` returns a module `tensorrt` whose classes have the attributes that this version has, of
those that the project may use, and no others; a missing one is an AttributeError, as with the library. Its plan holds
the ONNX file, which ONNX Runtime computes on what lies in the stand-in's device memory.

Enums are those of the real bindings, recorded in `surfaces/`, and `test_surface.py` compares members and signatures
with them. How calls fail was seen with the real bindings of 8.6.1, 10.3, 10.13 and 11.4 as far as they run without a
GPU; the rest is from NVIDIA/TensorRT python/src/infer/pyCore.cpp and pyGraph.cpp and NvInfer.h (PreviewFeature).
"""

from __future__ import annotations

import enum
import hashlib
import json
import types
import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto
from standins.cuda_standin import CudaStandin
from standins.record_surface import load_surface

VERSIONS = {version: str(load_surface(version)["version"]) for version in ("8.6", "10.3", "10.13", "11.4")}
"""Version to `__version__`; that of 10.13 is PyPI's, 10.13.3.9.post1."""

PRECISION_FLAGS = ("FP16", "INT8", "BF16", "FP8", "INT4", "FP4")
MAGIC = b"STANDIN "
TIMINGS_HERE = b"GPU-A"
"""What a timing cache of this machine begins with."""
NO_TIMINGS = b"FOREIGN"
"""What a timing cache begins with that TensorRT makes nothing of: None, as the real one may."""
_ONNX_TYPES = {
    TensorProto.FLOAT: "FLOAT",
    TensorProto.FLOAT16: "HALF",
    TensorProto.INT8: "INT8",
    TensorProto.UINT8: "UINT8",
    TensorProto.INT32: "INT32",
    TensorProto.INT64: "INT64",
    TensorProto.BOOL: "BOOL",
}
_NUMPY = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}
_LAYERS = {
    "Conv": "CONVOLUTION",
    "Relu": "ACTIVATION",
    "Add": "ELEMENTWISE",
    "MaxPool": "POOLING",
    "AveragePool": "POOLING",
    "GlobalAveragePool": "REDUCE",
    "Gemm": "MATRIX_MULTIPLY",
    "MatMul": "MATRIX_MULTIPLY",
    "Flatten": "SHUFFLE",
    "Reshape": "SHUFFLE",
    "ReduceMean": "REDUCE",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
    "Cast": "CAST",
}

DLA_LAYERS = ("CONVOLUTION", "ACTIVATION", "ELEMENTWISE", "POOLING", "MATRIX_MULTIPLY", "SHUFFLE")
"""Of those above, what a DLA runs: a reduction it does not. Source: the facts reference, 4.5."""


@dataclass
class BuildRecord:
    """What was asked of one build.

    Attributes:
        creation_flags: Names of the network's creation flags.
        builder_flags: Names of the flags set in the config.
        pools: Name of a memory pool to its limit in bytes.
        profile: Input name to (min, opt, max) shapes, of the last profile.
        attributes: Config properties that were set.
        succeeded: Whether a plan came out.
    """

    creation_flags: frozenset[str]
    builder_flags: frozenset[str]
    pools: dict[str, int]
    profile: dict[str, tuple[tuple[int, ...], ...]]
    attributes: dict[str, Any]
    succeeded: bool = False


@dataclass
class TensorRtStandin:
    """The module and what happened in it."""

    version: str
    module: Any
    cuda: CudaStandin
    builds: list[BuildRecord] = field(default_factory=list)
    executions: list[int] = field(default_factory=list)
    """Batch size of each execution that was enqueued or captured."""
    contexts_made: int = 0
    profiled_runs: int = 0
    """Executions with a profiler: layer n, from 1, takes n, 2n or 3n microseconds in turn."""
    refuse: set[str] = field(default_factory=set)
    """Names of methods that report failure from now on."""
    dla_cores: int = 0
    """How many DLA cores builder and runtime find."""
    calibration_cache: bytes | None = None
    """What the last build for a DLA read from its calibrator."""
    loaded_on_dla: list[int] = field(default_factory=list)
    """The core of each engine for a DLA that was deserialized."""


class ProcessEndsError(BaseException):
    """Where the real library ends the process, which a test would not survive; nothing may catch it."""


class PybindEnum(enum.Enum):
    """An enum as pybind11 makes it: int() works, arithmetic and comparison with numbers do not."""

    def __int__(self) -> int:
        return self.value


class SeverityBase(enum.IntEnum):
    """`ILogger.Severity` is ordered."""


class Sealed:
    """No attribute may be set that the class does not list, as with pybind11; names with "_" are the stand-in's own."""

    settable: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in self.settable:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)


def make_tensorrt(version: str, cuda: CudaStandin) -> TensorRtStandin:
    """Return the stand-in of one of `VERSIONS`, computing in `cuda`."""
    if version not in VERSIONS:
        raise ValueError(f"got {version!r}, expected one of {', '.join(VERSIONS)}")
    trt = types.ModuleType("tensorrt")
    standin = TensorRtStandin(version, trt, cuda)
    trt.__version__ = VERSIONS[version]
    _add_enums(trt, version)
    _add_logging(trt)
    _add_progress_monitor(trt, version)
    _add_profiler(trt)
    if not _at_least(version, 11):
        _add_calibrator(trt)
    _add_build(trt, standin)
    _add_runtime(trt, standin)
    return standin


def _at_least(version: str, major: int, minor: int = 0) -> bool:
    return tuple(map(int, version.split("."))) >= (major, minor)


def _add_enums(trt: Any, version: str) -> None:
    """Add the enums that the real bindings of this version have, with their numbers."""
    for name, members in load_surface(version)["enums"].items():
        setattr(trt, name, PybindEnum(name, list(members.items())))


def _add_logging(trt: Any) -> None:
    class ILogger:
        Severity = SeverityBase("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO", "VERBOSE"], start=0)

        def __init__(self) -> None:
            self._registered = True

        def log(self, severity: Any, msg: str) -> None:
            raise NotImplementedError

    trt.ILogger = ILogger


def _add_progress_monitor(trt: Any, version: str) -> None:
    if _at_least(version, 9, 1):

        class IProgressMonitor:
            def __init__(self) -> None:
                pass

        trt.IProgressMonitor = IProgressMonitor


def _add_profiler(trt: Any) -> None:
    class IProfiler:
        def __init__(self) -> None:
            self._constructed = True

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            raise NotImplementedError

    trt.IProfiler = IProfiler


def _add_calibrator(trt: Any) -> None:
    class IInt8EntropyCalibrator2:
        def __init__(self) -> None:
            self._constructed = True

    trt.IInt8EntropyCalibrator2 = IInt8EntropyCalibrator2


def _check_logger(trt: Any, logger: Any) -> None:
    if not isinstance(logger, trt.ILogger) or not hasattr(logger, "_registered"):
        raise TypeError("incompatible constructor arguments: a logger whose ILogger.__init__ was called is needed")


def _add_build(trt: Any, standin: TensorRtStandin) -> None:
    version, cuda = standin.version, standin.cuda
    knows_strong_typing = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    always_strong = _at_least(version, 11)

    class TimingCache(Sealed):
        """Timings as words behind the GPU's name; what begins with another name is of another GPU."""

        def __init__(self, content: bytes) -> None:
            self._fits = not content or content.startswith(TIMINGS_HERE)
            self._timings = set(content.split()) - {TIMINGS_HERE}

        def combine(self, input_cache: TimingCache, ignore_mismatch: bool) -> bool:
            if not (input_cache._fits or ignore_mismatch):
                return False
            self._timings |= input_cache._timings
            return True

        def serialize(self) -> HostMemory | None:
            if "serialize" in standin.refuse:
                return None
            return HostMemory(b" ".join([TIMINGS_HERE, *sorted(self._timings)]))

    class HostMemory(Sealed):
        def __init__(self, content: bytes) -> None:
            self._content = content

        @property
        def nbytes(self) -> int:
            return len(self._content)

        def __bytes__(self) -> bytes:
            return self._content

    class Tensor(Sealed):
        def __init__(self, name: str, dtype: Any, shape: tuple[int, ...]) -> None:
            self._values = (name, dtype, shape)

        name = property(lambda self: self._values[0])
        dtype = property(lambda self: self._values[1])
        shape = property(lambda self: self._values[2])

    class Layer(Sealed):
        def __init__(self, kind: Any, name: str, inputs: list[Tensor], outputs: list[Tensor]) -> None:
            self._values = (kind, name, outputs)
            self._inputs = inputs

        _window: tuple[int, ...] = ()
        type = property(lambda self: self._values[0])
        name = property(lambda self: self._values[1])
        num_inputs = property(lambda self: len(self._inputs))
        num_outputs = property(lambda self: len(self._values[2]))

        def get_input(self, index: int) -> Tensor:
            return self._inputs[index]

        def get_output(self, index: int) -> Tensor:
            return self._values[2][index]

    class NetworkDefinition(Sealed):
        def __init__(self, flags: frozenset[str]) -> None:
            self._flags = flags
            self._onnx: bytes | None = None
            self._inputs: list[Tensor] = []
            self._outputs: list[Tensor] = []
            self._layers: list[Layer] = []

        num_inputs = property(lambda self: len(self._inputs))
        num_outputs = property(lambda self: len(self._outputs))
        num_layers = property(lambda self: len(self._layers))

        def get_input(self, index: int) -> Tensor:
            return self._inputs[index]

        def get_output(self, index: int) -> Tensor:
            return self._outputs[index]

        def get_layer(self, index: int) -> Layer:
            return self._layers[index]

    class ParserError(Sealed):
        def __init__(self, text: str) -> None:
            self._text = text

        def desc(self) -> str:
            return self._text

    class OnnxParser(Sealed):
        def __init__(self, network: NetworkDefinition, logger: Any) -> None:
            _check_logger(trt, logger)
            self._network, self._logger = network, logger
            self._errors: list[str] = []

        num_errors = property(lambda self: len(self._errors))

        def get_error(self, index: int) -> ParserError:
            return ParserError(self._errors[index])

        def parse_from_file(self, model: str) -> bool:
            try:
                read = onnx.load(model)
            except Exception as err:  # protobuf's class differs between its implementations
                return self._fail(f"Failed to parse ONNX model from file: {model}: {err}")
            if version == "8.6" and "EXPLICIT_BATCH" not in self._network._flags:
                return self._fail(
                    "This version of the ONNX parser only supports TensorRT INetworkDefinitions with an explicit "
                    "batch dimension"
                )
            for node in read.graph.node:
                if version == "8.6" and node.op_type.endswith("quantizeLinear") and len(node.input) != 3:
                    return self._fail(f"{node.name}: Assertion failed: (nbInputs == 3)")
                zero_point = _constant(read, node.input[2]) if "antizeLinear" in node.op_type and node.input[2:] else 0
                if np.any(zero_point):
                    return self._fail(f"{node.name}: Non-zero zero point is not supported")
            self._fill(read)
            return True

        def _fail(self, text: str) -> bool:
            self._errors.append(text)
            self._logger.log(trt.ILogger.Severity.ERROR, text)
            return False

        def _fill(self, model: onnx.ModelProto) -> None:
            inferred = onnx.shape_inference.infer_shapes(model).graph
            known = {info.name: info for info in (*inferred.value_info, *inferred.input, *inferred.output)}
            constants = {tensor.name for tensor in model.graph.initializer}

            def tensor(name: str) -> Tensor:
                kind = known[name].type.tensor_type if name in known else None
                dtype = _ONNX_TYPES.get(kind.elem_type, "FLOAT") if kind else "FLOAT"
                dims = kind.shape.dim if kind else ()
                shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)
                return Tensor(name, trt.DataType[dtype], shape)

            network = self._network
            network._onnx = model.SerializeToString()
            network._inputs = [tensor(info.name) for info in model.graph.input if info.name not in constants]
            network._outputs = [tensor(info.name) for info in model.graph.output]
            network._layers = [
                Layer(
                    trt.LayerType[_LAYERS.get(node.op_type, "IDENTITY")],
                    node.name,
                    [tensor(name) for name in node.input if name not in constants],
                    [tensor(name) for name in node.output],
                )
                for node in model.graph.node
            ]
            for layer, node in zip(network._layers, model.graph.node, strict=True):
                found = [entry for entry in node.attribute if entry.name == "kernel_shape" and "Pool" in node.op_type]
                layer._window = tuple(size for entry in found for size in entry.ints)

    class OptimizationProfile(Sealed):
        def __init__(self) -> None:
            self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            for name, sizes in (("min", min), ("opt", opt), ("max", max)):
                if any(size < 0 for size in sizes):
                    raise RuntimeError(f"Shape provided for {name} is inconsistent with other shapes.")
            self._shapes[input] = (tuple(min), tuple(opt), tuple(max))

    class BuilderConfig(Sealed):
        settable = (
            "builder_optimization_level",
            "hardware_compatibility_level",
            "profiling_verbosity",
            "default_device_type",
            "DLA_core",
            *(["progress_monitor"] if hasattr(trt, "IProgressMonitor") else []),
            *(["int8_calibrator"] if hasattr(trt, "IInt8EntropyCalibrator2") else []),
        )

        def __init__(self) -> None:
            self._flags: set[str] = {"TF32"}
            self._features = {"PROFILE_SHARING_0806"} if _at_least(version, 10) else set()
            self._pools: dict[str, int] = {}
            self._profiles: list[OptimizationProfile] = []

        def set_flag(self, flag: Any) -> None:
            self._flags.add(trt.BuilderFlag(flag).name)

        def clear_flag(self, flag: Any) -> None:
            self._flags.discard(trt.BuilderFlag(flag).name)

        def get_flag(self, flag: Any) -> bool:
            return trt.BuilderFlag(flag).name in self._flags

        def get_preview_feature(self, feature: Any) -> bool:
            return trt.PreviewFeature(feature).name in self._features

        def set_preview_feature(self, feature: Any, enable: bool) -> None:
            assert feature.name != "PROFILE_SHARING_0806" or not _at_least(version, 10), "it cannot be changed there"
            assert enable
            self._features.add(trt.PreviewFeature(feature).name)

        def create_timing_cache(self, serialized_timing_cache: bytes) -> TimingCache | None:
            if serialized_timing_cache.startswith(NO_TIMINGS) or "create_timing_cache" in standin.refuse:
                return None
            return TimingCache(serialized_timing_cache)

        def set_timing_cache(self, cache: TimingCache, ignore_mismatch: bool) -> bool:
            if not isinstance(cache, TimingCache):
                raise TypeError("set_timing_cache(): incompatible function arguments")
            if not (cache._fits or ignore_mismatch):
                return False
            self._timing_cache = cache
            return True

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            self._pools[trt.MemoryPoolType(pool).name] = pool_size

        def add_optimization_profile(self, profile: OptimizationProfile) -> int:
            for shapes in profile._shapes.values():
                if not all(low <= best <= high for low, best, high in zip(*shapes, strict=True)):
                    return -1
            self._profiles.append(profile)
            return len(self._profiles) - 1

        def can_run_on_DLA(self, layer: Layer) -> bool:
            return layer.type.name in DLA_LAYERS and max(layer._window, default=1) <= 8

    if not always_strong:  # with the calibrators it went

        def set_calibration_profile(self: BuilderConfig, profile: OptimizationProfile) -> bool:
            self._calibration_profile = profile
            return True

        BuilderConfig.set_calibration_profile = set_calibration_profile

    class Builder(Sealed):
        def __init__(self, logger: Any) -> None:
            _check_logger(trt, logger)
            if cuda.devices < 1:
                logger.log(trt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 100")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger

        num_DLA_cores = property(lambda self: standin.dla_cores)

        def create_network(self, flags: int = 0) -> NetworkDefinition:
            names = {flag.name for flag in trt.NetworkDefinitionCreationFlag if flags >> int(flag) & 1}
            return NetworkDefinition(frozenset(names | ({"STRONGLY_TYPED"} if always_strong else set())))

        def create_builder_config(self) -> BuilderConfig:
            return BuilderConfig()

        def create_optimization_profile(self) -> OptimizationProfile:
            return OptimizationProfile()

        def build_serialized_network(self, network: NetworkDefinition, config: BuilderConfig) -> HostMemory | None:
            profile = config._profiles[-1]._shapes if config._profiles else {}
            attributes = {name: value for name, value in vars(config).items() if not name.startswith("_")}
            record = BuildRecord(network._flags, frozenset(config._flags), dict(config._pools), profile, attributes)
            standin.builds.append(record)
            if error := self._refusal(network, config, profile):
                self._logger.log(trt.ILogger.Severity.ERROR, error)
                return None
            record.succeeded = True
            if (timings := getattr(config, "_timing_cache", None)) is not None:
                timings._timings.add(f"kernel{len(standin.builds)}".encode())
            monitor = attributes.get("progress_monitor")
            if monitor is not None:
                monitor.phase_start("Building engine", None, 2)
                if not all(monitor.step_complete("Building engine", step) for step in range(2)):
                    return None
                monitor.phase_finish("Building engine")
            on_dla = attributes.get("default_device_type") == trt.DeviceType.DLA
            shares = "PROFILE_SHARING_0806" in config._features
            verbosity = attributes.get("profiling_verbosity")
            compatible = "VERSION_COMPATIBLE" in config._flags
            plan = _plan(trt, network, profile, verbosity, on_dla=on_dla, shares_profile=shares, compatible=compatible)
            return HostMemory(plan)

        def _refusal(self, network: NetworkDefinition, config: BuilderConfig, profile: dict) -> str | None:
            if network._onnx is None:
                return "Network must have at least one output"
            if getattr(config, "default_device_type", None) == trt.DeviceType.DLA:
                return _dla_refusal(trt, standin, network, config, profile)
            if "STRONGLY_TYPED" in network._flags and knows_strong_typing:
                for name in PRECISION_FLAGS:
                    if name in config._flags:
                        return f"BuilderFlag::k{name} is not compatible with a strongly typed network"
            else:
                kinds = {layer.type.name for layer in network._layers}
                if kinds & {"QUANTIZE", "DEQUANTIZE"} and "INT8" not in config._flags:
                    return "to enable any quantization operation the INT8 flag must be set in the builder configuration"
                halves = [tensor for layer in network._layers for tensor in layer._values[2]]
                if any(tensor.dtype == trt.DataType.HALF for tensor in halves) and "FP16" not in config._flags:
                    return (
                        "fp16 precision has been set for a layer or layer output, but fp16 is not configured in the "
                        "builder"
                    )
            dynamic = [tensor.name for tensor in network._inputs if -1 in tensor.shape]
            if any(name not in profile for name in dynamic):
                return "Network has dynamic or shape inputs, but no optimization profile has been defined."
            return None

    trt.Builder, trt.OnnxParser = Builder, OnnxParser
    trt.INetworkDefinition, trt.IBuilderConfig, trt.IHostMemory = NetworkDefinition, BuilderConfig, HostMemory
    trt.IOptimizationProfile, trt.ILayer, trt.ITensor = OptimizationProfile, Layer, Tensor
    trt.ITimingCache = TimingCache


def _constant(model: onnx.ModelProto, name: str) -> Any:
    found = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == name]
    return found[0] if found else 0


def _dla_refusal(trt: Any, standin: TensorRtStandin, network: Any, config: Any, profile: dict) -> str | None:
    """Return why TensorRT 8.6 to 10.7 would not build this for a DLA."""
    if "STRONGLY_TYPED" in network._flags:
        return "DLA does not support strongly typed networks"
    if any(layer.type.name in ("QUANTIZE", "DEQUANTIZE") for layer in network._layers):
        return "DLA does not support explicit quantization"
    if any(len(set(shapes)) > 1 for shapes in profile.values()) or any(
        -1 in tensor.shape and tensor.name not in profile for tensor in network._inputs
    ):
        return "DLA does not support dynamic shapes: min, opt and max must be equal"
    if not {"FP16", "INT8"} & config._flags:
        return "Default DLA is enabled but layers can only run in FP16 or INT8"
    if "GPU_FALLBACK" not in config._flags and not all(config.can_run_on_DLA(layer) for layer in network._layers):
        return "a layer is not supported on DLA and GPU fallback is not enabled"
    if "INT8" not in config._flags:
        return None
    calibrator = getattr(config, "int8_calibrator", None)
    if not hasattr(calibrator, "_constructed"):
        return "INT8 without a calibrator whose __init__ was called"
    if profile and getattr(config, "_calibration_profile", None) is None:
        return "Calibration Profile is not defined"
    assert calibrator.get_batch_size() == 1
    cache = calibrator.read_calibration_cache()
    major, minor, patch = map(int, trt.__version__.split(".")[:3])
    number = (major * 10 + minor) * 100 + patch if major < 10 else major * 10_000 + minor * 100 + patch
    if not cache.startswith(f"TRT-{number}-EntropyCalibration2\n".encode()):
        calibrator.get_batch([tensor.name for tensor in network._inputs])
        return "Calibration failure occurred with no scaling factors detected"
    standin.calibration_cache = cache
    return None


def _plan(
    trt: Any, network: Any, profile: dict, verbosity: Any, *, on_dla: bool, shares_profile: bool, compatible: bool
) -> bytes:
    head = {
        "compatible": compatible,
        "shares_profile": shares_profile,
        "on_dla": on_dla,
        "verbosity": "LAYER_NAMES_ONLY" if verbosity is None else verbosity.name,
        "version": trt.__version__,
        "profile": profile,
        "inputs": [[tensor.name, tensor.dtype.name, tensor.shape] for tensor in network._inputs],
        "outputs": [[tensor.name, tensor.dtype.name, tensor.shape] for tensor in network._outputs],
        "sha256": hashlib.sha256(network._onnx).hexdigest(),
    }
    return MAGIC + json.dumps(head).encode() + b"\n" + network._onnx


def _inspected(model: onnx.ModelProto, *, separate_types: bool) -> list[dict[str, Any]]:
    """Return layers as the inspector writes them: up to TensorRT 10 type and format are one text."""
    kinds = {
        info.name: info.type.tensor_type.elem_type for info in onnx.shape_inference.infer_shapes(model).graph.value_info
    }
    made_by = {name: node for node in model.graph.node for name in node.output}

    def tensor(name: str) -> dict[str, Any]:
        maker = made_by.get(name)
        quantized = maker is not None and maker.op_type == "DequantizeLinear"
        kind = "Int8" if quantized else "Half" if kinds.get(name) == TensorProto.FLOAT16 else "Float"
        if separate_types:
            return {"Name": name, "Format": "Row major linear", "Datatype": kind}
        words = {
            "Int8": "Thirty-two wide channel vectorized row major Int8 format",
            "Half": "Row major linear FP16 format",
        }
        return {"Name": name, "Format/Datatype": words.get(kind, "Row major linear FP32")}

    layers = [
        {"Name": "Reformatting CopyNode for Input Tensor 0", "LayerType": "Reformat", "Inputs": [], "Outputs": []}
    ]
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            name = node.name or node.output[0]
            layers.append(
                {
                    "Name": f"{name} + relu",
                    "LayerType": "CaskConvolution" if node.op_type == "Conv" else "gemm",
                    "Inputs": [tensor(node.input[0])],
                    "Outputs": [tensor(node.output[0])],
                    "Metadata": f"[ONNX Layer: {name}]",
                }
            )
    return layers


def _add_runtime(trt: Any, standin: TensorRtStandin) -> None:
    version, cuda = standin.version, standin.cuda

    def refused(method: str, logger: Any) -> bool:
        if method in standin.refuse:
            text = f"{method} was refused"
            logger.log(trt.ILogger.Severity.ERROR, text)
            return True
        return False

    class ExecutionContext(Sealed):
        settable = ("profiler",)

        def __init__(self, engine: CudaEngine, profile: int) -> None:
            self._engine = engine
            self._profile = profile
            self._shapes: dict[str, tuple[int, ...]] = {}
            self._addresses: dict[str, int] = {}
            self._state = 0
            self._warm_for = -1

        @property
        def active_optimization_profile(self) -> int:
            return self._profile

        def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
            if profile_index != 0 or (
                not self._engine._head["shares_profile"] and self._engine._contexts_with_profile()
            ):
                text = f"Optimization profile {profile_index} is already in use by another execution context"
                self._engine._logger.log(trt.ILogger.Severity.ERROR, text)
                raise RuntimeError(text) if _at_least(version, 10, 13) else ProcessEndsError(text)
            self._profile = profile_index
            return True

        def set_input_shape(self, name: str, shape: Any) -> bool:
            engine, shape = self._engine, tuple(shape)
            if refused("set_input_shape", engine._logger):
                return False
            if self._profile < 0 or name not in engine._inputs:
                return False
            smallest, _, largest = engine._range(name)
            inside = len(shape) == len(smallest) and all(
                low <= size <= high for low, size, high in zip(smallest, shape, largest, strict=True)
            )
            if not inside:
                text = f"Static dimension mismatch or profile range: {name} {shape} is not in {smallest}..{largest}"
                engine._logger.log(trt.ILogger.Severity.ERROR, text)
                return False
            self._shapes[name] = shape
            self._state += 1
            return True

        def infer_shapes(self) -> list[str]:
            return [name for name in self._engine._inputs if name not in self._shapes]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            if name in self._shapes:
                return self._shapes[name]
            shape = self._engine._tensors[name][1]
            if self.infer_shapes() or name in self._engine._inputs:
                return shape
            batch = next(iter(self._shapes.values()))[0]
            return tuple(batch if size < 0 else size for size in shape)

        def set_tensor_address(self, name: str, memory: int) -> bool:
            if refused("set_tensor_address", self._engine._logger) or name not in self._engine._tensors:
                return False
            self._addresses[name] = int(memory)
            self._state += 1
            return True

        def execute_async_v3(self, stream_handle: int) -> bool:
            engine = self._engine
            if refused("execute_async_v3", engine._logger):
                return False
            if self.infer_shapes() or set(self._addresses) != set(engine._tensors):
                engine._logger.log(trt.ILogger.Severity.ERROR, "Not all shapes are specified or addresses are set")
                return False
            if cuda.is_capturing(stream_handle) and self._warm_for != self._state:
                engine._logger.log(trt.ILogger.Severity.ERROR, "Cannot capture: lazy initialization is pending")
                return False
            self._warm_for = self._state
            state, shapes, addresses = self._state, dict(self._shapes), dict(self._addresses)
            outputs = {name: self.get_tensor_shape(name) for name in engine._outputs}
            standin.executions.append(next(iter(shapes.values()))[0])
            owner = weakref.ref(self)

            def work() -> None:
                context = owner()
                assert context is not None, "the context was destroyed before its work was done"
                assert context._state == state, "the context was changed after it was enqueued or captured"
                feeds = {name: engine._read(name, addresses[name], shape) for name, shape in shapes.items()}
                results = engine._session.run(list(outputs), feeds)
                for (name, shape), result in zip(outputs.items(), results, strict=True):
                    assert result.shape == shape, f"{name}: {result.shape} computed, {shape} promised"
                    size = result.nbytes
                    cuda.device_bytes(addresses[name], size)[:] = np.frombuffer(result.tobytes(), np.uint8)

            cuda.enqueue(stream_handle, work)
            profiler = getattr(self, "profiler", None)
            if profiler is not None:  # enqueue_emits_profile is on unless turned off: it waits and reports
                assert hasattr(profiler, "_constructed"), "IProfiler.__init__ was not called"
                cuda.synchronize(stream_handle)
                standin.profiled_runs += 1
                for place, name in enumerate(engine._layer_names()):
                    profiler.report_layer_time(name, 0.001 * (place + 1) * (1 + standin.profiled_runs % 3))
            return True

    class EngineInspector(Sealed):
        """Tells one layer per Conv and Gemm, and a reformat before the first."""

        settable = ("execution_context",)

        def __init__(self, engine: CudaEngine) -> None:
            self._engine = engine

        def get_engine_information(self, format: Any) -> str:
            assert trt.LayerInformationFormat(format).name == "JSON", "the project reads JSON only"
            layers = _inspected(onnx.load_from_string(self._engine._model), separate_types=_at_least(version, 11))
            if self._engine._head["verbosity"] != "DETAILED":
                layers = [layer["Name"] for layer in layers]
            if _at_least(version, 11):
                return json.dumps({"Layers": layers, "I/O Tensors": [{"Name": name} for name in self._engine._tensors]})
            return json.dumps({"Layers": layers, "Bindings": list(self._engine._tensors)})

    class CudaEngine(Sealed):
        def __init__(self, head: dict, model: bytes, logger: Any) -> None:
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.intra_op_num_threads = 1
            options.add_session_config_entry("session.disable_quant_qdq", "1")
            options.add_session_config_entry("session.disable_double_qdq_remover", "1")
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            self._logger = logger
            self._inputs = [name for name, _, _ in head["inputs"]]
            self._outputs = [name for name, _, _ in head["outputs"]]
            self._tensors = {
                name: (trt.DataType[dtype], tuple(shape)) for name, dtype, shape in head["inputs"] + head["outputs"]
            }
            self._head, self._model = head, model
            self._profile = {name: [tuple(shape) for shape in shapes] for name, shapes in head["profile"].items()}
            self._contexts: list[weakref.ref] = []

        num_io_tensors = property(lambda self: len(self._tensors))
        num_optimization_profiles = property(lambda self: 1)

        def get_tensor_name(self, index: int) -> str:
            return list(self._tensors)[index]

        def get_tensor_mode(self, name: str) -> Any:
            return trt.TensorIOMode.INPUT if name in self._inputs else trt.TensorIOMode.OUTPUT

        def get_tensor_dtype(self, name: str) -> Any:
            return self._tensors[name][0]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return self._tensors[name][1]

        def get_tensor_location(self, name: str) -> Any:
            return trt.TensorLocation.DEVICE

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
            if name not in self._inputs:
                raise ValueError(f"{name} is no input; TensorRT answers with -1 dimensions")
            return self._range(name)

        def _layer_names(self) -> list[str]:
            return [layer["Name"] for layer in _inspected(onnx.load_from_string(self._model), separate_types=True)]

        def create_engine_inspector(self) -> EngineInspector:
            return EngineInspector(self)

        def create_execution_context(self) -> ExecutionContext | None:
            if refused("create_execution_context", self._logger):
                return None
            standin.contexts_made += 1
            # by itself TensorRT 8.6 gives the profile to one context only, later ones to all
            taken = self._dynamic() and not _at_least(version, 10) and self._contexts_with_profile()
            context = ExecutionContext(self, -1 if taken else 0)
            self._contexts.append(weakref.ref(context))
            return context

        def _range(self, name: str) -> list[tuple[int, ...]]:
            return self._profile.get(name) or [self._tensors[name][1]] * 3

        def _dynamic(self) -> bool:
            return any(-1 in shape for _, shape in self._tensors.values())

        def _contexts_with_profile(self) -> int:
            contexts = [context() for context in self._contexts]
            return sum(context is not None and context._profile >= 0 for context in contexts)

        def _read(self, name: str, address: int, shape: tuple[int, ...]) -> np.ndarray:
            kind = np.dtype(_NUMPY[self._tensors[name][0].name])
            size = int(np.prod(shape)) * kind.itemsize
            return cuda.device_bytes(address, size).copy().view(kind).reshape(shape)

    class Runtime(Sealed):
        settable = ("engine_host_code_allowed", "DLA_core")
        num_DLA_cores = property(lambda self: standin.dla_cores)

        def __init__(self, logger: Any) -> None:
            _check_logger(trt, logger)
            if cuda.devices < 1:
                logger.log(trt.ILogger.Severity.ERROR, "CUDA initialization failure with error: 100")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger
            self.engine_host_code_allowed = False

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> CudaEngine | None:
            content = bytes(serialized_engine)
            error = self._refusal(content)
            if error is not None:
                self._logger.log(trt.ILogger.Severity.ERROR, error)
                return None
            head, _, model = content[len(MAGIC) :].partition(b"\n")
            if json.loads(head)["on_dla"]:
                standin.loaded_on_dla.append(self.DLA_core)
            return CudaEngine(json.loads(head), model, self._logger)

        def _refusal(self, content: bytes) -> str | None:
            head, _, model = content[len(MAGIC) :].partition(b"\n")
            try:
                facts = json.loads(head) if content.startswith(MAGIC) else None
            except ValueError:
                facts = None
            if facts is None:
                return "Serialization assertion magicTagRead == kMAGIC_TAG failed. Magic tag does not match"
            if facts["compatible"] and not self.engine_host_code_allowed:
                return "Plan contains host code, which must be allowed with setEngineHostCodeAllowed first"
            if facts["version"] != trt.__version__ and not facts["compatible"]:
                return (
                    "The engine plan file is not compatible with this version of TensorRT, expecting library version "
                    f"{facts['version']} got {trt.__version__}, please rebuild."
                )
            if hashlib.sha256(model).hexdigest() != facts["sha256"]:
                return "Serialization assertion stdArchiveReader failed. Size specified in header does not match"
            if facts["on_dla"] and not 0 <= getattr(self, "DLA_core", -1) < standin.dla_cores:
                return "Cannot deserialize engine with DLA layers: no DLA core was set"
            return None

    trt.Runtime, trt.ICudaEngine, trt.IExecutionContext = Runtime, CudaEngine, ExecutionContext
