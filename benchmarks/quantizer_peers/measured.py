"""What every row's process shares: the images, the clock, the peak memory and the one line it prints.

Only the standard library and NumPy, because each row runs in the peer's own environment. A row is a function
`quantize(model, images, output, **options)`; `main` runs it as

    python nncf_peer.py --model model.onnx --images calibration.npy --batch-size 2 --output nncf.onnx --options '{}'

and prints one JSON object as the last line: seconds, peak memory, versions.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

Quantize = Callable[..., "float | None"]


class CalibrationImages:
    """Prepared images on disk, float32 [N, 3, H, W], read batch by batch.

    Attributes:
        path: The `.npy` file.
        batch_size: Images per batch; the last may hold fewer.
    """

    def __init__(self, path: Path, batch_size: int) -> None:
        self.path = path
        self.batch_size = batch_size

    def __len__(self) -> int:
        return len(np.load(self.path, mmap_mode="r"))

    def batches(self, batch_size: int | None = None) -> Iterator[np.ndarray]:
        """Yield float32 [n, 3, H, W] copies.

        The file is mapped anew for each batch: pages of a lasting mapping would count as this process's memory.
        """
        size = batch_size or self.batch_size
        for place in range(0, len(self), size):
            yield np.array(np.load(self.path, mmap_mode="r")[place : place + size])

    def mapped(self) -> np.ndarray:
        """Return all images as one read-only array, for libraries that take nothing else."""
        return np.load(self.path, mmap_mode="r")


def input_name(model: Path) -> str:
    """Return the name of the model's one input."""
    import onnx

    graph = onnx.load(model, load_external_data=False).graph
    constants = {tensor.name for tensor in graph.initializer}
    (name,) = (info.name for info in graph.input if info.name not in constants)
    return str(name)


def peak_bytes() -> int:
    """Return this process's largest resident set so far.

    Not `ru_maxrss`: Linux hands that on over fork and exec, so a child would report its parent's peak.
    Source: proc_pid_status(5), VmHWM.
    """
    status = Path("/proc/self/status").read_text()
    return next(1024 * int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))


def main(quantize: Quantize, distributions: Sequence[str]) -> None:
    """Run a row from the command line.

    Args:
        quantize: Gets model, images, output and the options. Timed from call to return, with every library imported
            before; may return seconds of its own timing instead.
        distributions: Names on PyPI whose versions are reported.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--options", type=json.loads, default={})
    arguments = parser.parse_args()
    images = CalibrationImages(arguments.images, arguments.batch_size)
    imported_bytes = peak_bytes()
    start = time.perf_counter()
    own = quantize(arguments.model, images, arguments.output, **arguments.options)
    seconds = time.perf_counter() - start if own is None else own
    result: dict[str, Any] = {
        "seconds": seconds,
        "peak_bytes": peak_bytes(),
        "imported_bytes": imported_bytes,
        "versions": {**_versions(distributions), "Python": platform.python_version()},
    }
    print(json.dumps(result), flush=True)


def _versions(distributions: Sequence[str]) -> dict[str, str]:
    found = {}
    for name in distributions:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # such as onnxruntime where onnxruntime-gpu is installed; both are asked for
    return found
