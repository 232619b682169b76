"""One call of an engine at a time: its stream, its buffers for the largest batch, its execution contexts and graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np

from runtimes.cuda.device_array import DeviceArray
from runtimes.cuda.memory import CudaRuntime, DeviceBuffer, PinnedBuffer
from runtimes.errors import RuntimeAdapterError
from runtimes.protocol import Array, TensorSpec
from runtimes.trt.layer_profiler import make_profiler
from runtimes.trt.loaded_engine import PROFILE, LoadedEngine, ProfileInUseError, closed_error

_GRAPHS_PER_LANE = 4
"""Each graph keeps an execution context, and with it activation memory, of its own: so only the last few stay."""

_WARM_UP_RUNS = 3
"""Before layers are timed: the first runs make TensorRT and the GPU do once what they do not do again."""

_ALIGNMENT = 256
"""Of an address that TensorRT takes, in bytes; cudaMalloc's are. Source: NvInferRuntime.h, setTensorAddress: "The
pointer must have at least 256-byte alignment"."""


class Lane:
    """Resources of one call at a time: a stream, buffers for the largest batch, and execution contexts."""

    def __init__(self, model: LoadedEngine, cuda: CudaRuntime, *, graphs: bool) -> None:
        self.model = model
        self._cuda = cuda
        self._graphs = graphs
        self._host: dict[str, PinnedBuffer] = {}
        self._device: dict[str, DeviceBuffer] = {}
        self._captured: dict[int, _Captured] = {}
        self._context: Any = None
        self._shaped_for = 0
        self._addressed: dict[str, int] = {}
        self._stream: int | None = cuda.create_stream()
        try:
            self._context = self._new_context()
            largest = 1 if model.batch is None else model.batch[1]
            for name, spec in {**model.inputs, **model.outputs}.items():
                size = max(1, _num_bytes(spec, model.shape(spec, largest)))
                self._host[name] = PinnedBuffer(cuda, size)
                self._device[name] = DeviceBuffer(cuda, size)
        except BaseException:  # an interrupt too: GPU memory must not leak
            with suppress(RuntimeAdapterError):
                self.close()
            raise

    @property
    def stream(self) -> int:
        """Where it computes."""
        if self._stream is None:
            raise closed_error()
        return self._stream

    def run(self, inputs: Mapping[str, Array | DeviceArray]) -> dict[str, Array]:
        """Run at most the profile's largest batch; less than the smallest is padded with the last row.

        What is in GPU memory is read there. It is copied, on the GPU, only where it must be padded, where TensorRT
        would refuse its address, or where a graph was recorded with our own.
        """
        model, cuda, stream = self.model, self._cuda, self.stream
        rows = None if model.batch is None else len(next(iter(inputs.values())))
        batch = 1 if rows is None or model.batch is None else max(rows, model.batch[0])
        addresses = self._addresses()
        for name, spec in model.inputs.items():
            given = inputs[name]
            if isinstance(given, DeviceArray):
                addresses[name] = self._place(name, given, batch if rows is not None else None, stream)
                continue
            view = self._view(name, spec, batch)
            view[:rows] = given
            if rows is not None:
                view[rows:] = view[rows - 1]
            cuda.copy_to_device(addresses[name], self._host[name].address, view.nbytes, stream)
        self._execute(batch, stream, addresses)
        views = {name: self._view(name, spec, batch) for name, spec in model.outputs.items()}
        for name, view in views.items():
            cuda.copy_to_host(self._host[name].address, self._device[name].address, view.nbytes, stream)
        cuda.synchronize(stream)
        return {name: view[:rows].copy() for name, view in views.items()}

    def profile(self, inputs: Mapping[str, Array], num_runs: int) -> list[list[tuple[str, float]]]:
        """Return, of each run, TensorRT's layers and their milliseconds. The lane is of no use afterwards but to close.

        Raises:
            RuntimeAdapterError: If this lane makes graphs, whose layers no profiler hears of.
        """
        if self._graphs:
            raise RuntimeAdapterError("layers cannot be timed in CUDA graphs; open the engine with cuda_graphs=False")
        for _ in range(_WARM_UP_RUNS):
            self.run(inputs)
        profiler = make_profiler(self.model.loaded_by.module)
        self._context.profiler = profiler
        runs: list[list[tuple[str, float]]] = []
        for _ in range(num_runs):
            self.run(inputs)
            runs.append(list(profiler.heard))
            profiler.heard.clear()
        return runs

    def close(self) -> None:
        """Wait for the stream and release everything, even if a part of it fails; a second call does nothing."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        steps: list[Callable[[], object]] = [partial(self._cuda.synchronize, stream), self._drop_context]
        for held in (self._captured, self._device, self._host):
            steps.extend(part.close for part in held.values())
            held.clear()
        do_all([*steps, partial(self._cuda.destroy_stream, stream)])

    def _drop_context(self) -> None:
        self._context = None  # before its stream and its buffers

    def _place(self, name: str, given: DeviceArray, batch: int | None, stream: int) -> int:
        """Return where TensorRT may read an array that is in GPU memory."""
        if given.wait_for is not None:
            self._cuda.wait_for_stream(stream, given.wait_for)
        padded = batch is not None and len(given) < batch
        if not padded and not self._graphs and given.address % _ALIGNMENT == 0:
            return given.address
        own = self._device[name].address
        self._cuda.copy_on_device(own, given.address, given.nbytes, stream)
        if padded and batch is not None:
            row = given.nbytes // len(given)
            for place in range(len(given), batch):
                self._cuda.copy_on_device(own + place * row, given.address + given.nbytes - row, row, stream)
        return own

    def _view(self, name: str, spec: TensorSpec, batch: int) -> Array:
        shape = self.model.shape(spec, batch)
        return self._host[name].array[: _num_bytes(spec, shape)].view(spec.dtype).reshape(shape)

    def _execute(self, batch: int, stream: int, addresses: dict[str, int]) -> None:
        if not self._graphs:
            if self._shaped_for != batch:
                self._prepare(self._context, batch, addresses)
                self._shaped_for, self._addressed = batch, addresses
            elif self._addressed != addresses:
                self._set_addresses(self._context, addresses)
                self._addressed = addresses
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
        self._prepare(context, batch, self._addresses())
        self._enqueue(context, stream)
        self._cuda.synchronize(stream)
        if hasattr(context, "is_stream_capturable") and not context.is_stream_capturable(stream):
            raise RuntimeAdapterError(
                f"{self.model.loaded_by.flavor}: this engine cannot be captured in a CUDA graph; open it with "
                "cuda_graphs=False"
            )
        self._cuda.begin_capture(stream)
        try:
            self._enqueue(context, stream)
        except BaseException:  # an interrupt too: the stream must not stay in capture mode
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
                except ProfileInUseError:
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
            if model.batch is not None:
                if context.active_optimization_profile < 0:
                    self._take_profile(context)
                model.holders.add(context)
        return context

    def _take_profile(self, context: Any) -> None:
        """Give a context the profile, which TensorRT 8.6 does by itself only for an engine's first.

        Nothing is tried: where another context holds a profile that is not shared, TensorRT 8.6 and 10.3 end the
        process instead of refusing, later versions raise. Source: those versions' bindings, run.
        """
        model = self.model
        if model.holders and not model.shares_profile:
            raise ProfileInUseError(
                f"{model.loaded_by.flavor}: another execution context uses the optimization profile, which this engine "
                "does not share"
            )
        stream = self.stream
        try:
            taken = context.set_optimization_profile_async(PROFILE, stream)
        except RuntimeError as err:
            raise model.failed(f"taking the optimization profile ({err})") from err
        if not taken:
            raise model.failed("taking the optimization profile")
        self._cuda.synchronize(stream)

    def _prepare(self, context: Any, batch: int, addresses: Mapping[str, int]) -> None:
        """Tell a context the shapes and where the tensors are."""
        model = self.model
        for name, spec in model.inputs.items():
            if not context.set_input_shape(name, model.shape(spec, batch)):
                raise model.failed(f"setting input {name!r} to {list(model.shape(spec, batch))}")
        try:
            unknown = context.infer_shapes()
        except RuntimeError as err:  # what the real bindings make of a negative answer
            raise model.failed(f"inferring the shapes ({err})") from err
        if unknown:
            raise model.failed(f"inferring the shape of {unknown[0]!r}")
        for name, spec in model.outputs.items():
            shape = tuple(int(size) for size in context.get_tensor_shape(name))
            if shape != model.shape(spec, batch):
                raise RuntimeAdapterError(
                    f"output {name!r} has shape {list(shape)} at batch {batch}, expected "
                    f"{list(model.shape(spec, batch))}; its first axis must be the batch"
                )
        self._set_addresses(context, addresses)

    def _set_addresses(self, context: Any, addresses: Mapping[str, int]) -> None:
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise self.model.failed(f"setting the address of {name!r}")

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


def do_all(steps: Iterable[Callable[[], object]]) -> None:
    """Take every step, then raise the first error if there was one."""
    first: RuntimeAdapterError | None = None
    for step in steps:
        try:
            step()
        except RuntimeAdapterError as err:
            first = first or err
    if first is not None:
        raise first
