"""The CUDA layer on fakes of its three libraries, and on the real ones where there is no GPU."""

from __future__ import annotations

import ctypes
import gc
import os
import subprocess
import sys
import types
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest
from standins.cuda_standin import CudaStandin

from runtimes.cuda import memory as cuda_memory
from runtimes.cuda.ctypes_cudart import CtypesCudart
from runtimes.cuda.memory import CudaRuntime, DeviceBuffer, PinnedBuffer, load_cuda
from runtimes.errors import MissingDependencyError, ProviderUnavailableError, RuntimeAdapterError

LIBC = ctypes.CDLL(None)
ROOT = Path(__file__).parents[3]
HAS_GPU = any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/nvhost-gpu").exists()

ERRORS = {
    0: ("cudaSuccess", "no error"),
    2: ("cudaErrorMemoryAllocation", "out of memory"),
    35: ("cudaErrorInsufficientDriver", "CUDA driver version is insufficient for CUDA runtime version"),
    100: ("cudaErrorNoDevice", "no CUDA-capable device is detected"),
    700: ("cudaErrorIllegalAddress", "an illegal memory access was encountered"),
}
Status = IntEnum("cudaError_t", {name: number for number, (name, _) in ERRORS.items()})


class FakeCudart:
    """cuda-python's calling convention: `results` per function, `calls` as they came."""

    class cudaMemcpyKind(IntEnum):
        cudaMemcpyHostToDevice = 1
        cudaMemcpyDeviceToHost = 2
        cudaMemcpyDeviceToDevice = 3

    class cudaDeviceAttr(IntEnum):
        cudaDevAttrComputeCapabilityMajor = 75
        cudaDevAttrComputeCapabilityMinor = 76

    class cudaStreamCaptureMode(IntEnum):
        cudaStreamCaptureModeThreadLocal = 1

    RESULTS = {  # noqa: RUF012
        "cudaGetDeviceCount": 2,
        "cudaMalloc": 0x1000,
        "cudaMallocHost": 0x2000,
        "cudaStreamCreateWithFlags": 7,
        "cudaStreamEndCapture": 8,
        "cudaGraphInstantiateWithFlags": 9,
        "cudaDeviceGetAttribute": 8,
        "cudaEventCreateWithFlags": 10,
    }
    NO_RESULT = (
        "cudaFree",
        "cudaFreeHost",
        "cudaMemcpyAsync",
        "cudaStreamSynchronize",
        "cudaStreamDestroy",
        "cudaStreamBeginCapture",
        "cudaGraphLaunch",
        "cudaGraphDestroy",
        "cudaGraphExecDestroy",
        "cudaEventRecord",
        "cudaStreamWaitEvent",
        "cudaEventDestroy",
    )

    def __init__(self, status=0):
        self.status, self.calls = Status(status), []

    def __getattr__(self, name):
        if name not in self.RESULTS and name not in self.NO_RESULT:
            raise AttributeError(name)

        def call(*arguments):
            self.calls.append((name, *arguments))
            if name in self.NO_RESULT:
                return (self.status,)
            return (self.status, None if self.status else self.RESULTS[name])

        return call

    def cudaGetErrorName(self, status):
        return Status.cudaSuccess, ERRORS[int(status)][0].encode()

    def cudaGetErrorString(self, status):
        return Status.cudaSuccess, ERRORS[int(status)][1].encode()


USES = {
    "cudaGetDeviceCount": lambda cuda: cuda.device_count(),
    "cudaDeviceGetAttribute": lambda cuda: cuda.compute_capability(),
    "cudaMalloc of 123 bytes": lambda cuda: cuda.malloc(123),
    "cudaFree": lambda cuda: cuda.free(5),
    "cudaMallocHost of 123 bytes": lambda cuda: cuda.malloc_host(123),
    "cudaFreeHost": lambda cuda: cuda.free_host(5),
    "copy of 64 bytes to the GPU": lambda cuda: cuda.copy_to_device(1, 2, 64, 3),
    "copy of 64 bytes from the GPU": lambda cuda: cuda.copy_to_host(1, 2, 64, 3),
    "copy of 64 bytes on the GPU": lambda cuda: cuda.copy_on_device(1, 2, 64, 3),
    "cudaEventCreateWithFlags": lambda cuda: cuda.wait_for_stream(3, 6),
    "cudaStreamCreateWithFlags": lambda cuda: cuda.create_stream(),
    "cudaStreamSynchronize": lambda cuda: cuda.synchronize(3),
    "cudaStreamDestroy": lambda cuda: cuda.destroy_stream(3),
    "cudaStreamBeginCapture": lambda cuda: cuda.begin_capture(3),
    "cudaStreamEndCapture": lambda cuda: cuda.end_capture(3),
    "cudaGraphInstantiateWithFlags": lambda cuda: cuda.instantiate_graph(4),
    "cudaGraphLaunch": lambda cuda: cuda.launch_graph(4, 3),
    "cudaGraphDestroy": lambda cuda: cuda.destroy_graph(4),
    "cudaGraphExecDestroy": lambda cuda: cuda.destroy_executable(4),
}
"""What a message calls it, and the call; the numbers are as in `RAW`."""

RAW = [
    ("cudaGetDeviceCount",),
    ("cudaDeviceGetAttribute", 75, 0),
    ("cudaDeviceGetAttribute", 76, 0),
    ("cudaMalloc", 123),
    ("cudaFree", 5),
    ("cudaMallocHost", 123),
    ("cudaFreeHost", 5),
    ("cudaMemcpyAsync", 1, 2, 64, 1, 3),
    ("cudaMemcpyAsync", 1, 2, 64, 2, 3),
    ("cudaMemcpyAsync", 1, 2, 64, 3, 3),
    ("cudaEventCreateWithFlags", 2),
    ("cudaEventRecord", 10, 6),
    ("cudaStreamWaitEvent", 3, 10, 0),
    ("cudaEventDestroy", 10),
    ("cudaStreamCreateWithFlags", 1),
    ("cudaStreamSynchronize", 3),
    ("cudaStreamDestroy", 3),
    ("cudaStreamBeginCapture", 3, 1),
    ("cudaStreamEndCapture", 3),
    ("cudaGraphInstantiateWithFlags", 4, 0),
    ("cudaGraphLaunch", 4, 3),
    ("cudaGraphDestroy", 4),
    ("cudaGraphExecDestroy", 4),
]
RESULTS = [2, "8.8", 0x1000, None, 0x2000, None, None, None, None, None, 7, None, None, None, 8, 9, None, None, None]


def fake_library(calls, status=0):
    """`libcudart.so` as ctypes sees it: C functions that write results through pointers."""
    library = types.SimpleNamespace()
    signatures = {name: (result, arguments) for name, result, arguments in CtypesCudart._SIGNATURES}

    def make(name, result, arguments, *, last=False):
        kinds = list(arguments)
        if result is not None:
            kinds.insert(len(kinds) if last else 0, ctypes.POINTER(result))

        def call(*values):
            values = list(values)
            target = None if result is None else values.pop(-1 if last else 0)
            calls.append((name, *values))
            if target is not None and not status:
                target[0] = FakeCudart.RESULTS[name]
            return status

        return ctypes.CFUNCTYPE(ctypes.c_int, *kinds)(call)

    for name, (result, arguments) in signatures.items():
        setattr(library, name, make(name, result, arguments))
    library.cudaStreamEndCapture = make("cudaStreamEndCapture", ctypes.c_void_p, [ctypes.c_void_p], last=True)
    # A Python callback cannot return char*; the C library's strerror has the same signature.
    library.cudaGetErrorName = LIBC.strerror
    library.cudaGetErrorString = LIBC["strerror"]
    return library


def test_calls_through_cuda_python():
    cudart = FakeCudart()
    assert [use(CudaRuntime(cudart)) for use in USES.values()] == RESULTS
    assert cudart.calls == RAW


def test_calls_through_ctypes():
    calls = []
    assert [use(CudaRuntime(CtypesCudart(fake_library(calls)))) for use in USES.values()] == RESULTS
    assert calls == RAW


def test_ctypes_keeps_64_bits():
    calls = []
    cuda = CudaRuntime(CtypesCudart(fake_library(calls)))
    cuda.copy_to_device(0x7F12_3456_789A, 0x7FFF_0000_0000, 5 << 32, 0x5555_5555_5555)
    assert calls == [("cudaMemcpyAsync", 0x7F12_3456_789A, 0x7FFF_0000_0000, 5 << 32, 1, 0x5555_5555_5555)]


@pytest.mark.parametrize("what", USES)
def test_every_status_is_checked(what):
    with pytest.raises(RuntimeAdapterError) as caught:
        USES[what](CudaRuntime(FakeCudart(700)))
    assert str(caught.value).startswith(
        f"CUDA: {what} failed: cudaErrorIllegalAddress (an illegal memory access was encountered); "
    )
    assert not isinstance(caught.value, ProviderUnavailableError)
    with pytest.raises(RuntimeAdapterError, match=f"CUDA: {what} failed: "):
        USES[what](CudaRuntime(CtypesCudart(fake_library([], 12))))


def test_out_of_memory():
    with pytest.raises(
        RuntimeAdapterError,
        match=r"^CUDA: cudaMalloc of 123 bytes failed: cudaErrorMemoryAllocation \(out of memory\); .*smaller",
    ):
        CudaRuntime(FakeCudart(2)).malloc(123)


@pytest.mark.parametrize(("status", "missing"), [(35, "no NVIDIA driver, or it is older"), (100, "no GPU")])
def test_what_is_missing_is_said(status, missing):
    with pytest.raises(ProviderUnavailableError, match=missing) as caught:
        CudaRuntime(FakeCudart(status)).device_count()
    assert ERRORS[status][0] in str(caught.value)


def test_function_that_an_old_cuda_lacks():
    with pytest.raises(RuntimeAdapterError, match=r"cudaGraphLaunch is missing .*CUDA 11\.4 or newer"):
        CudaRuntime(types.SimpleNamespace()).launch_graph(1, 2)


# Which library


@pytest.fixture
def nothing_installed(monkeypatch):
    def no_library(name):
        raise OSError(name)

    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    monkeypatch.setitem(sys.modules, "cuda.cudart", None)
    monkeypatch.setattr(cuda_memory.ctypes, "CDLL", no_library)
    return monkeypatch


def test_nothing_is_installed(nothing_installed):
    with pytest.raises(MissingDependencyError, match=r"libcudart\.so\.11\.0; pip install cuda-bindings .*on a Jetson"):
        load_cuda()


@pytest.mark.parametrize("name", ["cuda.bindings.runtime", "cuda.cudart"])
def test_either_python_package_serves(nothing_installed, name):
    nothing_installed.setitem(sys.modules, name, FakeCudart())
    assert load_cuda().device_count() == 2


@pytest.mark.parametrize("name", ["libcudart.so.13", "libcudart.so.12", "libcudart.so.11.0"])
def test_any_library_serves(nothing_installed, name):
    library = fake_library([])

    def only(wanted):
        if wanted != name:
            raise OSError(wanted)
        return library

    nothing_installed.setattr(cuda_memory.ctypes, "CDLL", only)
    assert load_cuda().device_count() == 2


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU; this is about its absence")
@pytest.mark.parametrize("backend", ["cuda.bindings.runtime", *cuda_memory._LIBRARIES])
def test_real_library_without_a_gpu(backend):
    try:
        cuda = (
            CudaRuntime(CtypesCudart(ctypes.CDLL(backend)))
            if backend.startswith("lib")
            else CudaRuntime(__import__(backend, fromlist=["runtime"]))
        )
    except (ImportError, OSError):
        pytest.skip(f"{backend} is not installed")
    for call in (cuda.device_count, lambda: cuda.malloc(123), cuda.create_stream, cuda.compute_capability):
        with pytest.raises(ProviderUnavailableError, match=r"failed: cudaError\w+ \(.*(driver|GPU)"):
            call()


def test_importing_loads_nothing_of_cuda():
    script = (
        "import sys; before = set(sys.modules)\n"  # cuda-bindings 12 hooks itself into every start of Python
        "import runtimes.cuda.memory, runtimes.trt.adapter\n"
        "new = set(sys.modules) - before\n"
        "print([name for name in new if name.startswith(('cuda', 'tensorrt', 'torch', 'onnx'))])"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


# Buffers


@pytest.mark.parametrize("kind", [DeviceBuffer, PinnedBuffer])
def test_buffer_is_freed_once(kind):
    cuda = CudaStandin()
    buffer = kind(cuda, 40)
    assert buffer.size == 40
    assert len(cuda.leaks()) == 1
    buffer.close()
    buffer.close()
    cuda.assert_no_leaks()


@pytest.mark.parametrize("kind", [DeviceBuffer, PinnedBuffer])
def test_dropped_buffer_is_freed(kind):
    cuda = CudaStandin()
    kind(cuda, 40)
    gc.collect()
    cuda.assert_no_leaks()


@pytest.mark.parametrize("kind", [DeviceBuffer, PinnedBuffer])
def test_a_failure_to_free_is_told_by_close_alone(kind, recwarn):
    cuda = CudaStandin()
    buffer = kind(cuda, 40)
    name = "free" if kind is DeviceBuffer else "free_host"
    cuda.fail_next[name] = "cudaErrorUnknown"
    with pytest.raises(RuntimeAdapterError, match="cudaErrorUnknown"):
        buffer.close()
    buffer = kind(cuda, 40)
    cuda.fail_next[name] = "cudaErrorUnknown"
    del buffer
    gc.collect()
    assert len(recwarn) == 0


def test_pinned_buffer_is_an_array():
    cuda = CudaStandin()
    buffer, device, stream = PinnedBuffer(cuda, 16), DeviceBuffer(cuda, 16), cuda.create_stream()
    view = buffer.array.view(np.float32)
    view[:] = range(4)
    assert view.ctypes.data == buffer.address
    cuda.copy_to_device(device.address, buffer.address, 16, stream)
    cuda.synchronize(stream)
    view[:] = 0
    cuda.copy_to_host(buffer.address, device.address, 16, stream)
    cuda.synchronize(stream)
    assert view.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("kind", ["DeviceBuffer", "PinnedBuffer"])
def test_nothing_is_freed_at_exit(kind):
    """CUDA may be gone by then."""
    script = f"""
import sys
sys.path.insert(0, "tests")
from standins.cuda_standin import CudaStandin
from runtimes.cuda.memory import {kind}
class Cuda(CudaStandin):
    def free(self, address): print("freed")
    free_host = free
buffer = {kind}(Cuda(), 40)
cycle = [buffer]
cycle.append(cycle)
"""
    result = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_a_forked_child_frees_nothing():
    cuda = CudaStandin()
    buffers = [DeviceBuffer(cuda, 40), PinnedBuffer(cuda, 40)]
    child = os.fork()
    if child == 0:
        buffers[0].close()
        buffers.clear()
        gc.collect()
        os._exit(len(cuda.leaks()))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2
