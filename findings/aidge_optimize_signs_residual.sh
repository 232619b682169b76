#!/usr/bin/env bash
# Versions: aidge_quantization, aidge_onnx, aidge_core and aidge_backend_cpu 0.10.1 (Eclipse Aidge), onnxruntime 1.32.0 (CPU,
#        float, to compare with), onnx 1.23.2, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: optimize_signs=True of quantize_network ("whether to take account of the IO signs of the operators") gives unsigned
#        levels to what is never negative, behind a ReLU: half a bit to a bit better than without, never worse.
# Seen:  of a chain of layers that holds. Where a residual Add (or a Concat) joins a ReLU with a convolution's output, as in
#        every ResNet, the answers are wrong: 0.6 of the float ones, 7 dB instead of 45. Nothing warns.
# Output seen: "chain: 46 dB, with optimize_signs 46; residual: 45 dB, with optimize_signs 7 (times 0.59)"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check aidge_quantization==0.10.1 aidge_onnx==0.10.1 aidge_core==0.10.1 \
    aidge_backend_cpu==0.10.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PYTHON'
import aidge_backend_cpu  # noqa: F401  registers the kernels
import aidge_core
import aidge_onnx
import aidge_quantization
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

aidge_core.Log.set_console_level(aidge_core.Level.Fatal)
rng = np.random.default_rng(0)


def normal(*shape: int, spread: float = 1.0) -> np.ndarray:
    return (rng.normal(size=shape) * spread).astype(np.float32)


weights = {"w1": normal(16, 3, 3, 3, spread=0.2), "b1": normal(16), "w2": normal(16, 16, 3, 3, spread=0.1)}
weights |= {"b2": normal(16, spread=0.1), "w3": normal(10, 16, spread=0.3), "b3": normal(10)}
pictures = [normal(1, 3, 32, 32) for _ in range(24)]


def float_file(residual: bool) -> str:
    conv = {"pads": [1] * 4, "kernel_shape": [3, 3]}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c"], "c", **conv),
        helper.make_node("Relu", ["c"], ["r"], "r"),
        helper.make_node("Conv", ["r", "w2", "b2"], ["d"], "d", **conv),
        *([helper.make_node("Add", ["d", "r"], ["e"], "e")] if residual else []),
        helper.make_node("Relu", ["e" if residual else "d"], ["s"], "s"),
        helper.make_node("GlobalAveragePool", ["s"], ["g"], "g"),
        helper.make_node("Flatten", ["g"], ["f"], "f"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["y"], "y", transB=1),
    ]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, 32, 32])]
    ends.append(helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 10]))
    tensors = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, "model.onnx")
    return "model.onnx"


def decibel_and_gain(residual: bool, **options: bool) -> tuple[float, float]:
    path = float_file(residual)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    network = aidge_onnx.load_onnx(path)
    network.set_backend("cpu")
    network.set_datatype(aidge_core.dtype.float32)
    network.forward_dims([[1, 3, 32, 32]], True)
    types = aidge_core.dtype
    aidge_quantization.auto_assign_node_precision(network, types.int8, types.int8, types.int32)
    calibration = [aidge_core.Tensor(picture) for picture in pictures[:16]]
    kept = {"fake_quantize": True, "dequantize": True, "rescale_inputs": True}
    aidge_quantization.quantize_network(network, calibration, **kept, **options)
    got, expected = [], []
    for picture in pictures[16:]:
        scheduler = aidge_core.SequentialScheduler(network)
        scheduler.forward(data=[aidge_core.Tensor(picture)])
        got.append(np.array(next(iter(network.get_output_nodes())).get_operator().get_output(0)).ravel())
        expected.append(session.run(None, {"x": picture})[0].ravel())
    got, expected = np.array(got, np.float64), np.array(expected, np.float64)
    error = ((got - expected) ** 2).sum()
    return 10 * np.log10((expected**2).sum() / error), (got * expected).sum() / (expected**2).sum()


chain, chain_signs = decibel_and_gain(False)[0], decibel_and_gain(False, optimize_signs=True)[0]
plain, (signs, gain) = decibel_and_gain(True)[0], decibel_and_gain(True, optimize_signs=True)
print(
    f"chain: {chain:.0f} dB, with optimize_signs {chain_signs:.0f}; residual: {plain:.0f} dB, with optimize_signs {signs:.0f} "
    f"(times {gain:.2f})"
)
assert min(chain, chain_signs, plain) > 35, "what was right is not any more"
assert signs < 15, "the behaviour changed"
PYTHON
