"""CUDA memory, streams and graphs through the CUDA runtime library alone: no torch, no pycuda.

Three ways to the same C functions, tried in this order: `cuda.bindings.runtime` (cuda-python 12.6 and newer),
`cuda.cudart` (older), and ctypes on `libcudart.so`. Nothing of CUDA is imported before `load_cuda` is called. The
runtime functions use the device's primary context, as TensorRT does, on device 0. Every status is checked.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtimes.cuda.ctypes_cudart import CtypesCudart
from runtimes.errors import MissingDependencyError, ProviderUnavailableError, RuntimeAdapterError

_PYTHON_MODULES = ("cuda.bindings.runtime", "cuda.cudart")
_LIBRARIES = ("libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0")
_NON_BLOCKING = 1  # cudaStreamNonBlocking
_DISABLE_TIMING = 2  # cudaEventDisableTiming
_OUT_OF_MEMORY = 2

_UNAVAILABLE = {
    34: "only the CUDA stub library was found, which drives no GPU; install the NVIDIA driver",
    35: "there is no NVIDIA driver, or it is older than this CUDA runtime; install or update the driver",
    46: "every GPU is in use by another process, or its compute mode forbids this one",
    100: "there is a driver but no GPU that it can use; is CUDA_VISIBLE_DEVICES empty, or the container without a GPU?",
    803: "the driver's parts are of different versions; restart after the driver's update",
    804: "the CUDA compatibility package does not support this GPU; update the driver",
}
"""CUDA statuses that mean that this machine cannot compute on a GPU now, and what is missing."""


def load_cuda() -> CudaRuntime:
    """Return the CUDA runtime of this machine; whether there is a GPU shows at the first call.

    Raises:
        MissingDependencyError: If neither a Python package nor the library is installed.
    """
    for name in _PYTHON_MODULES:
        try:
            return CudaRuntime(importlib.import_module(name))
        except (ImportError, OSError, RuntimeError):  # the package's own library is missing or of another version
            continue
    for name in _LIBRARIES:
        try:
            return CudaRuntime(CtypesCudart(ctypes.CDLL(name)))
        except (OSError, AttributeError):
            continue
    raise MissingDependencyError(
        f"the CUDA runtime is needed: found none of {', '.join((*_PYTHON_MODULES, *_LIBRARIES))}; pip install "
        "cuda-bindings of your CUDA's major version, on a Jetson put /usr/local/cuda/lib64 into LD_LIBRARY_PATH"
    )


class CudaRuntime:
    """CUDA for the TensorRT adapter, on a module with cuda-python's functions, which return (status, *results).

    Addresses, streams and graphs are plain numbers; sizes are bytes. Every method raises RuntimeAdapterError when CUDA
    fails, and ProviderUnavailableError when there is no driver or no GPU.
    """

    def __init__(self, cudart: Any) -> None:
        self._cudart = cudart

    def device_count(self) -> int:
        """Return how many GPUs there are."""
        return int(self._call("cudaGetDeviceCount"))

    def compute_capability(self) -> str:
        """Return that of device 0, such as "8.7"."""
        kinds = self._cudart.cudaDeviceAttr
        wanted = (kinds.cudaDevAttrComputeCapabilityMajor, kinds.cudaDevAttrComputeCapabilityMinor)
        return ".".join(str(int(self._call("cudaDeviceGetAttribute", kind, 0))) for kind in wanted)

    def malloc(self, size: int) -> int:
        """Allocate device memory."""
        return int(self._call("cudaMalloc", size, what=f"cudaMalloc of {size} bytes"))

    def free(self, address: int) -> None:
        """Free what `malloc` returned."""
        self._call("cudaFree", address)

    def malloc_host(self, size: int) -> int:
        """Allocate pinned host memory."""
        return int(self._call("cudaMallocHost", size, what=f"cudaMallocHost of {size} bytes"))

    def free_host(self, address: int) -> None:
        """Free what `malloc_host` returned."""
        self._call("cudaFreeHost", address)

    def copy_to_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Enqueue a copy from pinned host memory to the device."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", target, source, size, kind, stream, what=f"copy of {size} bytes to the GPU")

    def copy_to_host(self, target: int, source: int, size: int, stream: int) -> None:
        """Enqueue a copy from the device to pinned host memory; it is there after `synchronize`."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", target, source, size, kind, stream, what=f"copy of {size} bytes from the GPU")

    def copy_on_device(self, target: int, source: int, size: int, stream: int) -> None:
        """Enqueue a copy from device memory to device memory."""
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToDevice
        self._call("cudaMemcpyAsync", target, source, size, kind, stream, what=f"copy of {size} bytes on the GPU")

    def wait_for_stream(self, stream: int, other: int) -> None:
        """Let what is enqueued in `stream` from now on wait for what has been enqueued in `other`."""
        event = int(self._call("cudaEventCreateWithFlags", _DISABLE_TIMING))
        try:
            self._call("cudaEventRecord", event, other)
            self._call("cudaStreamWaitEvent", stream, event, 0)
        finally:
            self._call("cudaEventDestroy", event)  # CUDA keeps it until nobody waits any more

    def create_stream(self) -> int:
        """Create a stream that does not wait for the default stream."""
        return int(self._call("cudaStreamCreateWithFlags", _NON_BLOCKING))

    def synchronize(self, stream: int) -> None:
        """Wait until everything enqueued in the stream is done."""
        self._call("cudaStreamSynchronize", stream)

    def destroy_stream(self, stream: int) -> None:
        """Release a stream."""
        self._call("cudaStreamDestroy", stream)

    def begin_capture(self, stream: int) -> None:
        """Record what this thread enqueues in the stream instead of running it."""
        # Thread-local: other threads may allocate meanwhile.
        self._call(
            "cudaStreamBeginCapture", stream, self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        )

    def end_capture(self, stream: int) -> int:
        """End the recording and return the recorded graph."""
        return int(self._call("cudaStreamEndCapture", stream))

    def instantiate_graph(self, graph: int) -> int:
        """Return the executable form of a graph."""
        # cudaGraphInstantiate has five arguments in CUDA 11 and three from 12 on; this one (11.4) is the same in all.
        return int(self._call("cudaGraphInstantiateWithFlags", graph, 0))

    def launch_graph(self, executable: int, stream: int) -> None:
        """Enqueue an executable graph."""
        self._call("cudaGraphLaunch", executable, stream)

    def destroy_graph(self, graph: int) -> None:
        """Release a recorded graph; its executable stays."""
        self._call("cudaGraphDestroy", graph)

    def destroy_executable(self, executable: int) -> None:
        """Release an executable graph."""
        self._call("cudaGraphExecDestroy", executable)

    def _call(self, function: str, *arguments: Any, what: str = "") -> Any:
        try:
            status, *results = getattr(self._cudart, function)(*arguments)
        except AttributeError as err:
            raise RuntimeAdapterError(f"CUDA: {function} is missing ({err}); CUDA 11.4 or newer is needed") from err
        except RuntimeError as err:  # cuda-python, when the library lacks the function
            raise RuntimeAdapterError(f"CUDA: {function} failed: {err}") from err
        if int(status) != 0:
            raise self._failure(what or function, status)
        return results[0] if results else None

    def _failure(self, what: str, status: Any) -> RuntimeAdapterError:
        name, text = (_text(getattr(self._cudart, get)(status)) for get in ("cudaGetErrorName", "cudaGetErrorString"))
        message = f"CUDA: {what} failed: {name} ({text})"
        if missing := _UNAVAILABLE.get(int(status)):
            return ProviderUnavailableError(f"{message}; {missing}")
        if int(status) == _OUT_OF_MEMORY:
            return RuntimeAdapterError(f"{message}; build for a smaller largest batch, or open fewer engines")
        return RuntimeAdapterError(f"{message}; later calls of this process may fail too: start it again")


def _text(answer: Any) -> str:
    text = answer[1] if len(answer) > 1 else None
    return text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text)


class _Buffer:
    """Memory that is freed once: by `close`, or when nobody holds the buffer any more.

    At interpreter exit it is left to the driver, which frees a process's memory: CUDA may be gone by then. In a forked
    child nothing is freed, for the memory is the parent's.
    """

    def __init__(self, address: int, size: int, free: Callable[[int], None]) -> None:
        self.address = address
        self.size = size
        self._finalizer = weakref.finalize(self, _free_quietly, free, address, os.getpid())
        self._finalizer.atexit = False

    def close(self) -> None:
        """Free it; a second call does nothing."""
        pending = self._finalizer.detach()
        if pending is not None:
            free, address, process = pending[2]
            if os.getpid() == process:
                free(address)


class DeviceBuffer(_Buffer):
    """Device memory."""

    def __init__(self, cuda: CudaRuntime, size: int) -> None:
        super().__init__(cuda.malloc(size), size, cuda.free)


class PinnedBuffer(_Buffer):
    """Host memory that the GPU copies from and to by itself; `array` is it as uint8 [size], valid until it is freed."""

    def __init__(self, cuda: CudaRuntime, size: int) -> None:
        super().__init__(cuda.malloc_host(size), size, cuda.free_host)
        pointer = ctypes.cast(self.address, ctypes.POINTER(ctypes.c_ubyte))
        self.array: NDArray[np.uint8] = np.ctypeslib.as_array(pointer, (size,))

    def close(self) -> None:
        """Free it; a second call does nothing."""
        self.array = np.empty(0, np.uint8)
        super().close()


def _free_quietly(free: Callable[[int], None], address: int, process: int) -> None:
    if os.getpid() == process:
        with suppress(RuntimeAdapterError):  # nobody is there to be told, and the memory is freed with the process
            free(address)
