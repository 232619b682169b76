#!/usr/bin/env bash
# Versions: hls4ml 1.3.0 (its ONNX front end, backend Vivado, emulated by g++), qonnx 1.0.0, onnx 1.23.2, onnxruntime 1.32.0
#        (CPU), NumPy 2.4.6, h5py 3.16.0; Python 3.11, x86-64.
# Guess: a Softmax of an ONNX file is taken over its axis, or refused, as pools in another layout and HardSigmoid are; and a
#        wider fixed-point type for a layer (to see whether quantization is to blame) never makes it worse.
# Seen:  of a map (attention, a class for each place) it is taken over all values of the picture, whatever axis says: they sum
#        to 1 together. And the exponential comes from a table of 1024 entries over the whole range of the type, so what
#        counts is the type's whole part: with 6 bits of it (fixed<16,6>) 10 classes are right to 0.01, with 16
#        (fixed<32,16>) entries are 64 apart and all classes get 0.1, whatever the logits. Nothing warns.
# Output seen: "3 x 4 map over axis 2: sums 0.32 0.53 0.15, over axis 1 the same numbers; 10 classes: fixed<16,6> off by 0.010,
#        fixed<32,16> by 0.224, all of them 0.0996"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check hls4ml==1.3.0 qonnx==1.0.0 onnx==1.23.2 onnxruntime==1.32.0 \
    numpy==2.4.6 h5py==3.16.0
cd "$folder"
"$folder/venv/bin/python" - 2> log <<'PYTHON' || { cat log; exit 1; }
import contextlib
import os

import hls4ml
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from qonnx.core.modelwrapper import ModelWrapper
from qonnx.util.cleanup import cleanup_model

rng = np.random.default_rng(0)
made = 0


def device_and_file(x: np.ndarray, axis: int, type_name: str) -> tuple[np.ndarray, np.ndarray]:
    global made
    made += 1
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, x.shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Softmax", ["x"], ["y"], axis=axis)], "g", ends[:1], ends[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    options = {"backend": "Vivado"}
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        network = cleanup_model(ModelWrapper(model))
        settings = hls4ml.utils.config_from_onnx_model(network, "name", default_precision=type_name, **options)
        layer = hls4ml.converters.convert_from_onnx_model(
            network, output_dir=f"project{made}", io_type="io_parallel", hls_config=settings, **options
        )
        layer.compile()
        got = layer.predict(x).reshape(x.shape)
    return got, session.run(None, {"x": x})[0]


picture = rng.normal(size=(1, 3, 4)).astype(np.float32)
over_rows, over_columns = (device_and_file(picture, axis, "fixed<16,6>") for axis in (2, 1))
assert np.allclose(over_rows[1].sum(2), 1, atol=1e-5) and np.allclose(over_columns[1].sum(1), 1, atol=1e-5)
sums = over_rows[0].sum(2)[0]
same = bool((over_rows[0] == over_columns[0]).all())
logits = rng.normal(size=(1, 10)).astype(np.float32)
narrow, wide = (device_and_file(logits, 1, f"fixed<{bits}>") for bits in ("16,6", "32,16"))
off = [float(np.abs(got - expected).max()) for got, expected in (narrow, wide)]
print(
    f"3 x 4 map over axis 2: sums {' '.join(f'{value:.2f}' for value in sums)}, over axis 1 "
    f"{'the same' if same else 'other'} numbers; 10 classes: fixed<16,6> off by {off[0]:.3f}, fixed<32,16> by {off[1]:.3f}, "
    f"all of them {' '.join(f'{value:.3g}' for value in np.unique(wide[0]))}"
)
assert same and abs(sums.sum() - 1) < 0.02 and off[0] < 0.02 and np.ptp(wide[0]) == 0, "the behaviour changed"
PYTHON
