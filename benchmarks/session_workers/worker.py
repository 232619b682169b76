"""Run ONNX files in one engine, as anybody opens them: in a process of its own, with that engine's packages only.

    python worker.py ENGINE PACKAGES INPUTS.npy ANSWERS.npz FILE...

ENGINE is onnxruntime or openvino, PACKAGES the folder they were installed into. Writes the first output of every file,
by name, and prints the engine's version. Needs NumPy; runs on any machine, also under emulation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

engine, packages, inputs_path, answers_path, *files = sys.argv[1:]
sys.path.insert(0, packages)

import numpy as np  # noqa: E402 - the packages are found only once the path is right

Run = Callable[[np.ndarray], np.ndarray]


def onnxruntime_session(path: str) -> Run:
    """Open a file in ONNX Runtime without options but for one thread: emulators are slow with several."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: session.run(None, {name: images})[0]


def openvino_model(path: str) -> Run:
    """Open a file in OpenVINO's CPU plug-in, in float32 where the file is float32."""
    import openvino

    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda images: next(iter(compiled(images).values()))


OPEN = {"onnxruntime": onnxruntime_session, "openvino": openvino_model}

images = np.load(inputs_path)
answers = {}
for file in files:
    run = OPEN[engine](file)
    answers[Path(file).name] = np.concatenate([run(images[place : place + 1]) for place in range(len(images))])
np.savez(answers_path, **answers)
print(__import__(engine).__version__)
