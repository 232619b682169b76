#!/usr/bin/env bash
# Versions: hhb 3.2.3 and hhb-tvm 3.2.3 (T-Head's tool for its RISC-V boards, TH1520's NPU among them; here its own reference
#        kernels in C, --board x86_ref, in float32, so that nothing is quantized), torch 1.12.1 (it imports it), onnx 1.17.0,
#        onnxruntime 1.19.2, NumPy 1.24.4; Python 3.8, for which alone it is made, gcc, x86-64.
# Guess: what HHB imports it computes as ONNX Runtime does, or it refuses, as it does InstanceNormalization ("Unspported ops"): its
#        simulation is there to tell what the board will answer, and to compare INT8 with.
# Seen:  modes are not read. A Pad that reflects or repeats the edge pads with zeros; DepthToSpace of CRD, which PixelShuffle is
#        exported as, is computed as DCR, so that channels are mixed; a linear Resize by half_pixel (PyTorch's and ONNX's
#        default) is placed as an asymmetric one, a cubic one gives zeros; an LpPool has p = 2. A dilated convolution (DeepLab) is
#        wrong, and so is a Slice backwards. Shapes are right, nothing warns.
#        Plain, grouped and depthwise convolutions, transposed ones, align_corners, DCR and padding of zeros are right.
# Output seen: "right: Conv, grouped Conv, depthwise Conv, ConvTranspose, Pad of zeros, DepthToSpace DCR, Resize by align_corners, LpPool of p 2; off, of the largest answer: dilated Conv 174 %, reflecting Pad 129 %, edge Pad 129 %, DepthToSpace CRD 139 %, Resize by half_pixel 54 %, cubic Resize 100 %, LpPool of p 1 86 %, Slice backwards 111 %; linear half_pixel is asymmetric: True, cubic is 0: True; InstanceNormalization refused"
set -euo pipefail
python=$(command -v "$HOME"/.pyenv/versions/3.8.*/bin/python python3.8 | head -1) || { echo "needs Python 3.8"; exit 2; }
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
"$python" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check --no-deps hhb==3.2.3 hhb-tvm==3.2.3 torch==1.12.1 onnx==1.17.0 \
    onnxruntime==1.19.2 onnxsim==0.4.36 numpy==1.24.4 protobuf==5.29.6 scipy==1.10.1 pandas==2.0.3 opencv-python-headless==4.12.0.88 \
    tflite==2.18.0 flatbuffers==25.12.19 ml-dtypes==0.2.0 pyyaml==6.0.3 jsbeautifier==2.0.3 editorconfig==0.17.0 decorator==5.3.1 \
    attrs==25.3.0 psutil==7.2.2 tornado==6.4.2 cloudpickle==3.1.3 typing_extensions==4.13.2 tqdm==4.70.1 six==1.17.0 rich==14.3.4 \
    markdown-it-py==3.0.0 mdurl==0.1.2 pygments==2.19.2 python-dateutil==2.9.0.post0 pytz==2026.6 packaging==26.2
cd "$folder"
venv/bin/python - <<'PYTHON'
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

random = np.random.default_rng(0)
x = random.normal(size=(1, 8, 9, 9)).astype(np.float32)
hhb = str(Path(sys.executable).with_name("hhb"))


def kernels(*shape):
    return random.normal(size=shape).astype(np.float32) / 4


def simulate(layers):
    """Return what HHB and ONNX Runtime answer for each layer, all in one file: its output is one row of all of them."""
    nodes, tensors = [], [numpy_helper.from_array(np.array([1, -1]), "row")]
    for index, (kind, others, attributes) in enumerate(layers.values()):
        names = [f"c{index}.{place}" if values.size else "" for place, values in enumerate(others)]
        tensors += [numpy_helper.from_array(values, name) for values, name in zip(others, names) if name]
        nodes.append(helper.make_node(kind, ["x", *names], [f"y{index}"], **attributes))
    rows = [f"r{index}" for index in range(len(layers))]
    nodes += [helper.make_node("Reshape", [f"y{index}", "row"], [row]) for index, row in enumerate(rows)]
    nodes.append(helper.make_node("Concat", rows, ["y"], axis=1))
    ends = [helper.make_tensor_value_info("x", 1, x.shape), helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "given.onnx")
    np.savez("x.npz", x=x)
    shutil.rmtree("out", ignore_errors=True)
    (want,) = onnxruntime.InferenceSession("given.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})
    command = [hhb, "-S", "--board", "x86_ref", "-f", "given.onnx", "-qs", "float32", "-cd", "x.npz", "-sd", "x.npz", "-in", "x"]
    command += ["-on", "y", "-is", "1 8 9 9", "-o", "out", "--postprocess", "save"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    files = list(Path("out").glob("*output0_*.txt"))
    if not files:
        return done.stdout
    shapes = {one.name: [size.dim_value for size in one.type.tensor_type.shape.dim] for one in model.graph.value_info}
    parts = np.cumsum([np.prod(shapes[f"y{index}"]) for index in range(len(layers))])[:-1]
    got = np.loadtxt(files[0]).reshape(want.shape)
    return dict(zip(layers, zip(np.split(got[0], parts), np.split(want[0], parts))))


def off(pair):
    return float(np.abs(pair[0] - pair[1]).max() / np.abs(pair[1]).max())


none, scales, border = np.array([], np.float32), np.array([1, 1, 2, 2], np.float32), np.array([0, 0, 1, 1, 0, 0, 1, 1])
backwards = (np.array([8]), np.array([-10]), np.array([2]), np.array([-2]))
linear = {"mode": "linear"}
plain = {
    "Conv": ("Conv", (kernels(8, 8, 3, 3),), {"pads": [1] * 4}),
    "grouped Conv": ("Conv", (kernels(8, 4, 3, 3),), {"group": 2}),
    "depthwise Conv": ("Conv", (kernels(8, 1, 3, 3),), {"pads": [1] * 4, "group": 8}),
    "ConvTranspose": ("ConvTranspose", (kernels(8, 4, 2, 2),), {"strides": [2, 2]}),
    "Pad of zeros": ("Pad", (border,), {}),
    "DepthToSpace DCR": ("DepthToSpace", (), {"blocksize": 2}),
    "Resize by align_corners": ("Resize", (none, scales), {**linear, "coordinate_transformation_mode": "align_corners"}),
    "LpPool of p 2": ("LpPool", (), {"kernel_shape": [3, 3]}),
}
modes = {
    "dilated Conv": ("Conv", (kernels(8, 8, 3, 3),), {"dilations": [2, 2]}),
    "reflecting Pad": ("Pad", (border,), {"mode": "reflect"}),
    "edge Pad": ("Pad", (border,), {"mode": "edge"}),
    "DepthToSpace CRD": ("DepthToSpace", (), {"blocksize": 2, "mode": "CRD"}),
    "Resize by half_pixel": ("Resize", (none, scales), linear),
    "cubic Resize": ("Resize", (none, scales), {"mode": "cubic"}),
    "LpPool of p 1": ("LpPool", (), {"kernel_shape": [3, 3], "p": 1}),
    "Slice backwards": ("Slice", backwards, {}),
}
same = {"asymmetric": ("Resize", (none, scales), {**linear, "coordinate_transformation_mode": "asymmetric"})}
right, wrong = simulate(plain), simulate({**modes, **same})
(_, asymmetric) = wrong.pop("asymmetric")
is_asymmetric = bool(np.allclose(wrong["Resize by half_pixel"][0], asymmetric, atol=1e-4))
is_zero = not wrong["cubic Resize"][0].any()
refused = simulate({"norm": ("InstanceNormalization", (kernels(8), kernels(8)), {})})
errors = {name: off(pair) for name, pair in wrong.items()}
print(
    f"right: {', '.join(right)}; off, of the largest answer: {', '.join(f'{name} {100 * one:.0f} %' for name, one in errors.items())}; "
    f"linear half_pixel is asymmetric: {is_asymmetric}, cubic is 0: {is_zero}; InstanceNormalization refused"
)
assert max(map(off, right.values())) < 1e-4 and "Unspported ops" in refused, "the behaviour changed"
assert min(errors.values()) > 0.1 and is_asymmetric and is_zero, "the behaviour changed"
PYTHON
