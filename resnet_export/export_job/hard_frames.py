"""Every file on frames that are no photographs: finite there, and as near to the reference as its precision allows."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exporter.errors import ExportCheckError, NonFiniteTensorError
from exporter.models.check_images import HARD_FRAMES, load_hard_frames
from resnet_export.console.reporter import Reporter
from resnet_export.export_job.run import ExportRun
from runtimes.metrics.parity import first_output
from runtimes.preprocessing.transform import Preprocessing

if TYPE_CHECKING:
    from onnx import ModelProto

    from resnet_export.export_job.artifacts import Artifacts

MAX_FLOAT16_DIFFERENCE = 0.05
"""Of the largest |output|. FP16 has 11 bits: a ResNet loses 0.1 to 1 % (SQNR 44 to 75 dB); a constant that became 0
loses everything."""

POOR_INT8_DIFFERENCE = 0.5
"""Likewise, worth a warning: no range was calibrated on such frames, so that INT8 may clip there."""


def hard_frames(preprocessing: Preprocessing) -> dict[str, NDArray[np.float32]]:
    """Return, by what they are in words, the hard frames, float32 [1, 3, H, W] each."""
    frames = load_hard_frames(preprocessing)
    return {name: frame[np.newaxis] for name, frame in zip(HARD_FRAMES, frames, strict=True)}


def check_hard_frames(run: ExportRun, artifacts: Artifacts) -> dict[str, Any]:
    """Run every file on the hard frames; return file name to largest |difference| by frame, for `report.json`.

    Raises:
        NonFiniteTensorError: If a file gives NaN or Inf where the reference does not; the message names the tensor.
        ExportCheckError: If an FP16 file answers otherwise.
    """
    from runtimes.ort.adapter import OrtRuntime
    from runtimes.pytorch import TorchRuntime

    loaded, reporter = artifacts.exported.loaded, run.reporter
    open_runtime = partial(OrtRuntime, exact_qdq=run.options.target.exact_int8_simulation)
    frames = hard_frames(loaded.preprocessing)
    with TorchRuntime(loaded.module, output_names=loaded.outputs) as reference:
        wanted = {name: first_output(reference, frame) for name, frame in frames.items()}
        photographs = first_output(reference, run.golden)
    wanted = {name: answer for name, answer in wanted.items() if np.isfinite(answer).all()}
    largest = max(float(np.abs(answer).max()) for answer in (photographs, *wanted.values()))
    found: dict[str, dict[str, float]] = {}
    for file, (name, model) in artifacts.model_files().items():
        with open_runtime(model) as candidate:
            answers = {frame: first_output(candidate, frames[frame]) for frame in wanted}
        for frame, answer in answers.items():
            if not np.isfinite(answer).all():
                _refuse(name, frame, model, frames[frame], open_runtime)
        found[file] = {frame: float(np.abs(answers[frame] - wanted[frame]).max()) for frame in wanted}
        _judge(name, file, found[file], largest, reporter)
    if wanted:
        shares = ", ".join(
            f"{name.removeprefix('ONNX ')} {max(found[file].values()):.2g}"
            for file, (name, _) in artifacts.model_files().items()
        )
        reporter.done(f"black, white, one-colored and noise frames: all files finite; largest |difference| {shares}")
    return found


def _judge(name: str, file: str, differences: dict[str, float], largest: float, reporter: Reporter) -> None:
    if not differences:
        return
    frame = max(differences, key=lambda one: differences[one])
    share = differences[frame] / largest if largest else differences[frame]
    told = f"{name} on {frame}: largest |difference| {differences[frame]:.3g}, {share:.0%} of the largest |output|"
    if file == "model.fp16.onnx" and share > MAX_FLOAT16_DIFFERENCE:
        raise ExportCheckError(
            f"{told}, allowed {MAX_FLOAT16_DIFFERENCE:.0%}; export without --fp16; nothing was written"
        )
    if share > POOR_INT8_DIFFERENCE:
        reporter.warn(f"{told}; no range was calibrated on such pictures")


def _refuse(name: str, frame: str, model: ModelProto, picture: NDArray[np.float32], open_runtime: Any) -> None:
    from exporter.tracing.check_export import first_nonfinite_tensor

    tensor = first_nonfinite_tensor(model, picture, open_runtime=open_runtime)
    where = f"first in {tensor!r}" if tensor else "in its output"
    raise NonFiniteTensorError(
        f"{name} gives NaN or Inf on {frame}, {where}, where the reference does not: a constant or a feature leaves "
        "the range of its type; keep that part out of the type, or add a larger constant to the divisor in the network"
    )
