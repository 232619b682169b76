"""TensorRT's timing cache: kernel timings of earlier builds, kept so that the next build takes seconds, not minutes.

One file per TensorRT version and GPU. A file that does not fit is a warning and is replaced; a file that another build
wrote meanwhile is merged, if it fits, not lost. TensorRT-RTX has none: there the calls do nothing but ask for a GPU,
which would break building without one (RTX 1.7 docstring), so they are not made.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtimes.io.cache_dir import user_cache_folder, write_cache_file
from runtimes.trt.tensorrt_library import TensorRtLibrary


def default_timing_cache(version: str, gpu: str | None) -> Path:
    """Return where the cache of one TensorRT version and GPU is kept, below the user's cache folder."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"tensorrt-{version}-{gpu or 'no-gpu'}")
    return user_cache_folder() / f"{name}.timing"


@dataclass(frozen=True, slots=True)
class AttachedTimings:
    """TensorRT's object, which must live until the build ends, its file, and what lay there and was not taken."""

    timing_cache: Any
    path: Path
    refused: bytes


def attach_timing_cache(library: TensorRtLibrary, config: Any, path: Path | None) -> AttachedTimings | None:
    """Give the build the timings stored at `path`; None where it gets none."""
    if path is None or library.flavor == "rtx":
        return None
    stored = _read(path)
    if stored and (known := _set(config, stored)) is not None:
        return AttachedTimings(known, path, b"")
    if stored:
        library.log.add(is_error=False, text=f"the timing cache {path} is of another GPU or version; it is replaced")
    empty = _set(config, b"")
    if empty is None:
        library.log.add(is_error=False, text="TensorRT makes no timing cache here; the build times every kernel anew")
        return None
    return AttachedTimings(empty, path, stored)


def save_timing_cache(library: TensorRtLibrary, config: Any, timings: AttachedTimings | None) -> None:
    """Store the timings of the build that just ended. Whatever becomes of that is a warning: the engine is made.

    What another build wrote meanwhile is taken in only where TensorRT finds that it fits: NVIDIA warns of functional
    bugs where caches of different devices are combined. Source: NvInfer.h, ITimingCache::combine.
    """
    if timings is None:
        return
    path, timing_cache = timings.path, timings.timing_cache
    try:
        other = _read(path)
        if other and other != timings.refused:
            meanwhile = config.create_timing_cache(other)
            if meanwhile is None or not timing_cache.combine(meanwhile, False):
                library.log.add(is_error=False, text=f"the timing cache {path} does not fit; it is replaced")
        content = timing_cache.serialize()
        if content is None:
            library.log.add(is_error=False, text="TensorRT does not give its timing cache; nothing is stored")
            return
        write_cache_file(path, bytes(content))
    except (OSError, RuntimeError, TypeError) as err:  # the last two: what pybind11 makes of a refusal
        library.log.add(is_error=False, text=f"the timing cache {path} cannot be written: {err}")


def _set(config: Any, content: bytes) -> Any:
    """Return the cache that TensorRT made of `content` and took, or None: it may refuse at either step."""
    try:
        timing_cache = config.create_timing_cache(content)
        if timing_cache is None or not config.set_timing_cache(timing_cache, False):
            return None
    except (RuntimeError, TypeError):
        return None
    return timing_cache


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
