"""Networks whose levels OpenVINO's kernels misread are computed as written; ONNX Runtime says what is written."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

pytest.importorskip("openvino", reason="OpenVINO is not installed: [openvino]")

import openvino

from runtimes.errors import RuntimeAdapterError
from runtimes.openvino.adapter import OpenVinoRuntime
from runtimes.openvino.misread_levels import why_levels_are_misread

X = np.random.default_rng(0).uniform(2, 6, (1, 4, 8, 8)).astype(np.float32)
MINUS_40 = np.int8(-40)
COUNTS = {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": 1}
LEAVES_OUT = {"kernel_shape": [3, 3], "pads": [1] * 4}


def dequantized(read: str, written: str, scale: str = "s", zero_point: str = "z") -> list[onnx.NodeProto]:
    quantize = helper.make_node("QuantizeLinear", [read, scale, zero_point], [f"{written}_q"], axis=1)
    return [quantize, helper.make_node("DequantizeLinear", [f"{written}_q", scale, zero_point], [written], axis=1)]


def network(nodes: list[onnx.NodeProto], zero_point=MINUS_40, **constants) -> onnx.ModelProto:
    """Q/DQ of "x" to "d" with the zero point "z", and `nodes` from "d" to "y"."""
    zero_point = np.asarray(zero_point)
    given = {"s": np.full(zero_point.shape, 0.05, np.float32), "z": zero_point, **constants}
    tensors = [numpy_helper.from_array(np.asarray(values), name) for name, values in given.items()]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape), onnx.ValueInfoProto(name="y")]
    graph = helper.make_graph([*dequantized("x", "d"), *nodes], "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    model = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def as_written(model: onnx.ModelProto) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"x": X})[0]


def judge(model: onnx.ModelProto, *, misread: bool) -> None:
    """OpenVINO's kernels are as wrong as told, and the adapter is right either way."""
    expected = as_written(model)
    read = openvino.Core().read_model(model.SerializeToString())
    assert bool(why_levels_are_misread(read)) == misread
    kernels = openvino.Core().compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(X)[0]
    assert (np.abs(kernels - expected).max() > 0.1) == misread
    with OpenVinoRuntime(model) as runtime:
        assert np.abs(runtime.run({"x": X})["y"] - expected).max() < 0.06  # a tie may be one step of 0.05
        assert ("level 0" in runtime.why_in_float or "share" in runtime.why_in_float) == misread


def average(read: str = "d", **attributes) -> onnx.NodeProto:
    return helper.make_node("AveragePool", [read], ["y"], **attributes)


@pytest.mark.parametrize("zero_point", [np.int8(-128), np.int8(0), np.uint8(128), np.uint8(0)])
@pytest.mark.parametrize("attributes", [COUNTS, LEAVES_OUT, {"kernel_shape": [2, 2], "count_include_pad": 1}])
def test_an_average_that_counts_its_padding(zero_point, attributes):
    level_zero_is_zero = zero_point == 0
    judge(network([average(**attributes)], zero_point), misread=attributes is COUNTS and not level_zero_is_zero)


def test_a_zero_point_of_one_channel_is_enough():
    judge(network([average(**COUNTS)], np.array([0, 0, -40, 0], np.int8)), misread=True)


PADS = np.array([0, 0, 1, 1, 0, 0, 1, 1])


@pytest.mark.parametrize(
    ("value", "mode", "misread"), [(0, "constant", True), (2, "constant", False), (0, "edge", False)]
)
def test_a_pad_before_an_average(value, mode, misread):
    inputs, constants = ["d", "p"], {"p": PADS}
    if mode == "constant":
        inputs, constants = ["d", "p", "v"], {"p": PADS, "v": np.float32(value)}
    pad = helper.make_node("Pad", inputs, ["e"], mode=mode)
    judge(network([pad, average("e", kernel_shape=[3, 3])], **constants), misread=misread)


@pytest.mark.parametrize(
    ("kind", "attributes", "misread"),
    [
        ("MaxPool", {"kernel_shape": [2, 2]}, True),
        ("Transpose", {"perm": [0, 1, 3, 2]}, True),
        ("DepthToSpace", {"blocksize": 2}, True),
        ("Relu", {}, False),
        ("Sigmoid", {}, False),
    ],
)
def test_what_stands_between(kind, attributes, misread):
    between = helper.make_node(kind, ["d"], ["e"], **attributes)
    judge(network([between, average("e", **COUNTS)]), misread=misread)


def test_a_bound_that_is_read_before_the_values():
    judge(network([helper.make_node("Clip", ["d", "k"], ["e"]), average("e", **COUNTS)], k=np.float32(0)), misread=True)


@pytest.mark.parametrize("inputs", [["d", "k"], ["k", "d"]])
@pytest.mark.parametrize(("kind", "misread"), [("Add", True), ("Sub", True), ("Mul", False)])
def test_a_constant_that_is_added_counts_as_a_zero_point(kind, misread, inputs):
    between = helper.make_node(kind, inputs, ["e"])
    judge(network([between, average("e", **COUNTS)], np.int8(0), k=np.float32(2)), misread=misread)


@pytest.mark.parametrize(("zero_point", "misread"), [("z", True), ("z2", False)])
@pytest.mark.parametrize(("kind", "wrong"), [("ReduceSum", True), ("ReduceMean", False)])
def test_a_sum_between_two_pairs_that_share_their_zero_point(zero_point, misread, kind, wrong):
    constants = {"axes": np.array([2, 3]), "s2": np.float32(5)}
    if zero_point == "z2":
        constants["z2"] = np.int8(-40)
    nodes = [helper.make_node(kind, ["d", "axes"], ["r"]), *dequantized("r", "y", "s2", zero_point)]
    model = network(nodes, **constants)
    if wrong:
        judge(model, misread=misread)
    else:
        assert why_levels_are_misread(openvino.Core().read_model(model.SerializeToString())) is None


def test_kernels_that_were_asked_for_are_refused():
    with pytest.raises(
        RuntimeAdapterError, match=r"pad AveragePool \(y\) with level 0.*leave LP_TRANSFORMS_MODE alone"
    ):
        OpenVinoRuntime(network([average(**COUNTS)]), properties={"LP_TRANSFORMS_MODE": "YES"})
    OpenVinoRuntime(network([average(**COUNTS)]), properties={"LP_TRANSFORMS_MODE": "NO"}).close()


def test_a_float_network_has_no_levels():
    conv = [helper.make_node("Conv", ["x", "w", "b"], ["e"]), average("e", **COUNTS)]
    ends = [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape), onnx.ValueInfoProto(name="y")]
    tensors = [
        numpy_helper.from_array(np.ones(shape, np.float32), name) for name, shape in (("w", (4, 4, 1, 1)), ("b", (4,)))
    ]
    graph = helper.make_graph(conv, "g", ends[:1], ends[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    assert why_levels_are_misread(openvino.Core().read_model(model.SerializeToString())) is None
