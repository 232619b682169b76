#!/usr/bin/env bash
# Versions: onnxruntime 1.32.0 (CPU), onnx 1.23.2, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: a setting that does not exist is refused, as OpenVINO refuses an unknown property and InferenceSession an unknown
#        provider: who writes `session.disable_quant_qdq` wrong, or fixes the batch under a name that the file does not
#        have, hears of it.
# Seen:  unknown entries of the session's configuration, options of the CPU provider and names of free dimensions are taken
#        and forgotten; not even the most verbose log calls one unknown. So with one letter wrong the integer kernels stay
#        on, and the input stays [batch, ...].
# Output seen: "session.disable_quantqdq, free dimension 'Batch', CPU option use_arenas: all taken, none called unknown; batch stays ['batch', 4], with the right name [1, 4]"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import os
import tempfile

import onnxruntime
from onnx import TensorProto, helper

ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 4]) for name in "xy"]
graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", ends[:1], ends[1:])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def opened(name: str, provider_options: dict[str, str], severity: int) -> list[object]:
    """The input's shape in a session with settings that do not exist, and the batch fixed under `name`."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = severity
    options.add_session_config_entry("session.disable_quantqdq", "1")  # it is called disable_quant_qdq
    options.add_free_dimension_override_by_name(name, 1)
    session = onnxruntime.InferenceSession(model, options, providers=[("CPUExecutionProvider", provider_options)])
    return session.get_inputs()[0].shape


with tempfile.TemporaryFile() as file:
    kept = os.dup(2)
    os.dup2(file.fileno(), 2)
    shape = opened("Batch", {"use_arenas": "1"}, 0)
    os.dup2(kept, 2)
    file.seek(0)
    log = file.read().decode()
told = [line for line in log.splitlines() if "Batch" in line or "use_arenas" in line or "unknown" in line.lower()]
right = opened("batch", {}, 4)
print(
    "session.disable_quantqdq, free dimension 'Batch', CPU option use_arenas: all taken, "
    f"{told or 'none'} called unknown; batch stays {shape}, with the right name {right}"
)
assert not told and shape == ["batch", 4] and right == [1, 4], "the behaviour changed"
PYTHON
