#!/usr/bin/env bash
# Versions: onnxruntime 1.32.0 (onnxruntime.quantization), onnx 1.23.2, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: quantize_static takes a ModelProto as well as a path and writes its result into a file; the caller's float model
#        is the same afterwards, so that one can quantize it again with other settings and measure the loss against it.
# Seen:  the caller's model has lost its weights. Those of 1 KB and more point into a file of a temporary folder that is
#        gone when the call returns: a session, and a second quantize_static of it, fail. Nothing warns. quantize_dynamic
#        and quant_pre_process leave the model that they are given as it was.
# Output seen: "quantize_static: w is outside, session Fail, again Fail; quantize_dynamic: w is inside, session opens; quant_pre_process: w is inside, session opens"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/pip" install -q --disable-pip-version-check sympy==1.14.0
"$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON' | tail -1
import logging
import sys
from collections.abc import Callable

import numpy as np
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quant_pre_process, quantize_dynamic, quantize_static

logging.disable(logging.WARNING)


def network() -> ModelProto:
    weight = numpy_helper.from_array(np.ones((16, 3, 3, 3), np.float32), "w")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, s, s]) for n, c, s in (("x", 3, 8), ("y", 16, 6))]
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"], "conv")], "one", ends[:1], ends[1:], [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


class Images(CalibrationDataReader):
    def __init__(self) -> None:
        self.images = iter([{"x": np.ones((1, 3, 8, 8), np.float32)}])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.images, None)


def state_after(call: Callable[[ModelProto], object], again: bool = False) -> str:
    """What became of the caller's model."""
    model = network()
    call(model)
    outside = model.graph.initializer[0].data_location == TensorProto.EXTERNAL
    tries = {"session": lambda: onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])}
    if again:
        tries["again"] = lambda: call(model)
    found = [f"w is {'outside' if outside else 'inside'}"]
    for name, attempt in tries.items():
        try:
            attempt()
            found.append(f"{name} opens")
        except Exception as err:
            found.append(f"{name} {type(err).__name__}")
    return ", ".join(found)


out = f"{sys.argv[1]}/out.onnx"
found = {
    "quantize_static": state_after(lambda model: quantize_static(model, out, Images()), again=True),
    "quantize_dynamic": state_after(lambda model: quantize_dynamic(model, out)),
    "quant_pre_process": state_after(lambda model: quant_pre_process(model, out)),
}
print("; ".join(f"{name}: {state}" for name, state in found.items()))
sys.exit(0 if "outside, session Fail" in found["quantize_static"] and "inside" in found["quantize_dynamic"] else 1)
PYTHON
