"""TensorRT and TensorRT-RTX engines behind the `Runtime` contract: 8.6, 10, 11 and RTX on one code path.

Tensors are named, never counted; what a version offers is probed. Every call that can refuse is checked. An engine
serves any batch size: what exceeds its profile runs in pieces, what falls short of it is padded. Several threads may
call `run` at once; each holds a lane (execution context, stream, buffers) while it computes.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from runtimes.cuda_memory import CudaRuntime, DeviceBuffer, PinnedBuffer, load_cuda
from runtimes.engine_sidecar import EngineSidecar, load_sidecar
from runtimes.errors import BundleError, InputMismatchError, ProviderUnavailableError, RuntimeAdapterError
from runtimes.manifest import file_entry
from runtimes.protocol import Array, TensorSpec, check_inputs
from runtimes.trt_library import TensorRtLibrary, load_library

if TYPE_CHECKING:
    from typing_extensions import Self

_DTYPES = MappingProxyType(
    {
        "FLOAT": "float32",
        "HALF": "float16",
        "INT64": "int64",
        "INT32": "int32",
        "INT8": "int8",
        "UINT8": "uint8",
        "BOOL": "bool",
    }
)
"""TensorRT's types that NumPy has; `trt.nptype` raises TypeError for the others and names removed NumPy types."""

_GRAPHS_PER_LANE = 4
"""Each graph keeps an execution context, and with it activation memory, of its own: so only the last few stay."""

_PROFILE = 0
_MODEL_FIELDS = frozenset(range(1, 27))
_WHY_INVALID = MappingProxyType(
    {
        1: "it was built by another version",
        2: "it was built for other compute capabilities",
        4: "the CUDA driver is too old",
        8: "the CUDA runtime is too old",
        16: "the GPU has too little memory",
        32: "the file is damaged or is no TensorRT-RTX engine",
        64: "CUDA failed",
    }
)
"""Bits of TensorRT-RTX's engine diagnostics."""


class TrtRuntime:
    """An engine opened in TensorRT, on GPU 0.

    Args:
        engine: Path of the plan.
        flavour: "tensorrt" or "rtx"; None takes what the sidecar says, "tensorrt" where there is none.
        check_sidecar: Compare the plan and this machine with `<engine>.json` before TensorRT sees the plan.
        cuda: CUDA; what is installed when None.
        max_contexts: How many calls of `run` may compute at the same time; each needs memory for the largest batch.
            TensorRT 8.6 gives an engine with one profile one context, so there the calls take turns.
        cuda_graphs: Capture each batch size once and replay it. Worth it for small batches that come again.

    Raises:
        RuntimeAdapterError: If the file is missing or no engine, or does not fit this TensorRT or GPU.
        BundleError: If the sidecar is missing, or the plan or this system is not the one it tells of.
        MissingDependencyError: If TensorRT or CUDA is not installed.
        ProviderUnavailableError: If there is no driver or no GPU.
        ValueError: If an option is wrong.
    """

    def __init__(
        self,
        engine: str | Path,
        *,
        flavour: str | None = None,
        check_sidecar: bool = True,
        cuda: CudaRuntime | None = None,
        max_contexts: int = 2,
        cuda_graphs: bool = False,
    ) -> None:
        if type(max_contexts) is not int or max_contexts < 1:
            raise ValueError(f"max_contexts: got {max_contexts!r}, expected a whole number >= 1")
        self._process = os.getpid()
        self._closed = False
        self._changed = threading.Condition()
        self._free: list[_Lane] = []
        self._num_lanes = 0
        self._max_lanes = max_contexts
        self._graphs = cuda_graphs

        path = Path(engine)
        _check_is_no_onnx(path)
        sidecar = _read_sidecar(path, required=check_sidecar, flavour=flavour)
        chosen = flavour or (sidecar.facts.flavour if sidecar else "tensorrt")
        command = _rebuild_command(path, sidecar, chosen)
        if sidecar is not None and check_sidecar:
            _check_plan(path, sidecar, chosen, command)
        library = load_library(chosen)
        if sidecar is not None and check_sidecar:
            _check_version(path, sidecar, library, command)
        self._cuda = load_cuda() if cuda is None else cuda
        if self._cuda.device_count() < 1:
            raise ProviderUnavailableError(f"{path} needs an NVIDIA GPU; CUDA finds none on this machine")
        if sidecar is not None and check_sidecar:
            _check_gpu(path, sidecar, self._cuda.compute_capability(), command)
        self._model: _Model | None = _load(path, library, command)
        self._input_specs, self._output_specs = self._model.inputs, self._model.outputs
        self._free.append(self._new_lane())

    @property
    def input_specs(self) -> Mapping[str, TensorSpec]:
        """Name to specification of every input."""
        return self._input_specs

    @property
    def output_specs(self) -> Mapping[str, TensorSpec]:
        """Name to specification of every output, in the model's order."""
        return self._output_specs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model once; see `Runtime.run`. Any number of threads may call it.

        Raises:
            RuntimeAdapterError: After `close`, in a forked child, or when TensorRT or CUDA fails.
            InputMismatchError: If an input has a wrong name, dtype or shape, or is in GPU memory.
        """
        if os.getpid() != self._process:
            raise RuntimeAdapterError(
                f"this engine was opened in process {self._process} and CUDA does not outlive a fork; open it in this "
                "process, or start processes with multiprocessing's 'spawn'"
            )
        if self._closed:
            raise _closed()
        for name, array in inputs.items():
            if not isinstance(array, np.ndarray) and hasattr(array, "__cuda_array_interface__"):
                raise InputMismatchError(
                    f"input {name!r}: got {type(array).__name__} in GPU memory, expected a NumPy array; copy it to the "
                    "host before run()"
                )
        check_inputs(self._input_specs, inputs)
        lane = self._take_lane()
        try:
            outputs = _run_in_pieces(lane, inputs)
        except BaseException:  # an interrupt too: what the lane's stream still does is unknown
            self._return_lane(lane, usable=False)
            raise
        self._return_lane(lane, usable=True)
        return outputs

    def close(self) -> None:
        """Wait for the calls of `run` that compute, then release everything; a second call does nothing."""
        if os.getpid() != self._process:  # a forked child: all of it is the parent's
            self._closed = True
            return
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._free) == self._num_lanes)
            lanes, self._free, self._num_lanes = self._free, [], 0
            self._model = None
            _close_all(lanes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _take_lane(self) -> _Lane:
        with self._changed:
            while True:
                if self._closed:
                    raise _closed()
                if self._free:
                    return self._free.pop()
                if self._num_lanes < self._max_lanes:
                    try:
                        return self._new_lane()
                    except _ProfileInUseError:
                        if self._num_lanes == 0:
                            raise
                        self._max_lanes = self._num_lanes  # TensorRT 8.6: the calls take turns
                        continue
                self._changed.wait()

    def _return_lane(self, lane: _Lane, *, usable: bool) -> None:
        with self._changed:
            if usable:
                self._free.append(lane)
            else:
                self._num_lanes -= 1
                with suppress(RuntimeAdapterError):  # what broke the lane is on its way to the caller
                    lane.close()
            self._changed.notify_all()

    def _new_lane(self) -> _Lane:
        if self._model is None:
            raise _closed()
        lane = _Lane(self._model, self._cuda, graphs=self._graphs)
        self._num_lanes += 1  # only now: a lane that could not be made does not count
        return lane


class _ProfileInUseError(RuntimeAdapterError):
    """TensorRT 8.6 lets only one context at a time use an optimization profile."""


def _closed() -> RuntimeAdapterError:
    return RuntimeAdapterError("this runtime is closed; open the engine again")


# The plan: is it what it should be, and for here?


def _check_is_no_onnx(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError as err:
        raise RuntimeAdapterError(f"{path} cannot be read ({err.strerror}); {_rebuild_command(path)}") from err
    if not head:
        raise RuntimeAdapterError(f"{path}: got an empty file, expected a TensorRT engine; {_rebuild_command(path)}")
    if _looks_like_onnx(head):
        raise RuntimeAdapterError(
            f"{path}: got an ONNX model, expected a TensorRT engine built from one; {_rebuild_command(path)}"
        )


def _looks_like_onnx(head: bytes) -> bool:
    """Tell whether a file begins as a serialized ModelProto does: known fields, an IR version, and the graph.

    Source: Protocol Buffers encoding (a key is field number << 3 | wire type); onnx.proto, message ModelProto.
    """
    place, seen = 0, set()
    while place < len(head):
        key, place = _varint(head, place)
        field, kind = key >> 3, key & 7
        if field not in _MODEL_FIELDS or kind not in (0, 2):
            return False
        value, place = _varint(head, place)
        if kind == 2:
            place += value
        seen.add(field)
    return bool(seen & {7, 8}) and 1 in seen  # 1: ir_version, 7: graph, 8: opset_import


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data):
        value |= (data[place] & 127) << shift
        place, shift = place + 1, shift + 7
        if data[place - 1] < 128:
            break
    return value, place


def _read_sidecar(path: Path, *, required: bool, flavour: str | None) -> EngineSidecar | None:
    if not required and flavour is not None:
        return None
    try:
        return load_sidecar(path)
    except BundleError as err:
        if not required:
            return None
        raise BundleError(
            f"{err}: nothing else tells what the engine was built for; {_rebuild_command(path)}, or open it with "
            "check_sidecar=False"
        ) from err


def _rebuild_command(path: Path, sidecar: EngineSidecar | None = None, flavour: str | None = None) -> str:
    """Return what to do; without a sidecar, precision and flavour are read off the file's name."""
    words = path.name.split(".")
    precision = next((word for word in ("int8", "fp16") if word in words), "fp32")
    rtx = flavour == "rtx" if flavour is not None else "rtx" in words
    if sidecar is not None:
        precision, rtx = sidecar.facts.precision, sidecar.facts.flavour == "rtx"
    return f"build it here: resnet-export build {path.parent} --{precision}{' --rtx' if rtx else ''}"


def _check_plan(path: Path, sidecar: EngineSidecar, flavour: str, command: str) -> None:
    """Compare file, flavour and system with the sidecar; no library is needed for that."""
    entry = file_entry(path)
    if (entry.size_bytes, entry.sha256) != (sidecar.engine_size_bytes, sidecar.engine_sha256):
        raise BundleError(
            f"{path}: changed since it was built: got {entry.size_bytes} bytes, SHA-256 {entry.sha256[:12]}…, expected "
            f"{sidecar.engine_size_bytes} bytes, {sidecar.engine_sha256[:12]}…; copy it again, or {command}"
        )
    if flavour != sidecar.facts.flavour:
        raise BundleError(
            f"{path}: asked to open it with {flavour!r}, it was built with {sidecar.facts.flavour!r}; leave flavour out"
        )
    system = f"{platform.system()} {platform.machine()}"
    if system != sidecar.facts.system:
        raise BundleError(f"{path}: got an engine for {sidecar.facts.system}, this machine is {system}; {command}")


def _check_version(path: Path, sidecar: EngineSidecar, library: TensorRtLibrary, command: str) -> None:
    built = sidecar.facts.tensorrt_version
    if built != library.version and not sidecar.facts.flags.get("version_compat"):
        raise BundleError(
            f"{path}: got an engine of {library.flavour} {built}, expected {library.version}, which is installed here; "
            f"{command}"
        )


def _check_gpu(path: Path, sidecar: EngineSidecar, here: str, command: str) -> None:
    built = sidecar.facts.compute_capability
    if built is None or built == here:  # None: TensorRT-RTX, which checks that itself
        return
    if sidecar.facts.flags.get("hardware_compat") == "ampere-plus" and int(here.split(".")[0]) >= 8:
        return
    raise BundleError(
        f"{path}: got an engine for compute capability {built} ({sidecar.facts.gpu}), expected {here}, this GPU's; "
        f"{command}"
    )


# The engine


@dataclass(frozen=True, slots=True)
class _Model:
    """A deserialized engine.

    Attributes:
        library: What loaded it.
        runtime: TensorRT's runtime, which must live as long as the engine.
        engine: The engine.
        inputs: Specification of each input; the first axis is None where the profile has a range.
        outputs: Specification of each output.
        batch: Smallest and largest batch of the profile, or None when all shapes are fixed.
        making: Held while contexts are made or exchanged for others.
    """

    library: TensorRtLibrary
    runtime: Any
    engine: Any
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    batch: tuple[int, int] | None
    making: threading.RLock = field(default_factory=threading.RLock)

    def shape(self, spec: TensorSpec, batch: int) -> tuple[int, ...]:
        """Return the shape of a tensor at a batch size."""
        return tuple(batch if size is None else size for size in spec.shape)

    def failed(self, what: str) -> RuntimeAdapterError:
        """Return the error for a refused call, with TensorRT's own words."""
        return RuntimeAdapterError(f"{self.library.flavour}: {what} failed: {self.library.log.last_words()}")


def _load(path: Path, library: TensorRtLibrary, command: str) -> _Model:
    trt = library.module
    library.log.clear()
    plan = path.read_bytes()
    runtime = trt.Runtime(library.logger)
    _check_validity(path, library, runtime, plan, command)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise RuntimeAdapterError(
            f"{library.flavour} {library.version} does not load {path}: {library.log.last_words()}; it is damaged or "
            f"was built for another version or GPU; {command}"
        )
    inputs: dict[str, TensorSpec] = {}
    outputs: dict[str, TensorSpec] = {}
    for place in range(engine.num_io_tensors):
        name = engine.get_tensor_name(place)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        (inputs if is_input else outputs)[name] = _spec(trt, engine, name)
    batch = _batch_range(engine, inputs, outputs)
    return _Model(library, runtime, engine, MappingProxyType(inputs), MappingProxyType(outputs), batch)


def _check_validity(path: Path, library: TensorRtLibrary, runtime: Any, plan: bytes, command: str) -> None:
    """Ask TensorRT-RTX whether the plan fits; TensorRT has no such question."""
    if not hasattr(runtime, "get_engine_validity"):
        return
    validity, bits = runtime.get_engine_validity(plan)
    if validity == library.module.EngineValidity.INVALID:
        reasons = [text for bit, text in _WHY_INVALID.items() if bits & bit]
        raise RuntimeAdapterError(
            f"{path} cannot run here: {', '.join(reasons) or library.log.last_words()}; {command}"
        )


def _spec(trt: Any, engine: Any, name: str) -> TensorSpec:
    dtype = engine.get_tensor_dtype(name)
    known = {getattr(trt.DataType, word): numpy for word, numpy in _DTYPES.items() if hasattr(trt.DataType, word)}
    if dtype not in known:
        raise RuntimeAdapterError(
            f"tensor {name!r} has type {dtype}, which NumPy lacks; export with inputs and outputs in float32"
        )
    if engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
        raise RuntimeAdapterError(f"tensor {name!r} is a shape tensor in host memory; only images and logits are known")
    shape = tuple(int(size) for size in engine.get_tensor_shape(name))
    return TensorSpec(known[dtype], tuple(None if size < 0 else size for size in shape))


def _batch_range(
    engine: Any, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
) -> tuple[int, int] | None:
    specs = {**inputs, **outputs}
    if all(None not in spec.shape for spec in specs.values()):
        return None
    for name, spec in specs.items():
        if not spec.shape or spec.shape[0] is not None or None in spec.shape[1:]:
            raise RuntimeAdapterError(
                f"tensor {name!r} is {spec}; expected the first axis, and no other, to be dynamic"
            )
    ranges = [engine.get_tensor_profile_shape(name, _PROFILE) for name in inputs]
    return max(int(shapes[0][0]) for shapes in ranges), min(int(shapes[2][0]) for shapes in ranges)


# One call


def _run_in_pieces(lane: _Lane, inputs: Mapping[str, Array]) -> dict[str, Array]:
    model = lane.model
    if model.batch is None:
        return lane.run(inputs)
    sizes = {name: len(array) for name, array in inputs.items()}
    total = next(iter(sizes.values()))
    if set(sizes.values()) != {total}:
        raise InputMismatchError(f"the inputs have different batch sizes: {sizes}; expected one")
    step = model.batch[1]
    if total <= step:
        return lane.run(inputs)
    pieces = [
        lane.run({name: array[start : start + step] for name, array in inputs.items()})
        for start in range(0, total, step)
    ]
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in model.outputs}


class _Lane:
    """What one call at a time computes in: a stream, buffers for the largest batch, and execution contexts."""

    def __init__(self, model: _Model, cuda: CudaRuntime, *, graphs: bool) -> None:
        self.model = model
        self._cuda = cuda
        self._graphs = graphs
        self._host: dict[str, PinnedBuffer] = {}
        self._device: dict[str, DeviceBuffer] = {}
        self._captured: dict[int, _Captured] = {}
        self._context: Any = None
        self._shaped_for = 0
        self._stream: int | None = cuda.create_stream()
        try:
            self._context = self._new_context()
            largest = 1 if model.batch is None else model.batch[1]
            for name, spec in {**model.inputs, **model.outputs}.items():
                size = max(1, _num_bytes(spec, model.shape(spec, largest)))
                self._host[name] = PinnedBuffer(cuda, size)
                self._device[name] = DeviceBuffer(cuda, size)
        except BaseException:
            with suppress(RuntimeAdapterError):
                self.close()
            raise

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run at most the profile's largest batch; less than the smallest is padded with the last row."""
        model, cuda, stream = self.model, self._cuda, self._open_stream()
        rows = None if model.batch is None else len(next(iter(inputs.values())))
        batch = 1 if rows is None or model.batch is None else max(rows, model.batch[0])
        for name, spec in model.inputs.items():
            view = self._view(name, spec, batch)
            view[:rows] = inputs[name]
            if rows is not None:
                view[rows:] = view[rows - 1]
            cuda.copy_to_device(self._device[name].address, self._host[name].address, view.nbytes, stream)
        self._execute(batch, stream)
        views = {name: self._view(name, spec, batch) for name, spec in model.outputs.items()}
        for name, view in views.items():
            cuda.copy_to_host(self._host[name].address, self._device[name].address, view.nbytes, stream)
        cuda.synchronize(stream)
        return {name: view[:rows].copy() for name, view in views.items()}

    def close(self) -> None:
        """Wait for the stream and release everything, even if a part of it fails; a second call does nothing."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        first: RuntimeAdapterError | None = None
        try:
            self._cuda.synchronize(stream)
        except RuntimeAdapterError as err:
            first = err
        parts: list[_Captured | DeviceBuffer | PinnedBuffer] = []
        for held in (self._captured, self._device, self._host):
            parts.extend(held.values())
            held.clear()
        self._context = None  # before its stream and its buffers
        try:
            _close_all(parts)
        except RuntimeAdapterError as err:
            first = first or err
        del parts
        try:
            self._cuda.destroy_stream(stream)
        except RuntimeAdapterError as err:
            first = first or err
        if first is not None:
            raise first

    def _open_stream(self) -> int:
        if self._stream is None:
            raise _closed()
        return self._stream

    def _view(self, name: str, spec: TensorSpec, batch: int) -> Array:
        shape = self.model.shape(spec, batch)
        return self._host[name].array[: _num_bytes(spec, shape)].view(spec.dtype).reshape(shape)

    def _execute(self, batch: int, stream: int) -> None:
        if not self._graphs:
            if self._shaped_for != batch:
                self._prepare(self._context, batch)
                self._shaped_for = batch
            self._enqueue(self._context, stream)
            return
        captured = self._captured.pop(batch, None)
        if captured is not None and captured.addresses != self._addresses():
            captured.close()
            captured = None
        if captured is None:
            self._captured[batch] = self._capture(batch, stream)  # its plain execution has computed this call
        else:
            self._captured[batch] = captured  # the newest is last
            self._cuda.launch_graph(captured.executable, stream)

    def _capture(self, batch: int, stream: int) -> _Captured:
        """Execute once, which makes TensorRT initialize what it does lazily, then record the same.

        A graph is valid as long as its context is left alone, so each has a context of its own.
        Source: TensorRT developer guide, CUDA graphs.
        """
        context = self._context_for_graph()
        self._prepare(context, batch)
        self._enqueue(context, stream)
        self._cuda.synchronize(stream)
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(stream):
            raise RuntimeAdapterError(
                f"{self.model.library.flavour}: this engine cannot be captured in a CUDA graph; open it with "
                "cuda_graphs=False"
            )
        self._cuda.begin_capture(stream)
        try:
            self._enqueue(context, stream)
        except BaseException:
            with suppress(RuntimeAdapterError):  # leave capture mode, whatever became of the recording
                self._cuda.destroy_graph(self._cuda.end_capture(stream))
            raise
        graph = self._cuda.end_capture(stream)
        try:
            executable = self._cuda.instantiate_graph(graph)
        finally:
            self._cuda.destroy_graph(graph)
        return _Captured(self._cuda, context, executable, self._addresses())

    def _context_for_graph(self) -> Any:
        context, self._context = self._context, None  # the one made with the lane is the first graph's
        with self.model.making:  # so that no other lane takes the profile of a context that is exchanged
            while context is None:
                if len(self._captured) >= _GRAPHS_PER_LANE:
                    self._drop_oldest()
                try:
                    context = self._new_context()
                except _ProfileInUseError:
                    if not self._captured:
                        raise
                    self._drop_oldest()
        return context

    def _drop_oldest(self) -> None:
        self._captured.pop(next(iter(self._captured))).close()

    def _new_context(self) -> Any:
        model = self.model
        with model.making:
            context = model.engine.create_execution_context()
            if context is None:
                raise model.failed("creating an execution context (is there enough GPU memory?)")
            if model.batch is not None and context.active_optimization_profile < 0:
                stream = self._open_stream()
                if not context.set_optimization_profile_async(_PROFILE, stream):
                    raise _ProfileInUseError(str(model.failed("taking the optimization profile")))
                self._cuda.synchronize(stream)
        return context

    def _prepare(self, context: Any, batch: int) -> None:
        """Tell a context the shapes and where the tensors are."""
        model = self.model
        for name, spec in model.inputs.items():
            if not context.set_input_shape(name, model.shape(spec, batch)):
                raise model.failed(f"setting input {name!r} to {list(model.shape(spec, batch))}")
        if unknown := context.infer_shapes():
            raise model.failed(f"inferring the shape of {unknown[0]!r}")
        for name, spec in model.outputs.items():
            shape = tuple(int(size) for size in context.get_tensor_shape(name))
            if shape != model.shape(spec, batch):
                raise RuntimeAdapterError(
                    f"output {name!r} has shape {list(shape)} at batch {batch}, expected "
                    f"{list(model.shape(spec, batch))}; its first axis must be the batch"
                )
        for name, address in self._addresses().items():
            if not context.set_tensor_address(name, address):
                raise model.failed(f"setting the address of {name!r}")

    def _enqueue(self, context: Any, stream: int) -> None:
        if not context.execute_async_v3(stream):
            raise self.model.failed("executing the engine")

    def _addresses(self) -> dict[str, int]:
        return {name: buffer.address for name, buffer in self._device.items()}


class _Captured:
    """One batch size as an executable CUDA graph, and the context it was recorded from."""

    def __init__(self, cuda: CudaRuntime, context: Any, executable: int, addresses: Mapping[str, int]) -> None:
        self._cuda = cuda
        self._context = context
        self.executable = executable
        self.addresses = addresses

    def close(self) -> None:
        """Release graph, then context."""
        try:
            self._cuda.destroy_executable(self.executable)
        finally:
            self._context = None


def _num_bytes(spec: TensorSpec, shape: tuple[int, ...]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * np.dtype(spec.dtype).itemsize


def _close_all(parts: Iterable[_Lane | _Captured | DeviceBuffer | PinnedBuffer]) -> None:
    """Close every part, then raise the first error if there was one."""
    first: RuntimeAdapterError | None = None
    for part in parts:
        try:
            part.close()
        except RuntimeAdapterError as err:
            first = first or err
    if first is not None:
        raise first
