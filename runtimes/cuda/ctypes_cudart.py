"""`libcudart.so` through ctypes, with the calling convention of NVIDIA's cuda-python."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from enum import IntEnum
from typing import Any


class _MemcpyKind(IntEnum):
    cudaMemcpyHostToDevice = 1  # noqa: N815 - CUDA's name
    cudaMemcpyDeviceToHost = 2  # noqa: N815
    cudaMemcpyDeviceToDevice = 3  # noqa: N815


class _DeviceAttr(IntEnum):
    cudaDevAttrComputeCapabilityMajor = 75  # noqa: N815
    cudaDevAttrComputeCapabilityMinor = 76  # noqa: N815


class _CaptureMode(IntEnum):
    cudaStreamCaptureModeThreadLocal = 1  # noqa: N815


class CtypesCudart:
    """`libcudart.so` with cuda-python's calling convention: functions return (status, *results).

    Source: CUDA Runtime API, cuda_runtime_api.h; signatures are the same in CUDA 11.4 to 13.
    """

    cudaMemcpyKind = _MemcpyKind  # noqa: N815
    cudaDeviceAttr = _DeviceAttr  # noqa: N815
    cudaStreamCaptureMode = _CaptureMode  # noqa: N815

    _SIGNATURES: tuple[tuple[str, Any, tuple[Any, ...]], ...] = (
        # name, type of the result that is written through the first argument, types of the other arguments
        ("cudaGetDeviceCount", ctypes.c_int, ()),
        ("cudaDeviceGetAttribute", ctypes.c_int, (ctypes.c_int, ctypes.c_int)),
        ("cudaMalloc", ctypes.c_void_p, (ctypes.c_size_t,)),
        ("cudaMallocHost", ctypes.c_void_p, (ctypes.c_size_t,)),
        ("cudaFree", None, (ctypes.c_void_p,)),
        ("cudaFreeHost", None, (ctypes.c_void_p,)),
        ("cudaMemcpyAsync", None, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p)),
        ("cudaStreamCreateWithFlags", ctypes.c_void_p, (ctypes.c_uint,)),
        ("cudaStreamSynchronize", None, (ctypes.c_void_p,)),
        ("cudaStreamDestroy", None, (ctypes.c_void_p,)),
        ("cudaEventCreateWithFlags", ctypes.c_void_p, (ctypes.c_uint,)),
        ("cudaEventRecord", None, (ctypes.c_void_p, ctypes.c_void_p)),
        ("cudaStreamWaitEvent", None, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint)),
        ("cudaEventDestroy", None, (ctypes.c_void_p,)),
        ("cudaStreamBeginCapture", None, (ctypes.c_void_p, ctypes.c_int)),
        ("cudaGraphInstantiateWithFlags", ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_ulonglong)),
        ("cudaGraphLaunch", None, (ctypes.c_void_p, ctypes.c_void_p)),
        ("cudaGraphDestroy", None, (ctypes.c_void_p,)),
        ("cudaGraphExecDestroy", None, (ctypes.c_void_p,)),
    )

    def __init__(self, library: ctypes.CDLL) -> None:
        for name, result, arguments in self._SIGNATURES:
            setattr(self, name, _wrap(getattr(library, name), result, arguments))
        end_capture = library.cudaStreamEndCapture  # the one that writes its result through the last argument
        end_capture.argtypes = (ctypes.c_void_p, ctypes.POINTER(ctypes.c_void_p))
        self._end_capture = end_capture
        for name in ("cudaGetErrorName", "cudaGetErrorString"):
            setattr(self, name, _wrap_text(getattr(library, name)))

    def cudaStreamEndCapture(self, stream: int) -> tuple[int, int]:  # noqa: N802 - CUDA's name
        """Return (status, graph)."""
        graph = ctypes.c_void_p()
        return self._end_capture(stream, ctypes.byref(graph)), graph.value or 0


def _wrap(function: Any, result: Any, arguments: tuple[Any, ...]) -> Callable[..., tuple[int, ...]]:
    function.restype = ctypes.c_int
    function.argtypes = arguments if result is None else (ctypes.POINTER(result), *arguments)

    def call(*values: int) -> tuple[int, ...]:
        if result is None:
            return (function(*values),)
        written = result()
        status = function(ctypes.byref(written), *values)
        return status, written.value or 0

    return call


def _wrap_text(function: Any) -> Callable[[int], tuple[int, Any]]:
    function.argtypes, function.restype = (ctypes.c_int,), ctypes.c_char_p
    return lambda status: (0, function(status))
