"""Run every produced file over the validation images in ONNX Runtime and measure it; a process of its own.

    python benchmarks/quantizer_evaluate.py accuracy FOLDER       # reads FOLDER/files.json, prints one JSON object
    python benchmarks/quantizer_evaluate.py latency FOLDER

Three ways of running a Q/DQ file:

    exact      `session.disable_quant_qdq` = 1: quantize, dequantize, float arithmetic between, as the file is written.
               Equal on every CPU up to the rounding of sums; what TensorRT computes.
    default    ONNX Runtime's own: it fuses what it can into integer kernels. On x86-64 without VNNI these may saturate.
    precise    `session.x64quantprecision` = 1: the same with kernels that do not saturate, where there is a choice.
"""

# ruff: noqa: E402 - the packages are found only once the path is right
from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Python puts this script's folder first, where `calibration` would be a benchmark and not the package.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent)]

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks.quantizer_statistics import compare_logits
from runtimes.metrics.latency import measure_latency

EXACT = "exact"
MODES: dict[str, dict[str, str]] = {
    EXACT: {"session.disable_quant_qdq": "1", "session.disable_double_qdq_remover": "1"},
    "default": {},
    "precise": {"session.x64quantprecision": "1"},
}
LATENCY_BUDGET_S = 1.0
"""Seconds of timed calls per file and round."""

_BATCH = 8


def open_session(model: Path, mode: str) -> onnxruntime.InferenceSession:
    """Open a file on the CPU; `mode` is one of `MODES`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    for key, value in MODES[mode].items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])


def logits_of(model: Path, images: NDArray[np.float32], mode: str) -> NDArray[np.float32]:
    """Return the first output of every image, float32 [N, num_classes].

    Args:
        model: A file with one input.
        images: float32 [N, 3, H, W], may be mapped from disk.
        mode: One of `MODES`.
    """
    session = open_session(model, mode)
    name = session.get_inputs()[0].name
    places = range(0, len(images), _BATCH)
    return np.concatenate([session.run(None, {name: np.array(images[at : at + _BATCH])})[0] for at in places])


def accuracy(folder: Path) -> dict[str, Any]:
    """Measure every file that `files.json` lists against `model.onnx`, in the modes it lists for it."""
    images = np.load(folder / "validation.npy", mmap_mode="r")
    labels_file = folder / "labels.npy"
    labels = np.load(labels_file).tolist() if labels_file.exists() else None
    reference = logits_of(folder / "model.onnx", images, "default")
    results: dict[str, Any] = {}
    for name, modes in json.loads((folder / "files.json").read_text()).items():
        results[name] = {}
        for mode in modes:
            try:
                results[name][mode] = compare_logits(
                    reference, logits_of(folder / name, images, mode), labels
                ).to_json()
            except Exception as err:  # a file that does not run is a result: its row says why
                results[name][mode] = {"error": f"{type(err).__name__}: {err}"}
    return results


def latency(folder: Path) -> dict[str, Any]:
    """Time one image through every file, default session options; the caller repeats this in rounds."""
    image = np.array(np.load(folder / "calibration.npy", mmap_mode="r")[:1])
    results: dict[str, Any] = {}
    for name in ("model.onnx", *json.loads((folder / "files.json").read_text())):
        try:
            session = onnxruntime.InferenceSession(str(folder / name), providers=["CPUExecutionProvider"])
            results[name] = {"p50_ms": _median_ms(session, image)}
        except Exception as err:  # a file that ONNX Runtime refuses is a row that says so
            results[name] = {"error": f"{type(err).__name__}: {err}"}
    return results


def _median_ms(session: onnxruntime.InferenceSession, image: NDArray[np.float32]) -> float:
    feed = {session.get_inputs()[0].name: image}
    timed = measure_latency(
        lambda: session.run(None, feed), warm_up=5, min_runs=20, max_runs=1000, budget_s=LATENCY_BUDGET_S
    )
    return timed.p50_ms


if __name__ == "__main__":
    print(json.dumps({"accuracy": accuracy, "latency": latency}[sys.argv[1]](Path(sys.argv[2]))))
