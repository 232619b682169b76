"""Every file on frames that are no photographs: finite there, and as near to the reference as its precision allows.

A black frame, a white one, one of the mean color, and noise (`exporter.models.check_images.HARD_FRAMES`) are what a
camera gives when something is wrong. On them a quotient of features is 0 / 0 where a constant was lost on the way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from exporter.errors import ExportCheckError, NonFiniteTensorError
from exporter.models.check_images import HARD_FRAMES, load_hard_frames
from exporter.tracing.check_export import OpenRuntime, first_nonfinite_tensor
from runtimes.bundle.file_names import MODEL_FILES
from runtimes.metrics.parity import first_output
from runtimes.preprocessing.transform import Preprocessing
from runtimes.protocol import Runtime

FLOAT16_FILE = MODEL_FILES["fp16"]

MAX_FLOAT16_DIFFERENCE = 0.05
"""Of the largest |output|. FP16 has 11 bits: a ResNet loses 0.1 to 1 % (SQNR 44 to 75 dB); a constant that became 0
loses everything."""

POOR_INT8_DIFFERENCE = 0.5
"""Likewise, worth a warning: no range was calibrated on such frames, so that INT8 may clip there."""

RUN_AWAY = 10.0
"""How many times as large as on photographs an answer is that ran away; trained ResNets answer smaller there."""


def hard_frames(preprocessing: Preprocessing) -> dict[str, NDArray[np.float32]]:
    """Return, by what they are in words, the hard frames, float32 [1, C, H, W] each."""
    frames = load_hard_frames(preprocessing)
    return {name: frame[np.newaxis] for name, frame in zip(HARD_FRAMES, frames, strict=True)}


def check_hard_frames(
    reference: Runtime,
    files: Mapping[str, tuple[str, ModelProto]],
    preprocessing: Preprocessing,
    photographs: NDArray[np.float32],
    *,
    open_runtime: OpenRuntime,
    warn: Callable[[str], None],
) -> dict[str, dict[str, float]]:
    """Run every file on the hard frames on which the reference is finite.

    Args:
        reference: What was exported.
        files: File name to (name in words, model), before its last edits.
        preprocessing: How frames become inputs.
        photographs: Real inputs, float32 [n, C, H, W]: their answers are the yardstick.
        open_runtime: Opens a model.
        warn: Takes a sentence about an INT8 file that answers otherwise on a frame.

    Returns:
        File name to frame to largest |difference|.

    Raises:
        NonFiniteTensorError: If a file gives NaN or Inf where the reference does not; the message names the tensor.
        ExportCheckError: If the FP16 file answers otherwise.
    """
    frames = hard_frames(preprocessing)
    wanted = {name: first_output(reference, frame) for name, frame in frames.items()}
    wanted = {name: answer for name, answer in wanted.items() if np.isfinite(answer).all()}
    answers = (first_output(reference, photographs), *wanted.values())
    of_photographs = float(np.abs(answers[0]).max())
    largest = max(float(np.abs(answer).max()) for answer in answers)
    found: dict[str, dict[str, float]] = {}
    for file, (name, model) in files.items():
        found[file] = {}
        with open_runtime(model) as candidate:
            got = {frame: first_output(candidate, frames[frame]) for frame in wanted}
        for frame, answer in got.items():
            if not np.isfinite(answer).all():
                raise _nonfinite(name, frame, first_nonfinite_tensor(model, frames[frame], open_runtime=open_runtime))
            found[file][frame] = float(np.abs(answer - wanted[frame]).max())
        if found[file]:
            _judge(name, file, found[file], _Answers(largest, of_photographs), warn)
    return found


@dataclass(frozen=True, slots=True)
class _Answers:
    """Largest |output| of the reference: of all, and of photographs alone."""

    largest: float
    of_photographs: float

    @property
    def run_away(self) -> str:
        """What to add where frames get far larger answers than photographs do; else nothing."""
        if self.largest <= RUN_AWAY * self.of_photographs:
            return ""
        return (
            f" (the network itself answers {self.largest:.3g} there, where photographs give {self.of_photographs:.3g}: "
            "its activations run away on such frames, and rounding with them. Statistics of BatchNorm that do not fit "
            "them do that, as random weights have; give trained weights)"
        )


def _judge(
    name: str, file: str, differences: Mapping[str, float], answers: _Answers, warn: Callable[[str], None]
) -> None:
    frame = max(differences, key=lambda one: differences[one])
    share = differences[frame] / answers.largest if answers.largest else differences[frame]
    told = (
        f"{name} on {frame}: largest |difference| {differences[frame]:.3g}, {share:.0%} of the largest |output|"
        f"{answers.run_away}"
    )
    if file == FLOAT16_FILE and share > MAX_FLOAT16_DIFFERENCE:
        raise ExportCheckError(
            f"{told}, allowed {MAX_FLOAT16_DIFFERENCE:.0%}; export without --fp16; nothing was written"
        )
    if share > POOR_INT8_DIFFERENCE:
        warn(f"{told}; no range was calibrated on such pictures")


def _nonfinite(name: str, frame: str, tensor: str | None) -> NonFiniteTensorError:
    where = f"first in {tensor!r}" if tensor else "in its output"
    return NonFiniteTensorError(
        f"{name} gives NaN or Inf on {frame}, {where}, where the reference does not: a constant or a feature leaves "
        "the range of its type; keep that part out of the type, or add a larger constant to the divisor in the network"
    )
