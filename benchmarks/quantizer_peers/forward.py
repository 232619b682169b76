"""The yardstick: one FP32 forward pass over the calibration images in ONNX Runtime; only the runs are timed."""

from __future__ import annotations

import time
from pathlib import Path

import onnxruntime
from measured import CalibrationImages, main


def forward(model: Path, images: CalibrationImages, output: Path) -> float:
    """Return the seconds of all runs after a first one, which also allocates; reading the images is not timed."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    session.run(None, {name: next(images.batches())})
    seconds = 0.0
    for batch in images.batches():
        start = time.perf_counter()
        session.run(None, {name: batch})
        seconds += time.perf_counter() - start
    return seconds


if __name__ == "__main__":
    main(forward, ("onnxruntime", "onnxruntime-gpu", "numpy"))
