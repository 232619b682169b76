"""Runs of the command as forks of one process that has imported everything: cheap, and each a process of its own."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "examples" / "digits" / "resnet20_digits.safetensors"

IMPORTED_LATE = (
    "calibration.lint.target_rules",
    "calibration.mixed_precision.search",
    "calibration.pipeline.quantize_model",
    "exporter.checkpoints.weight_layout",
    "exporter.engines.bundle_engine",
    "exporter.models.input_channels",
    "exporter.models.onnx_source",
    "exporter.passes.float16_qdq",
    "exporter.tracing.check_hard_frames",
    "exporter.tracing.check_rows",
    "exporter.tracing.normalize_onnx",
    "exporter.tracing.trace",
    "resnet_export.build_job.build_step",
    "resnet_export.build_job.command",
    "resnet_export.export_job.accuracy_budget",
    "resnet_export.export_job.arguments",
    "resnet_export.export_job.command",
    "resnet_export.export_job.files.dla_files",
    "resnet_export.export_job.files.finish_files",
    "resnet_export.export_job.quantize",
    "resnet_export.export_job.refused_forms",
    "resnet_export.images.archive",
    "resnet_export.images.arrays",
    "resnet_export.images.dataset",
    "resnet_export.images.gather",
    "resnet_export.main",
    "rich._emoji_codes",
    "runtimes.inference.onnxruntime_kinds",
    "runtimes.inference.openvino_kind",
    "runtimes.inference.tensorrt_kinds",
    "runtimes.openvino.misread_operators",
    "runtimes.ort.exact_sessions",
    "runtimes.ort.plain_session",
    "runtimes.trt.calibration_cache",
    "runtimes.trt.int8_coverage",
    "runtimes.trt.layer_times",
)
"""What a run imports in its course, the export's and the build's: a third of a short run, where each fork does it."""

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

    for name in IMPORTED_LATE:
        importlib.import_module(name)
    Image.init()
    if MODEL[0] == "cifar_resnet20":
        export_resnet("cifar_resnet20", weights=str(WEIGHTS))


def few_digits(folder: Path) -> Path:
    """Write a quarter of the digits' calibration images, for short runs; return their folder."""
    from write_images import write_images

    with tempfile.TemporaryDirectory() as name:
        write_images(Path(name))
        return few_of(Path(name), folder)


def few_of(digits: Path, folder: Path) -> Path:
    """Copy a quarter of the calibration images in `digits`; return their folder."""
    for path in sorted((digits / "calib").rglob("*.png"))[::4]:
        copy = folder / path.relative_to(digits)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
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
