"""Pools that round their size up: PyTorch's values and size at every border, whoever infers or computes the shape."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from graph_builder import GraphBuilder
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from torch.nn import functional as F

from exporter.graph.onnx_graph import attribute, infer_shapes, tensor_shapes
from exporter.tracing.lower_ceil_pools import lower_ceil_pools

SIZES = (30, 31, 32, 33)

CASES = {
    "max": ("MaxPool", {"kernel_shape": [3, 3], "strides": [3, 3], "pads": [1] * 4}),
    "max, dilated": ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "dilations": [2, 2]}),
    "max, no padding": ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2]}),
    "average of what is inside": ("AveragePool", {"kernel_shape": [3, 3], "strides": [3, 3], "pads": [1] * 4}),
    "average with its padding": (
        "AveragePool",
        {"kernel_shape": [3, 3], "strides": [3, 3], "pads": [1] * 4, "count_include_pad": 1},
    ),
    "wide steps": (
        "AveragePool",
        {"kernel_shape": [2, 2], "strides": [3, 3], "pads": [1] * 4, "count_include_pad": 1},
    ),
    "PyTorch's default": ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "count_include_pad": 1}),
    "uneven": (
        "AveragePool",
        {"kernel_shape": [5, 3], "strides": [3, 2], "pads": [2, 1, 2, 1], "count_include_pad": 1},
    ),
}


def network(op, attributes, size, *, opset=17):
    graph = GraphBuilder(channels=3, size=size)
    return model_of(graph, graph.node(op, "pool", "input", ceil_mode=1, **attributes), opset=opset)


def model_of(graph, output, *, opset=17):
    """Return a model whose output has no declared shape; the builder's would be inferred, and wrong."""
    ends = [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)]
    made = helper.make_graph(graph.nodes, "pools", graph.inputs, ends, list(graph.initializers.values()))
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def torch_pool(op, attributes, images):
    kernel, strides = attributes["kernel_shape"], attributes["strides"]
    padding = attributes.get("pads", [0, 0])[:2]
    tensor = torch.from_numpy(images)
    if op == "MaxPool":
        return F.max_pool2d(tensor, kernel, strides, padding, attributes.get("dilations", 1), ceil_mode=True).numpy()
    counted = bool(attributes.get("count_include_pad", 0))
    return F.avg_pool2d(tensor, kernel, strides, padding, ceil_mode=True, count_include_pad=counted).numpy()


def computed(model, images):
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": images})[0]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("op", "attributes"), CASES.values(), ids=CASES)
def test_values_and_sizes_are_pytorchs(op, attributes, size):
    images = np.random.default_rng(size).normal(size=(2, 3, size, size)).astype(np.float32) - 2  # zeros would win
    expected = torch_pool(op, attributes, images)
    result = lower_ceil_pools(network(op, attributes, size))
    assert result.num_changes == 1
    assert not any(attribute(node, "ceil_mode", 0) for node in result.model.graph.node)
    np.testing.assert_allclose(computed(result.model, images), expected, atol=1e-6)
    np.testing.assert_allclose(ReferenceEvaluator(result.model).run(None, {"input": images})[0], expected, atol=1e-5)
    for opset in (17, 20):  # before 22 the rules of ONNX differ for ceil_mode, and there is none
        result.model.opset_import[0].version = opset
        assert tensor_shapes(infer_shapes(result.model))["pool"][2:] == expected.shape[2:]


def test_the_shapes_of_onnx_were_wrong():
    """Else the pass has no reason to be: 12 x 12 declared, 11 x 11 computed."""
    op, attributes = CASES["max"]
    model = network(op, attributes, 32)
    assert tensor_shapes(infer_shapes(model))["pool"][2:] == (12, 12)
    assert computed(model, np.zeros((1, 3, 32, 32), np.float32)).shape[2:] == (11, 11)


@pytest.mark.parametrize("opset", [11, 13, 21])
def test_a_pool_behind_a_pool_and_a_layer_of_the_right_width(opset):
    """The second pool's input has 11 x 11, and the linear layer fits that: strict inference refuses the file before."""
    graph = GraphBuilder(channels=3, size=32)
    first = graph.node("MaxPool", "a", "input", kernel_shape=[3, 3], strides=[3, 3], pads=[1] * 4, ceil_mode=1)
    second = graph.node(
        "AveragePool", "b", first, kernel_shape=[3, 3], strides=[3, 3], pads=[1] * 4, ceil_mode=1, count_include_pad=1
    )
    flat = graph.node("Flatten", "flat", second, axis=1)
    weight = graph.constant("w", graph.random.normal(size=(3 * 4 * 4, 5)).astype(np.float32))
    model = model_of(graph, graph.node("MatMul", "fc", flat, weight), opset=opset)
    images = np.random.default_rng(0).normal(size=(2, 3, 32, 32)).astype(np.float32)
    pooled = F.avg_pool2d(F.max_pool2d(torch.from_numpy(images), 3, 3, 1, ceil_mode=True), 3, 3, 1, ceil_mode=True)
    expected = pooled.flatten(1).numpy() @ onnx.numpy_helper.to_array(graph.initializers["w"])
    result = lower_ceil_pools(model)
    assert result.num_changes == 2
    assert tensor_shapes(infer_shapes(result.model))["b"][2:] == (4, 4)
    np.testing.assert_allclose(computed(result.model, images), expected, atol=1e-4)


def test_other_pools_stay():
    graph = GraphBuilder(channels=3, size=32)
    floor = graph.node("MaxPool", "floor", "input", kernel_shape=[2, 2], strides=[2, 2])
    same = graph.node(
        "AveragePool", "same", floor, kernel_shape=[3, 3], strides=[2, 2], auto_pad="SAME_UPPER", ceil_mode=1
    )
    model = graph.model(same)
    result = lower_ceil_pools(model)
    assert result.num_changes == 0
    assert result.model.SerializeToString() == model.SerializeToString()


def test_the_model_given_stays():
    model = network(*CASES["max"], 32)
    before = model.SerializeToString()
    lower_ceil_pools(model)
    assert model.SerializeToString() == before


def test_tensorrts_parser_computes_the_same_size():
    trt = pytest.importorskip("tensorrt_rtx")
    for name, (op, attributes) in CASES.items():
        if "dilated" in name:
            continue  # TensorRT has no such pool
        model = lower_ceil_pools(network(op, attributes, 32)).model
        model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
        expected = torch_pool(op, attributes, np.zeros((1, 3, 32, 32), np.float32)).shape
        builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
        parsed = builder.create_network(0)
        parser = trt.OnnxParser(parsed, trt.Logger(trt.Logger.ERROR))
        assert parser.parse(model.SerializeToString()), [str(parser.get_error(i)) for i in range(parser.num_errors)]
        assert tuple(parsed.get_output(0).shape) == expected


def test_an_unknown_size_is_told():
    from exporter.errors import ExportError

    model = network(*CASES["max"], 32)
    model.graph.input[0].type.tensor_type.shape.dim[2].ClearField("dim_value")
    with pytest.raises(ExportError, match="'pool' rounds its size up"):
        lower_ceil_pools(model)
