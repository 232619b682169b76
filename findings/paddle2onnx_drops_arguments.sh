#!/usr/bin/env bash
# Versions: paddle2onnx 2.1.0 with PaddlePaddle 3.0.0 (the version it recommends), onnxruntime 1.32.0 (CPU), NumPy 2.4.6;
#        Python 3.11, x86-64.
# Guess: paddle2onnx writes a Paddle layer as ONNX with the arguments it was made with, or refuses, as it does interpolate by a
#        scale_factor; its page recommends this Paddle.
# Seen:  some arguments are lost and something else is written. AdaptiveAvgPool2D(5) of 8 pixels, whose windows are of two
#        sizes, becomes an AveragePool of 4 pixels and stride 1 (2, 4 and 8 are right), AdaptiveMaxPool2D likewise.
#        Hardtanh(-0.3, 0.4) becomes a Clip of -1 and 1, ThresholdedReLU gives 0 below its threshold whatever its `value`, a
#        transposed convolution forgets `output_size`, the maximum norm is another. Nothing warns, the files are valid. (With
#        Paddle 3.3.1, the newest, LeakyReLU's slope and a Pad's value are lost, too: what lies in memory is written.)
# Output seen: "largest difference: Hardtanh(-0.3, 0.4) 0.70, ThresholdedReLU(0.3, 0.7) 0.70, AdaptiveAvgPool2D(5) 1.25, AdaptiveMaxPool2D(5) 3.14, norm(inf) 2.11, Conv2DTranspose(output_size) 18 became 17 columns; right: 7"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check paddlepaddle==3.0.0 paddle2onnx==2.1.0 \
    onnxruntime==1.32.0 numpy==2.4.6
cd "$folder"
cat >"$folder/run.py" <<'PYTHON'
import sys
import tempfile

import numpy as np
import onnxruntime
import paddle
import paddle2onnx
from paddle import nn
from paddle.nn import functional

x = np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32)
paddle.seed(0)


class Layer(nn.Layer):
    def __init__(self, function: object, *layers: nn.Layer) -> None:
        super().__init__()
        self.function, self.layers = function, nn.LayerList(layers)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.function(x, *self.layers)


def both(function: object, *layers: nn.Layer) -> tuple[np.ndarray, np.ndarray]:
    """Return what Paddle and, from the exported file, ONNX Runtime answer."""
    layer = Layer(function, *layers)
    layer.eval()
    path = f"{tempfile.mkdtemp(dir=sys.argv[1])}/net"
    spec = [paddle.static.InputSpec(x.shape, "float32", "x")]
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=spec, full_graph=True), path)
    paddle2onnx.export(f"{path}.json", f"{path}.pdiparams", f"{path}.onnx", opset_version=17, verbose=False)
    session = onnxruntime.InferenceSession(f"{path}.onnx", providers=["CPUExecutionProvider"])
    return layer(paddle.to_tensor(x)).numpy(), session.run(None, {session.get_inputs()[0].name: x})[0]


def call(function: object, **arguments: object) -> object:
    return lambda x: function(x, **arguments)


cases = {
    "Hardtanh()": (call(functional.hardtanh),),
    "Hardtanh(-0.3, 0.4)": (call(functional.hardtanh, min=-0.3, max=0.4),),
    "ThresholdedReLU(0.3)": (call(functional.thresholded_relu, threshold=0.3),),
    "ThresholdedReLU(0.3, 0.7)": (call(functional.thresholded_relu, threshold=0.3, value=0.7),),
    "AdaptiveAvgPool2D(2)": (call(functional.adaptive_avg_pool2d, output_size=2),),
    "AdaptiveAvgPool2D(5)": (call(functional.adaptive_avg_pool2d, output_size=5),),
    "AdaptiveMaxPool2D(5)": (call(functional.adaptive_max_pool2d, output_size=5),),
    "norm(2)": (call(paddle.norm, p=2, axis=1),),
    "norm(inf)": (call(paddle.norm, p=float("inf"), axis=1),),
    "Conv2DTranspose": (lambda x, layer: layer(x), nn.Conv2DTranspose(4, 3, 3, stride=2)),
    "Conv2DTranspose(output_size)": (lambda x, layer: layer(x, output_size=[18, 18]), nn.Conv2DTranspose(4, 3, 3, stride=2)),
    "LeakyReLU(0.2)": (call(functional.leaky_relu, negative_slope=0.2),),
    "Conv2D": (lambda x, layer: layer(x), nn.Conv2D(4, 4, 3, stride=2, padding="SAME")),
}
wrong = {}
for name, case in cases.items():
    expected, got = both(*case)
    if got.shape != expected.shape:
        wrong[name] = f"{expected.shape[-1]} became {got.shape[-1]} columns"
    elif not np.allclose(got, expected, rtol=1e-3, atol=1e-4):
        wrong[name] = f"{np.abs(got - expected).max():.2f}"
told = ", ".join(f"{name} {value}" for name, value in wrong.items())
print(f"found largest difference: {told}; right: {len(cases) - len(wrong)}")
known = {"Hardtanh(-0.3, 0.4)", "ThresholdedReLU(0.3, 0.7)", "AdaptiveAvgPool2D(5)", "AdaptiveMaxPool2D(5)"}
assert set(wrong) == known | {"norm(inf)", "Conv2DTranspose(output_size)"}, "the behaviour changed"
PYTHON
"$folder/venv/bin/python" "$folder/run.py" "$folder" 2>"$folder/log" | sed -n 's/^found //p'
