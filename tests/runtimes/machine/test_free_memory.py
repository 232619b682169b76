"""What was freed between blocks in use goes back to the system, where the C library can do that."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest

from runtimes.machine import free_memory
from runtimes.machine.free_memory import give_back_free_memory

BLOCK = 64 * 1024


def test_pages_between_blocks_in_use_are_given_back() -> None:
    if not sys.platform.startswith("linux") or not hasattr(ctypes.CDLL(None), "malloc_trim"):
        pytest.skip("no glibc: its heap is not ours to trim")
    blocks = [np.ones(BLOCK, np.uint8) for _ in range(1000)]
    kept = blocks[::20]
    blocks.clear()
    before = _resident_bytes()
    give_back_free_memory()
    assert before - _resident_bytes() > 30e6
    assert all(block.all() for block in kept)


def test_elsewhere_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    free_memory._malloc_trim.cache_clear()
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)
    try:
        give_back_free_memory()
    finally:
        free_memory._malloc_trim.cache_clear()


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
