"""What an account of layers says of a network's convolutions: both vocabularies, and what is read from where."""

import json

import pytest

from runtimes.errors import RuntimeAdapterError
from runtimes.trt.build_log import layers_from_log
from runtimes.trt.engine_layers import (
    BUILD_LOG,
    CONTROL,
    CONVOLUTION,
    OTHER,
    NetworkProducts,
    layers_from_inspector,
    layers_to_json,
)
from runtimes.trt.int8_coverage import NOT_LISTED, int8_coverage


def tensor(kind, sizes="-1,4,8,8"):
    return (
        f"{{ Name: t, Dimensions: [{sizes}], Strides: [256,1,32,4], Datatype: {kind}, Format: (NHWC) Channel major }}"
    )


def line(name, layer_type, inputs, constants, outputs, nodes, *, event=""):
    lists = [", ".join(map(tensor, kinds)) for kinds in (inputs, constants, outputs)]
    metadata = "".join(f"[ONNX Layer: {node}]" for node in nodes)
    return (
        f"Name: {name}, LayerType: {layer_type}, Inputs: [{lists[0]}], Constants: [{lists[1]}], Outputs: [{lists[2]}], "
        f"TacticName: t, StreamId: 0{event}, Metadata: {metadata}"
    )


LOG = "\n".join(
    [
        "Layers:",
        line("shape", "shape_call", [], [], [], []),
        line("__myl_MulMinMax_1", "kgen", ["Float"], ["Float"], ["Int8"], ["input.quantized", "conv1"]),
        line("conv1_U1", "correlation", ["Int8"], ["Int8", "Float"], ["Float"], ["conv1", "input.dequantized"]),
        line("__signal", "signal", [], [], [], [], event=", EventId: 1"),
        line("__myl_Add_2", "kgen", ["Float"], ["Float"], ["Int8"], ["conv1", "relu"]),
        line("conv2_U2", "correlation", ["Float", "Float"], ["Float"], ["Float"], ["conv2", "relu", "conv1"]),
        line("down_U3", "correlation", ["Half"], ["Half", "Float"], ["Half"], ["down"]),
        line("mixed_U4", "correlation", ["Int8"], ["Half"], ["Half"], ["mixed"]),
        line("__myl_FcAdd_5", "runtime_fusion", ["Half"], ["Half"], ["Float"], ["fc"]),
        line("__myl_CorrAddRelu_6", "runtime_fusion", ["Float"], ["Float"], ["Float"], ["grouped"]),
        line("proj_7", "gemm", ["Int8", "Int8"], ["Float"], ["Half"], ["proj"]),
        line("_gemm_mha_v2_9", "kgen", ["Half", "Half"], [], ["Half"], ["attn.matmul", "softmax", "attn.matmul_1"]),
        line("__myl_MulAdd_10", "kgen", ["Int8"], ["Float"], ["Float"], ["doubtful"]),
        line("__myl_Concat_8", "runtime_fusion", ["Half"], [], ["Half"], ["cat"]),
        "",
        "Bindings:",
    ]
)
PRODUCTS = NetworkProducts(
    ("conv1", "conv2", "down", "mixed", "fc", "grouped", "proj", "attn.matmul", "doubtful", "lost"),
    ("conv1", "conv2", "mixed", "proj"),
)


def layers(products=PRODUCTS):
    content = layers_to_json(layers_from_log(LOG), source=BUILD_LOG, products=products)
    return layers_from_inspector(json.dumps(content))


def test_precision_is_that_of_what_is_read():
    coverage = int8_coverage(layers())
    assert coverage.precisions == {
        "conv1": "INT8",  # though it writes Float
        "conv2": "FP32",
        "down": "FP16",
        "mixed": "FP16",  # its weights are
        "fc": "FP16",
        "grouped": "FP32",
        "proj": "INT8",
        "attn.matmul": "FP16",  # part of a larger kernel
        "doubtful": NOT_LISTED,  # a kernel that reads INT8 may only add the bias
        "lost": NOT_LISTED,
    }
    assert (coverage.num_int8, coverage.share, coverage.source) == (2, 0.2, BUILD_LOG)
    assert coverage.fallen_back() == {"conv2": "FP32", "mixed": "FP16"}
    assert coverage.to_json()["count"] == {"FP16": 4, "INT8": 2, "FP32": 2, "?": 2}


def test_kinds():
    kinds = [layer.kind for layer in layers().layers]
    assert (kinds.count(CONVOLUTION), kinds.count(CONTROL), kinds.count(OTHER)) == (7, 2, 5)
    assert "?" not in layers().count()


def test_without_the_network_the_engines_own_list_counts():
    coverage = int8_coverage(layers(products=None))
    assert list(coverage.precisions) == ["conv1", "conv2", "down", "mixed", "fc", "grouped", "proj"]
    assert coverage.fallen_back() == {}


def test_a_network_without_any():
    content = {"Layers": [], "Products": {"names": [], "quantized": []}}
    assert int8_coverage(layers_from_inspector(json.dumps(content))).share == 0.0


@pytest.mark.parametrize("entry", ["Inputs", "Constants"])
def test_tensorrts_own_vocabulary(entry):
    """TensorRT 8 to 10: type and format in one text; weights are no constants there."""
    words = {"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}
    layer = {"Name": "conv1 + relu", "LayerType": "CaskConvolution", "Inputs": [words], "Outputs": [{}], entry: [words]}
    found = layers_from_inspector(
        json.dumps({"Layers": [layer], "Products": {"names": ["conv1"], "quantized": ["conv1"]}})
    )
    assert int8_coverage(found).precisions == {"conv1": "INT8"}


def test_a_list_written_otherwise_is_no_empty_list():
    with pytest.raises(ValueError, match=r"a line of another kind: 'Layer 1: conv'"):
        layers_from_log("Layers:\nLayer 1: conv")


@pytest.mark.parametrize("products", [[], {"names": []}, {"names": 3, "quantized": []}])
def test_products_that_cannot_be_read(products):
    with pytest.raises(RuntimeAdapterError, match='"Products" of the layers cannot be read'):
        layers_from_inspector(json.dumps({"Layers": [], "Products": products}))
