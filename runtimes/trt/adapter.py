"""TensorRT and TensorRT-RTX engines behind the `Runtime` contract: 8.6, 10, 11 and RTX on one code path.

Tensors are named, never counted; what a version offers is probed. Every call that can refuse is checked. An engine
serves any batch size: what exceeds its profile runs in pieces, what falls short of it is padded. Several threads may
call `run` at once; each holds a lane (execution context, stream, buffers) while it computes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtimes.cuda.device_array import is_on_device, read_inputs
from runtimes.cuda.memory import CudaRuntime, load_cuda
from runtimes.errors import ForkedProcessError, InputMismatchError, ProviderUnavailableError, RuntimeAdapterError
from runtimes.in_pieces import run_in_pieces
from runtimes.nan_images import with_nan_of
from runtimes.protocol import Array, RuntimeAdapter, TensorSpec, check_inputs, check_names
from runtimes.trt import compatibility
from runtimes.trt.execution_lane import Lane, do_all
from runtimes.trt.layer_profiler import noise
from runtimes.trt.layer_times import EngineTimes, times_from_runs
from runtimes.trt.loaded_engine import PROFILE, LoadedEngine, ProfileInUseError, closed_error
from runtimes.trt.tensorrt_library import TensorRtLibrary, allow_host_code, library_for, load_library, start_runtime

if TYPE_CHECKING:
    from runtimes.trt.engine_sidecar import EngineSidecar

_DTYPES = {name.upper(): name for name in ("int64", "int32", "int8", "uint8", "bool")}
_DTYPES |= {"FLOAT": "float32", "HALF": "float16"}
"""TensorRT's types that NumPy has; `trt.nptype` raises TypeError for the others and names removed NumPy types."""

_WHY_INVALID = {
    1: "it was built by another version",
    2: "it was built for other compute capabilities",
    4: "the CUDA driver is too old",
    8: "the CUDA runtime is too old",
    16: "the GPU has too little memory",
    32: "the file is damaged or is no TensorRT-RTX engine",
    64: "CUDA failed",
}
"""Bits of TensorRT-RTX's engine diagnostics."""


class TrtRuntime(RuntimeAdapter):
    """An engine opened in TensorRT, on GPU 0.

    Args:
        engine: Path of the plan.
        flavor: The library: "tensorrt", "lean", "dispatch" or "rtx". None takes what the sidecar says, "tensorrt" where
            there is none; and for a version-compatible engine the lean or dispatch library where there is no full one.
        check_sidecar: Compare the plan and this machine with `<engine>.json` before TensorRT sees the plan.
        cuda: CUDA; what is installed when None.
        max_contexts: How many calls of `run` may compute at the same time; each needs memory for the largest batch.
            An engine that other tools built with TensorRT 8.6 may share no profile: then the calls take turns.
        cuda_graphs: Capture each batch size once and replay it. Worth it for small batches that come again.
        dla_core: The DLA core that runs an engine for a DLA; None takes the one it was built for.

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
        flavor: str | None = None,
        check_sidecar: bool = True,
        cuda: CudaRuntime | None = None,
        max_contexts: int = 2,
        cuda_graphs: bool = False,
        dla_core: int | None = None,
    ) -> None:
        if type(max_contexts) is not int or max_contexts < 1:
            raise ValueError(f"max_contexts: got {max_contexts!r}, expected a whole number >= 1")
        self._process = os.getpid()
        self._closed = False
        self._changed = threading.Condition()
        self._free: list[Lane] = []
        self._num_lanes = 0
        self._max_lanes = max_contexts
        self._graphs = cuda_graphs

        path = Path(engine)
        compatibility.check_is_no_onnx(path)
        sidecar = compatibility.read_sidecar(path, required=check_sidecar, flavor=flavor)
        chosen = flavor or _library_of(sidecar)
        command = compatibility.rebuild_command(path, sidecar, chosen)
        if sidecar is not None and check_sidecar:
            compatibility.check_plan(path, sidecar, chosen, command)
        library = load_library(chosen)
        if sidecar is not None and check_sidecar:
            compatibility.check_version(path, sidecar, library, command)
        self._library = library
        self._cuda = load_cuda() if cuda is None else cuda
        if self._cuda.device_count() < 1:
            raise ProviderUnavailableError(f"{path} needs an NVIDIA GPU; CUDA finds none on this machine")
        if sidecar is not None and check_sidecar:
            compatibility.check_gpu(path, sidecar, self._cuda.compute_capability(), command)
        if dla_core is None and sidecar is not None:
            dla_core = sidecar.facts.flags.get("dla_core")
        trusted = sidecar if check_sidecar else None
        self._model: LoadedEngine | None = _load(path, library, command, dla_core, trusted)
        self.input_specs, self.output_specs = self._model.inputs, self._model.outputs
        self._free.append(self._new_lane())

    @property
    def library_version(self) -> str:
        """Which TensorRT runs it, such as "lean 11.4.0"."""
        return f"{self._library.flavor} {self._library.version}"

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Run the model once; see `Runtime.run`. Any number of threads may call it.

        Args:
            inputs: Name to NumPy array; or to an array of another library in the memory of GPU 0, C-contiguous, with
                `__dlpack__` or `__cuda_array_interface__`. That is read where it is, after what its stream still does
                to it, and may be changed again when `run` returns.

        Raises:
            ModelClosedError: After `close`.
            ForkedProcessError: In a forked child.
            RuntimeAdapterError: When TensorRT or CUDA fails.
            InputMismatchError: If an input has a wrong name, dtype, shape or layout, or is on another device.
        """
        if os.getpid() != self._process:
            raise ForkedProcessError(
                f"this engine was opened in process {self._process} and CUDA does not outlive a fork; open it in this "
                "process, or start processes with multiprocessing's 'spawn'"
            )
        if self._closed:
            raise closed_error()
        check_names(self.input_specs, inputs)
        on_device = any(is_on_device(array) for array in inputs.values())
        if not on_device:
            inputs = check_inputs(self.input_specs, inputs)
        lane = self._take_lane()
        try:
            if on_device:
                inputs = read_inputs(self.input_specs, inputs, lane.stream)
            sizes = lane.model.batch
            outputs = lane.run(inputs) if sizes is None else run_in_pieces(lane.run, inputs, sizes[1])
        except InputMismatchError:  # before anything was enqueued
            self._return_lane(lane, usable=True)
            raise
        except BaseException:  # an interrupt too: what the lane's stream still does is unknown
            self._return_lane(lane, usable=False)
            raise
        self._return_lane(lane, usable=True)
        return with_nan_of(inputs, outputs)

    def layer_times(self, *, batch: int, num_runs: int = 20) -> EngineTimes:
        """Time every layer, on noise, one run after the other; other calls may compute meanwhile and disturb it.

        Raises:
            ValueError: If the batch is outside the profile, or there is no run.
            RuntimeAdapterError: When TensorRT or CUDA fails.
            ModelClosedError: After `close`.
        """
        model = self._model
        if model is None:
            raise closed_error()
        smallest, largest = model.batch or (batch, batch)
        if not smallest <= batch <= largest or num_runs < 1:
            raise ValueError(
                f"layer times: got batch {batch} and {num_runs} runs, expected a batch from {smallest} to {largest} "
                "and at least one run"
            )
        inputs = {name: noise(spec.dtype, model.shape(spec, batch)) for name, spec in model.inputs.items()}
        lane = self._take_lane()
        try:
            runs = lane.profile(inputs, num_runs)
        finally:
            self._return_lane(lane, usable=False)  # a context with a profiler waits after every layer
        return times_from_runs(batch, runs)

    def close(self) -> None:
        """Wait for the calls of `run` that compute, then release everything; a second call does nothing."""
        self._closed = True
        if os.getpid() != self._process:
            return  # a forked child: all of it is the parent's
        with self._changed:
            self._changed.notify_all()
            self._changed.wait_for(lambda: len(self._free) == self._num_lanes)
            lanes, self._free, self._num_lanes = self._free, [], 0
            self._model = None
            do_all([lane.close for lane in lanes])

    def _take_lane(self) -> Lane:
        with self._changed:
            while True:
                if self._closed:
                    raise closed_error()
                if self._free:
                    return self._free.pop()
                if self._num_lanes < self._max_lanes:
                    try:
                        return self._new_lane()
                    except ProfileInUseError:
                        if self._num_lanes == 0:
                            raise
                        self._max_lanes = self._num_lanes  # TensorRT 8.6 without profile sharing: the calls take turns
                        continue
                self._changed.wait()

    def _return_lane(self, lane: Lane, *, usable: bool) -> None:
        with self._changed:
            if usable:
                self._free.append(lane)
            else:
                self._num_lanes -= 1
                with suppress(RuntimeAdapterError):  # what broke the lane is on its way to the caller
                    lane.close()
            self._changed.notify_all()

    def _new_lane(self) -> Lane:
        if self._model is None:
            raise closed_error()
        lane = Lane(self._model, self._cuda, graphs=self._graphs)
        self._num_lanes += 1  # only now: a lane that could not be made does not count
        return lane


def _library_of(sidecar: EngineSidecar | None) -> str:
    if sidecar is None:
        return "tensorrt"
    return library_for(sidecar.facts.flavor, version_compat=bool(sidecar.facts.flags.get("version_compat")))


def _load(
    path: Path, library: TensorRtLibrary, command: str, dla_core: int | None, sidecar: EngineSidecar | None
) -> LoadedEngine:
    """Load the plan; `sidecar` is the one that it was compared with, or None where it was not."""
    trt = library.module
    library.log.clear()
    plan = path.read_bytes()
    runtime = start_runtime(library)  # the driver has answered
    _check_validity(path, library, runtime, plan, command)
    if dla_core is not None:
        _choose_dla(path, runtime, dla_core)
    if sidecar is not None and sidecar.facts.flags.get("version_compat"):
        allow_host_code(runtime)
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise RuntimeAdapterError(
            f"{library.flavor} {library.version} does not load {path}: {library.log.last_words()}; it is damaged or "
            f"was built for another version or GPU{_why_no_host_code(sidecar)}; {command}"
        )
    inputs: dict[str, TensorSpec] = {}
    outputs: dict[str, TensorSpec] = {}
    for place in range(engine.num_io_tensors):
        name = engine.get_tensor_name(place)
        is_input = engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT
        (inputs if is_input else outputs)[name] = _spec(trt, engine, name)
    return LoadedEngine(
        library,
        runtime,
        engine,
        inputs,
        outputs,
        _batch_range(engine, inputs, outputs),
        shares_profile=sidecar is not None and sidecar.shares_profile,
    )


def _why_no_host_code(sidecar: EngineSidecar | None) -> str:
    if sidecar is not None:
        return ""
    return ", or is version-compatible: such a plan holds code, which runs only where its sidecar is there and checked"


def _choose_dla(path: Path, runtime: Any, core: int) -> None:
    """Name the DLA core before the engine is loaded, as TensorRT wants it."""
    cores = int(getattr(runtime, "num_DLA_cores", 0))
    if not 0 <= core < cores:
        raise ProviderUnavailableError(
            f"{path} runs on DLA core {core}; got {cores} DLA cores on this machine, expected more than {core}; "
            + ("give dla_core=0" if cores else "build an engine for the GPU: resnet-export build without --dla")
        )
    runtime.DLA_core = core


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
    ranges = [engine.get_tensor_profile_shape(name, PROFILE) for name in inputs]
    return max(int(shapes[0][0]) for shapes in ranges), min(int(shapes[2][0]) for shapes in ranges)
