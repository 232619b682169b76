"""TensorRT's timing cache: kernel timings of earlier builds, kept so that the next build takes seconds, not minutes.

One file per TensorRT version and GPU. A file that does not fit is a warning and is replaced; a file that another build
wrote meanwhile is merged, not lost. TensorRT-RTX has none: there the calls do nothing but ask for a GPU, which would
break building without one (RTX 1.7 docstring), so they are not made.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from runtimes.io.cache_dir import user_cache_folder, write_cache_file
from runtimes.trt.library import TensorRtLibrary


def default_timing_cache(version: str, gpu: str | None) -> Path:
    """Return where the cache of one TensorRT version and GPU is kept, below the user's cache folder."""
    name = re.sub(r"[^A-Za-z0-9.]+", "-", f"tensorrt-{version}-{gpu or 'no-gpu'}")
    return user_cache_folder() / f"{name}.timing"


def attach_timing_cache(library: TensorRtLibrary, config: Any, path: Path | None) -> Any:
    """Give the build the timings stored at `path`; return the cache, which must live until the build ends."""
    if path is None or library.flavor == "rtx":
        return None
    stored = _read(path)
    if stored:
        cache = config.create_timing_cache(stored)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
        library.log.add(is_error=False, text=f"the timing cache {path} is of another GPU or version; it is replaced")
    cache = config.create_timing_cache(b"")
    config.set_timing_cache(cache, False)
    return cache


def save_timing_cache(library: TensorRtLibrary, config: Any, cache: Any, path: Path | None) -> None:
    """Store the timings of the build that just ended; a disk that refuses is a warning, the engine is what matters."""
    if path is None or cache is None:
        return
    try:
        if other := _read(path):  # another build may have written meanwhile
            cache.combine(config.create_timing_cache(other), True)
        write_cache_file(path, bytes(cache.serialize()))
    except OSError as err:
        library.log.add(is_error=False, text=f"the timing cache {path} cannot be written: {err}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
