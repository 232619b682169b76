#!/usr/bin/env bash
# Versions: mxnet 1.9.1 (its last; CPU), onnx 1.16.2, onnxruntime 1.23.2 (CPU), NumPy 1.23.5; Python 3.11, x86-64.
# Guess: mx.onnx.export_model writes an operator as MXNet computes it, or refuses, as it does BatchNorm of another axis,
#        L2Normalization over a picture and adaptive pools: it is how the networks of its model zoo still reach ONNX.
# Seen:  BatchNorm with fix_gamma, its default, computes with a gamma of 1 whatever the file of parameters holds, and is exported
#        with what the file holds, so that networks brought to MXNet from elsewhere scale their channels by numbers that
#        they were never run with. contrib.BilinearResize2D with align_corners=False is exported with corners aligned (the
#        shape is right); sum with exclude=True sums over the axis that it should keep, and keeps the others.
#        Pools, convolutions and activations hold.
# Output seen: "BatchNorm same, fixed, gamma 1 same, pool same, aligned resize same, sum same, fixed gamma off by 0.64, resize to 14 off by 0.67, to 5 off by 2.30, sum excluding (4,) is (2, 9, 9); BatchNorm of another axis refused"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check mxnet==1.9.1 onnx==1.16.2 onnxruntime==1.23.2 numpy==1.23.5
cd "$folder"
"$folder/venv/bin/python" -W ignore - 2>"$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import logging
from collections.abc import Callable

import mxnet as mx
import numpy as np
import onnxruntime

logging.disable()
onnxruntime.set_default_logger_severity(4)
random = np.random.default_rng(0)
x = random.normal(size=(2, 4, 9, 9)).astype(np.float32)
parameters = {name: random.uniform(0.5, 2, 4) for name in ("gamma", "beta", "mean", "var")}


def compare(build: Callable[..., mx.sym.Symbol], **values: np.ndarray) -> str:
    """Run a layer in MXNet and its exported file in ONNX Runtime."""
    symbol = build(mx.sym.Variable("x"), **{name: mx.sym.Variable(name) for name in values})
    try:
        given = {name: mx.nd.array(value) for name, value in values.items()}
        mx.onnx.export_model(symbol, given, [x.shape], [np.float32], "layer.onnx")
    except NotImplementedError:
        return "refused"
    arrays = {name: mx.nd.array(value) for name, value in {**values, "x": x}.items()}
    states = {name: arrays.pop(name) for name in symbol.list_auxiliary_states()}
    want = symbol.bind(mx.cpu(), arrays, aux_states=states).forward(is_train=False)[0].asnumpy()
    got = onnxruntime.InferenceSession("layer.onnx", providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    if want.shape != got.shape:
        return f"{want.shape} is {got.shape}"
    return "same" if np.allclose(want, got, atol=1e-4) else f"off by {np.abs(want - got).max():.2f}"


def norm(fix_gamma: bool, axis: int = 1) -> Callable[..., mx.sym.Symbol]:
    def build(x: mx.sym.Symbol, **values: mx.sym.Symbol) -> mx.sym.Symbol:
        gamma, beta, mean, var = (values[name] for name in parameters)
        return mx.sym.BatchNorm(x, gamma, beta, mean, var, fix_gamma=fix_gamma, eps=1e-3, axis=axis)

    return build


def resize(align_corners: bool, size: int) -> Callable[..., mx.sym.Symbol]:
    return lambda x: mx.sym.contrib.BilinearResize2D(x, height=size, width=size, align_corners=align_corners)


ones = {**parameters, "gamma": np.ones(4)}
pool = {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1), "pool_type": "avg", "pooling_convention": "full"}
kept = {
    "BatchNorm": compare(norm(fix_gamma=False), **parameters),
    "fixed, gamma 1": compare(norm(fix_gamma=True), **ones),
    "pool": compare(lambda x: mx.sym.Pooling(x, count_include_pad=False, **pool)),
    "aligned resize": compare(resize(align_corners=True, size=14)),
    "sum": compare(lambda x: mx.sym.sum(x, axis=1)),
}
lost = {
    "fixed gamma": compare(norm(fix_gamma=True), **parameters),
    "resize to 14": compare(resize(align_corners=False, size=14)),
    "to 5": compare(resize(align_corners=False, size=5)),
    "sum excluding": compare(lambda x: mx.sym.sum(x, axis=1, exclude=True)),
}
refused = compare(norm(fix_gamma=False, axis=2), **{name: np.resize(value, 9) for name, value in parameters.items()})
words = ", ".join(f"{name} {found}" for name, found in [*kept.items(), *lost.items()])
print(f"{words}; BatchNorm of another axis {refused}")
assert set(kept.values()) == {"same"} and refused == "refused", "the behaviour changed"
assert not {"same", "refused"} & set(lost.values()), "the behaviour changed"
PYTHON
