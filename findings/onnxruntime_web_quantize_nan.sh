#!/usr/bin/env bash
# Versions: onnxruntime-web 1.30.0 (WebAssembly, in Node.js), onnxruntime 1.32.0 (CPU, x86-64), onnx 1.23.2, NumPy 2.4.6.
# Guess: WebAssembly is the same C++ compiled again: one file, one picture, the same bytes behind QuantizeLinear, NaN
#        included (the lowest, as on x86-64), and the same integers behind Cast.
# Seen:  NaN becomes -128 on x86-64 and 0 in WebAssembly with an int8 zero point, whatever the zero point is: -128 or 0 is
#        black in one place and middle grey in the other. With uint8 both give 0. Cast to uint8 wraps on x86-64 (-1.5 is
#        255) and saturates in WebAssembly (0); 1e10 becomes the lowest int32 in one place and the highest in the other.
# Output seen: "int8, zero point 5, NaN: -128 and 0; uint8, NaN: 0 and 0; Cast of -1.5 to uint8: 255 and 0; Cast of 1e10 to int32: -2147483648 and 2147483647"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$folder"
npm install --silent --no-audit --no-fund --prefix "$folder" onnxruntime-web@1.30.0 >/dev/null
cat > web.mjs <<'JS'
import fs from "node:fs";
import * as ort from "onnxruntime-web";
ort.env.wasm.numThreads = 1;
const found = {};
for (const name of ["int8", "uint8", "cast_uint8", "cast_int32"]) {
  const session = await ort.InferenceSession.create(fs.readFileSync(`${name}.onnx`));
  const { y } = await session.run({ x: new ort.Tensor("float32", Float32Array.from([NaN, -1.5, 1e10]), [3]) });
  found[name] = Array.from(y.data);
}
fs.writeFileSync("web.json", JSON.stringify(found));
JS
cat > native.py <<'PYTHON'
import json
import sys

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

found = {}
for name, kind in (("int8", np.int8), ("uint8", np.uint8), ("cast_uint8", np.uint8), ("cast_int32", np.int32)):
    to = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
    constants = [numpy_helper.from_array(np.float32(1), "scale"), numpy_helper.from_array(kind(5), "zero")]
    node = helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["y"])
    if name.startswith("cast"):
        node, constants = helper.make_node("Cast", ["x"], ["y"], to=to), []
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3]), helper.make_tensor_value_info("y", to, [3])]
    graph = helper.make_graph([node], "one", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, f"{name}.onnx")
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found[name] = session.run(None, {"x": np.array([np.nan, -1.5, 1e10], np.float32)})[0].tolist()
json.dump(found, sys.stdout)
PYTHON
"$folder/venv/bin/python" native.py > native.json
node web.mjs >/dev/null
"$folder/venv/bin/python" - <<'PYTHON'
import json

native, web = (json.load(open(name)) for name in ("native.json", "web.json"))
rows = {"int8, zero point 5, NaN": ("int8", 0), "uint8, NaN": ("uint8", 0)}
rows |= {"Cast of -1.5 to uint8": ("cast_uint8", 1), "Cast of 1e10 to int32": ("cast_int32", 2)}
print("; ".join(f"{what}: {native[name][at]} and {web[name][at]}" for what, (name, at) in rows.items()))
got = [(native[name][at], web[name][at]) for name, at in rows.values()]
assert got == [(-128, 0), (0, 0), (255, 0), (-(2**31), 2**31 - 1)], (native, web)
PYTHON
