#!/usr/bin/env bash
# Versions: OpenVINO 2026.4.1 (CPU), onnx 1.23.2, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: a compiled model out of CACHE_DIR is that of the file given: whatever changes the file's answers changes its key.
# Seen:  the key is path, size and time of the .onnx file (or .xml), not what it holds. New weights for the same network are
#        of the same size: copied to the same path with a time kept or fixed (cp -p, rsync -a, tar, a docker layer, a
#        build with SOURCE_DATE_EPOCH) they answer as the old ones did. So does a file whose external data alone were
#        replaced, whatever their time. Nothing warns. With the bytes given instead of the path the answers are right.
# Output seen: "copied with its time: right 3.0, cached 2.0; external data replaced: right 3.0, cached 2.0; as bytes: right 3.0, cached 3.0"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check openvino==2026.4.1 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import io
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import openvino
from onnx import TensorProto, helper, numpy_helper

folder = Path(sys.argv[1])


def network(value: float) -> onnx.ModelProto:
    """Multiplies its input."""
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    constants = [numpy_helper.from_array(np.full((1, 4), value, np.float32), "c")]
    graph = helper.make_graph([helper.make_node("Mul", ["x", "c"], ["y"])], "one", ends[:1], ends[1:], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def answer(model: Path | bytes, cache: Path | None) -> float:
    core = openvino.Core()
    given = core.read_model(io.BytesIO(model)) if isinstance(model, bytes) else str(model)
    compiled = core.compile_model(given, "CPU", {"CACHE_DIR": str(cache)} if cache else {})
    return float(compiled(np.ones((1, 4), np.float32))[0][0, 0])


def copied() -> tuple[float, float]:
    used, cache = folder / "used.onnx", folder / "cache1"
    for value in (2.0, 3.0):
        made = folder / "made.onnx"
        onnx.save(network(value), made)
        os.utime(made, (1_600_000_000, 1_600_000_000))
        shutil.copy2(made, used)
        last = answer(used, cache)
    return answer(used, None), last


def external() -> tuple[float, float]:
    used, cache = folder / "split.onnx", folder / "cache2"
    for value in (2.0, 3.0):
        (folder / "weights.data").unlink(missing_ok=True)
        made = used if value == 2 else folder / "other.onnx"
        onnx.save(network(value), made, save_as_external_data=True, size_threshold=0, location="weights.data")
        last = answer(used, cache)
    return answer(used, None), last


def as_bytes() -> tuple[float, float]:
    found = [answer(network(value).SerializeToString(), folder / "cache3") for value in (2.0, 3.0)]
    return answer(network(3.0).SerializeToString(), None), found[-1]


found = {"copied with its time": copied(), "external data replaced": external(), "as bytes": as_bytes()}
print("; ".join(f"{name}: right {right}, cached {cached}" for name, (right, cached) in found.items()))
sys.exit(0 if list(found.values()) == [(3, 2), (3, 2), (3, 3)] else 1)
PYTHON
