"""Files that OpenVINO reads otherwise than the standard are refused; ONNX Runtime says which are."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

pytest.importorskip("openvino", reason="OpenVINO is not installed: [openvino]")

import openvino

from runtimes.errors import RuntimeAdapterError
from runtimes.openvino.adapter import OpenVinoRuntime
from runtimes.openvino.misread_operators import why_misread

X = np.random.default_rng(0).uniform(0.5, 1.5, (2, 4, 3, 3)).astype(np.float32)


def network(kind: str, opset: int, *, shape=X.shape, given_axes=True, **attributes) -> onnx.ModelProto:
    """One operator between two Relus; a reduction is over the channels, its axes in the form of its opset."""
    inputs, constants = ["a"], []
    if kind.startswith("Reduce"):
        attributes["keepdims"] = 1
        if given_axes and opset >= (13 if kind == "ReduceSum" else 18):
            inputs, constants = ["a", "axes"], [helper.make_tensor("axes", TensorProto.INT64, [1], [1])]
        elif given_axes:
            attributes["axes"] = [1]
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node(kind, inputs, ["r"], name="middle", **attributes),
        helper.make_node("Relu", ["r"], ["y"]),
    ]
    shapes = {"x": shape, "y": ["a", "b", "c", "d"][: len(shape)]}
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, given) for name, given in shapes.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
    onnx.checker.check_model(model)
    return model


def as_written(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


def computed_otherwise(model: onnx.ModelProto, x: np.ndarray) -> bool:
    """What OpenVINO itself gives, beside ONNX Runtime."""
    expected = as_written(model, x)
    read = openvino.Core().read_model(model.SerializeToString())
    got = openvino.Core().compile_model(read, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(x)[0]
    return got.shape != expected.shape or not np.allclose(got, expected, rtol=1e-4)


@pytest.mark.parametrize("opset", [11, 13, 17, 18])
@pytest.mark.parametrize("kind", ["ReduceL1", "ReduceLogSum", "ReduceLogSumExp", "ReduceL2", "ReduceMean", "ReduceSum"])
def test_a_reduction_is_refused_where_openvino_is_wrong(kind, opset, tmp_path):
    model = network(kind, opset)
    wrong = computed_otherwise(model, X)
    assert wrong == (kind in ("ReduceL1", "ReduceLogSum", "ReduceLogSumExp") and opset in (13, 17))
    onnx.save(model, tmp_path / "m.onnx")
    for given in (tmp_path / "m.onnx", str(tmp_path / "m.onnx"), model.SerializeToString(), model):
        if wrong:
            with pytest.raises(
                RuntimeAdapterError, match=rf"{kind} \(r\) of opset {opset}: OpenVINO does not read its axes"
            ):
                OpenVinoRuntime(given)
        else:
            with OpenVinoRuntime(given) as runtime:
                np.testing.assert_allclose(runtime.run({"x": X})["y"], as_written(model, X), rtol=1e-4)


def test_a_reduction_that_means_all_axes_is_run():
    model = network("ReduceL1", 17, given_axes=False)
    assert not computed_otherwise(model, X)
    OpenVinoRuntime(model).close()


@pytest.mark.parametrize(
    ("opset", "axis", "shape"),
    [(11, 1, (2, 4, 3, 3)), (11, 3, (2, 4, 3, 3)), (11, 1, (2, 4)), (12, 1, (2, 4, 1, 1)), (13, 1, (2, 4, 3, 3))],
)
def test_a_softmax_is_refused_where_openvino_is_wrong(opset, axis, shape):
    model = network("Softmax", opset, shape=shape, axis=axis)
    x = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    if computed_otherwise(model, x):
        assert (opset, axis, shape) == (11, 1, (2, 4, 3, 3))
        with pytest.raises(RuntimeAdapterError, match=r"Softmax over axis 1 and all behind it \(opset 11\)"):
            OpenVinoRuntime(model)
    else:
        OpenVinoRuntime(model).close()


@pytest.mark.parametrize(
    ("options", "told"),
    [({"antialias": 1}, "antialias"), ({"exclude_outside": 1}, "exclude_outside"), ({"antialias": 0}, "")],
)
def test_a_resize_is_refused_where_openvino_is_wrong(options, told):
    scales = helper.make_tensor("scales", TensorProto.FLOAT, [4], [1, 1, 0.5, 0.5])
    model = network("Resize", 19, shape=(1, 1, 8, 8), mode="cubic", **options)
    model.graph.node[1].input.extend(["", "scales"])
    model.graph.initializer.append(scales)
    x = np.random.default_rng(2).uniform(size=(1, 1, 8, 8)).astype(np.float32)
    assert computed_otherwise(model, x) == bool(told)
    if told:
        with pytest.raises(RuntimeAdapterError, match=rf"Resize \(r\) with {told}: OpenVINO resizes without it"):
            OpenVinoRuntime(model)
    else:
        OpenVinoRuntime(model).close()


@pytest.mark.parametrize("bias", [0.5, 1.5, 1.0, 2.0])
def test_an_lrn_is_refused_where_openvino_is_wrong(bias):
    model = network("LRN", 17, size=3, alpha=1e-4, beta=0.75, bias=bias)
    assert computed_otherwise(model, X) == (bias % 1 != 0)
    if bias % 1:
        with pytest.raises(RuntimeAdapterError, match=f"LRN with the bias {bias}: OpenVINO computes with {int(bias)}"):
            OpenVinoRuntime(model)
    else:
        OpenVinoRuntime(model).close()


@pytest.mark.parametrize("size", [(8, 8), (7, 7), (7, 10)])
@pytest.mark.parametrize("pads", [[1, 1, 1, 1], [0, 0, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0]])
@pytest.mark.parametrize("rounding", [(1, 1), (1, 0), (0, 1)])
def test_an_average_is_refused_where_openvino_is_wrong(size, pads, rounding):
    ceil, counts = rounding
    options = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": ceil, "count_include_pad": counts}
    model = network("AveragePool", 17, shape=(1, 2, *size), pads=pads, **options)
    x = np.random.default_rng(3).uniform(0.5, 1.5, (1, 2, *size)).astype(np.float32)
    if computed_otherwise(model, x):
        assert (ceil, counts) == (1, 1)
        assert any(pads)
        with pytest.raises(RuntimeAdapterError, match=r"AveragePool \(\w+\) with ceil_mode and count_include_pad"):
            OpenVinoRuntime(model)
    else:
        OpenVinoRuntime(model).close()


def test_an_average_of_unknown_size_is_refused():
    options = {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "count_include_pad": 1, "pads": [1] * 4}
    with pytest.raises(RuntimeAdapterError, match="AveragePool"):
        OpenVinoRuntime(network("AveragePool", 17, shape=["n", 2, "h", "w"], **options))


def test_a_softmax_of_unknown_size_is_refused():
    with pytest.raises(RuntimeAdapterError, match="Softmax over axis 1"):
        OpenVinoRuntime(network("Softmax", 12, shape=["n", "c", "h", "w"], axis=1))


@pytest.mark.parametrize("content", [b"", b"<?xml version='1.0'?><net/>", b"\xff" * 40, b"\x3a\xff\xff\x01"])
def test_what_is_no_onnx_file_is_left_to_openvino(content, tmp_path):
    (tmp_path / "x.xml").write_bytes(content)
    assert why_misread(content, None) is None
    assert why_misread(tmp_path / "x.xml", None) is None
