"""Runs of the command as forks of one process that has imported everything: cheap, and each a process of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "examples" / "digits" / "resnet20_digits.safetensors"

MODEL: list[object] = ["cifar_resnet20", "--weights", WEIGHTS]
"""The words that name the network of the runs."""


def use_small_model() -> None:
    """Let the runs export a network of two convolutions, given as an ONNX file: a second instead of three."""
    MODEL[:] = [ROOT / "tests" / "data" / "bundle-schema-1" / "model.onnx"]


def import_everything() -> None:
    """Import what a run imports, and let torch.export import what it does when it is first used."""
    sys.path[:0] = [str(ROOT / "examples" / "digits"), str(ROOT)]
    os.environ["OMP_NUM_THREADS"] = "1"
    import onnxruntime  # noqa: F401

    import resnet_export.export_job.job
    import resnet_export.export_job.write_bundle  # noqa: F401
    from exporter import export_resnet

    if MODEL[0] == "cifar_resnet20":
        export_resnet("cifar_resnet20", weights=str(WEIGHTS))


def few_digits(folder: Path) -> Path:
    """Write a quarter of the digits' calibration images, for short runs; return their folder."""
    from write_images import write_images

    write_images(folder)
    for place, path in enumerate(sorted((folder / "calib").rglob("*.png"))):
        if place % 4:
            path.unlink()
    return folder / "calib"


def start(words: Sequence[object], log: Path | None = None, before: Callable[[], object] = lambda: None) -> int:
    """Start the command in a fork; return its process id.

    Args:
        words: Of the command line.
        log: Where what it prints goes; nowhere when None.
        before: Called in the fork, after its output was redirected.
    """
    process = os.fork()
    if process:
        return process
    try:
        handle = os.open(log or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        before()
        from resnet_export.main import main

        os._exit(main([str(word) for word in words]))
    except BaseException:  # a fork must end here, whatever it meets: above it is the test's own process
        os._exit(99)


def wait(process: int) -> int:
    """Wait for the end; return the exit code, negative for a signal."""
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status)
