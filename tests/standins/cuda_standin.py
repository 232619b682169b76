"""A stand-in for CUDA, for tests only: no GPU computes here.

It plays `runtimes.cuda.memory.CudaRuntime` with NumPy memory, and is stricter than a GPU: streams run nothing before
they are synchronized, destinations hold poison until then, and every misuse that a GPU forgives or crashes on raises
`CudaMisuse`.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from runtimes.errors import ProviderUnavailableError, RuntimeAdapterError

POISON = 0xCD
"""Byte in memory that was never written, was freed, or waits for a copy: -4.3e8 as float32."""


class CudaMisuse(AssertionError):
    """The code under test did what would corrupt memory on a GPU."""


@dataclass(eq=False)
class Block:
    """One allocation; `kind` is "device" or "host". Freed blocks are kept, poisoned, so that a late use is seen."""

    kind: str
    address: int
    memory: np.ndarray
    alive: bool = True


@dataclass(eq=False)
class Stream:
    pending: list[Callable[[], None]] = field(default_factory=list)
    capture: list[Callable[[], None]] | None = None
    capturing_thread: int = 0


class CudaStandin:
    """`CudaRuntime` in NumPy memory.

    Args:
        devices: How many GPUs there are.
        capability: Compute capability of device 0.
        memory_bytes: Size of device memory.
    """

    def __init__(self, *, devices: int = 1, capability: str = "8.7", memory_bytes: int = 1 << 30) -> None:
        self.devices = devices
        self.capability = capability
        self.memory_bytes = memory_bytes
        self.calls: Counter[str] = Counter()
        self.blocks: dict[int, Block] = {}
        self.streams: dict[int, Stream] = {}
        self.default_streams = {1: Stream(), 2: Stream()}
        """The legacy default stream and this thread's, which always are."""
        self.graphs: dict[int, list[Callable[[], None]]] = {}
        self.executables: dict[int, list[Callable[[], None]]] = {}
        self.destroyed: set[int] = set()
        self.fail_next: dict[str, str] = {}
        """Method name to CUDA's error text: its next call fails with it."""
        self._addresses = itertools.count(0x7F00_0000_0000, 1 << 32)
        self._handles = itertools.count(1001)
        self._lock = threading.RLock()

    # CudaRuntime

    def device_count(self) -> int:
        self._enter("device_count")
        return self.devices

    def compute_capability(self) -> str:
        self._enter("compute_capability")
        return self.capability

    def malloc(self, size: int) -> int:
        with self._lock:
            self._enter("malloc", allocates=True)
            used = sum(block.memory.size for block in self.blocks.values() if block.alive and block.kind == "device")
            if size <= 0:
                raise CudaMisuse(f"malloc of {size} bytes")
            if used + size > self.memory_bytes:
                raise RuntimeAdapterError(
                    f"CUDA: cudaMalloc of {size} bytes failed: cudaErrorMemoryAllocation (out of memory)"
                )
            # Not the address of the host's memory: a device pointer that the host follows must not work.
            return self._add("device", next(self._addresses), np.full(size, POISON, np.uint8))

    def free(self, address: int) -> None:
        self._free("device", address)

    def malloc_host(self, size: int) -> int:
        with self._lock:
            self._enter("malloc_host", allocates=True)
            if size <= 0:
                raise CudaMisuse(f"malloc_host of {size} bytes")
            memory = np.full(size, POISON, np.uint8)
            return self._add("host", memory.ctypes.data, memory)

    def free_host(self, address: int) -> None:
        self._free("host", address)

    def copy_to_device(self, target: int, source: int, size: int, stream: int) -> None:
        self._copy("copy_to_device", "device", target, "host", source, size, stream)

    def copy_to_host(self, target: int, source: int, size: int, stream: int) -> None:
        self._copy("copy_to_host", "host", target, "device", source, size, stream)

    def copy_on_device(self, target: int, source: int, size: int, stream: int) -> None:
        self._copy("copy_on_device", "device", target, "device", source, size, stream)

    def wait_for_stream(self, stream: int, other: int) -> None:
        with self._lock:
            self._enter("wait_for_stream")
            waited_for = self._stream(other)
            until = list(waited_for.pending)
            if waited_for.capture is not None or self.is_capturing(stream):
                raise CudaMisuse("waiting for another stream during a capture")

        def work() -> None:
            with self._lock:
                due = [pending for pending in until if pending in waited_for.pending]
                waited_for.pending = [pending for pending in waited_for.pending if pending not in due]
            for pending in due:
                pending()

        self.enqueue(stream, work)

    def create_stream(self) -> int:
        with self._lock:
            self._enter("create_stream")
            return self._handle(self.streams, Stream())

    def synchronize(self, stream: int) -> None:
        with self._lock:
            self._enter("synchronize")
            found = self._stream(stream)
            if found.capture is not None:
                raise CudaMisuse("synchronize during a capture")
            pending, found.pending = found.pending, []
        for work in pending:
            work()

    def destroy_stream(self, stream: int) -> None:
        with self._lock:
            self._enter("destroy_stream")
            if self._stream(stream).pending:
                raise CudaMisuse("a stream was destroyed while work was pending in it")
            self._drop(self.streams, stream)

    def begin_capture(self, stream: int) -> None:
        with self._lock:
            self._enter("begin_capture")
            found = self._stream(stream)
            if found.capture is not None:
                raise CudaMisuse("begin_capture twice")
            found.capture, found.capturing_thread = [], threading.get_ident()

    def end_capture(self, stream: int) -> int:
        with self._lock:
            found = self._stream(stream)
            if found.capture is None:
                raise CudaMisuse("end_capture without begin_capture")
            recorded, found.capture = found.capture, None
            self._enter("end_capture")
            return self._handle(self.graphs, recorded)

    def instantiate_graph(self, graph: int) -> int:
        with self._lock:
            self._enter("instantiate_graph")
            return self._handle(self.executables, self._known(self.graphs, graph, "graph"))

    def launch_graph(self, executable: int, stream: int) -> None:
        with self._lock:
            self._enter("launch_graph")
            recorded = self._known(self.executables, executable, "executable graph")
            for work in recorded:
                self.enqueue(stream, work)

    def destroy_graph(self, graph: int) -> None:
        with self._lock:
            self._enter("destroy_graph")
            self._drop(self.graphs, graph)

    def destroy_executable(self, executable: int) -> None:
        with self._lock:
            self._enter("destroy_executable")
            self._drop(self.executables, executable)

    # For the TensorRT stand-in and for tests

    def enqueue(self, stream: int, work: Callable[[], None]) -> None:
        """Run `work` when the stream is synchronized, or record it while the stream is captured."""
        with self._lock:
            found = self._stream(stream)
            (found.pending if found.capture is None else found.capture).append(work)

    def is_capturing(self, stream: int) -> bool:
        """Tell whether the stream records."""
        return self._stream(stream).capture is not None

    def device_bytes(self, address: int, size: int) -> np.ndarray:
        """Return `size` bytes of device memory, checked."""
        return self._bytes("device", address, size)

    def leaks(self) -> list[str]:
        """Return what is still allocated, in words."""
        with self._lock:
            alive = [f"{block.kind} {block.memory.size} bytes" for block in self.blocks.values() if block.alive]
            held = (("stream", self.streams), ("graph", self.graphs), ("executable", self.executables))
            return alive + [name for name, handles in held for _ in handles]

    def assert_no_leaks(self) -> None:
        """Fail if anything is still allocated."""
        assert self.leaks() == []

    # Inside

    def _enter(self, name: str, *, allocates: bool = False) -> None:
        self.calls[name] += 1
        if self.devices < 1 and name != "device_count":
            raise ProviderUnavailableError(f"CUDA: {name} failed: cudaErrorNoDevice (no CUDA-capable device)")
        if allocates and any(
            stream.capture is not None and stream.capturing_thread == threading.get_ident()
            for stream in self.streams.values()
        ):
            raise CudaMisuse(f"{name} during a capture")
        if (text := self.fail_next.pop(name, None)) is not None:
            raise RuntimeAdapterError(f"CUDA: {name} failed: {text}")

    def _add(self, kind: str, address: int, memory: np.ndarray) -> int:
        self.blocks[address] = Block(kind, address, memory)
        return address

    def _free(self, kind: str, address: int) -> None:
        with self._lock:
            self._enter("free" if kind == "device" else "free_host")
            block = self.blocks.get(address)
            if block is None or block.kind != kind:
                raise CudaMisuse(f"{address:#x} was not allocated as {kind} memory")
            if not block.alive:
                raise CudaMisuse(f"double free of {address:#x}")
            block.alive = False
            block.memory[:] = POISON

    def _bytes(self, kind: str, address: int, size: int) -> np.ndarray:
        with self._lock:
            for block in self.blocks.values():
                if block.kind == kind and block.address <= address < block.address + block.memory.size:
                    if not block.alive:
                        raise CudaMisuse(f"use after free of {kind} memory {address:#x}")
                    start = address - block.address
                    if start + size > block.memory.size:
                        raise CudaMisuse(f"{size} bytes at {start} of {block.memory.size} bytes of {kind} memory")
                    return block.memory[start : start + size]
        raise CudaMisuse(f"{address:#x} is no {kind} memory")

    def _copy(
        self, name: str, target_kind: str, target: int, source_kind: str, source: int, size: int, stream: int
    ) -> None:
        def work() -> None:
            self._bytes(target_kind, target, size)[:] = self._bytes(source_kind, source, size)

        with self._lock:
            self._enter(name)
            self._bytes(source_kind, source, size)
            written = self._bytes(target_kind, target, size)
            if target_kind == "host" and not self.is_capturing(stream):
                written[:] = POISON  # whoever reads it before synchronize() gets this
            self.enqueue(stream, work)

    def _stream(self, stream: int) -> Stream:
        if stream in self.default_streams:
            return self.default_streams[stream]
        return self._known(self.streams, stream, "stream")

    def _handle(self, table: dict, value: object) -> int:
        handle = next(self._handles)
        table[handle] = value
        return handle

    def _known(self, table: dict, handle: int, what: str):
        if handle not in table:
            state = "destroyed" if handle in self.destroyed else "never created"
            raise CudaMisuse(f"{what} {handle} was {state}")
        return table[handle]

    def _drop(self, table: dict, handle: int) -> None:
        self._known(table, handle, "handle")
        del table[handle]
        self.destroyed.add(handle)
