"""TensorRT's account of an engine's layers, in both forms that its versions write."""

import json

import pytest

from runtimes.errors import RuntimeAdapterError
from runtimes.trt.engine_layers import CONVOLUTION, OTHER, REFORMAT, EngineLayer, layers_from_inspector


def old(text):
    """A tensor as TensorRT 8 to 10 tells it."""
    return {"Name": "t", "Dimensions": [1, 8, 4, 4], "Format/Datatype": text}


def new(kind):
    """A tensor as TensorRT 11 tells it."""
    return {"Name": "t", "Dimensions": [1, 8, 4, 4], "Format": "Row major linear", "Datatype": kind}


def read(*layers):
    return layers_from_inspector(json.dumps({"Layers": list(layers), "Bindings": ["input", "logits"]}))


# As NVIDIA's documentation of the inspector prints it (Developer Guide, Engine Inspector, ResNet-50).
DOCUMENTED = {
    "Name": "node_of_gpu_0/res4_0_branch2a_1 + node_of_gpu_0/res4_0_branch2a_bn_1",
    "LayerType": "CaskConvolution",
    "Inputs": [old("Thirty-two wide channel vectorized row major Int8 format.")],
    "Outputs": [old("Thirty-two wide channel vectorized row major Int8 format.")],
    "ParameterType": "Convolution",
    "Weights": {"Type": "Int8", "Count": 131072},
}


def test_the_documented_layer():
    (layer,) = read(DOCUMENTED).layers
    nodes = ("node_of_gpu_0/res4_0_branch2a_1", "node_of_gpu_0/res4_0_branch2a_bn_1")
    assert layer == EngineLayer(DOCUMENTED["Name"], CONVOLUTION, "INT8", nodes, "INT8")


@pytest.mark.parametrize(
    ("tensor", "precision"),
    [
        (old("Row major linear FP16 format"), "FP16"),
        (old("Channel major FP16 format where channel % 4 == 0"), "FP16"),
        (old("Row major linear FP32"), "FP32"),
        (old("Half"), "FP16"),
        (old("Float"), "FP32"),
        (old("BFloat16"), "BF16"),
        (new("Int8"), "INT8"),
        (new("Half"), "FP16"),
        (new("Float"), "FP32"),
        ({"Name": "t"}, "?"),
    ],
)
def test_words_for_types(tensor, precision):
    (layer,) = read({"Name": "a", "LayerType": "gemm", "Inputs": [tensor], "Outputs": []}).layers
    assert (layer.kind, layer.precision) == (CONVOLUTION, precision)


def test_a_convolution_has_the_type_it_reads_and_others_the_type_they_write():
    tensors = {"Inputs": [new("Int8")], "Outputs": [new("Half")]}
    conv, add = read({"LayerType": "CaskConvolution", **tensors}, {"LayerType": "kgen", **tensors}).layers
    assert (conv.kind, conv.precision) == (CONVOLUTION, "INT8")
    assert (add.kind, add.precision) == (OTHER, "FP16")


def test_the_metadata_names_the_onnx_nodes():
    metadata = "[ONNX Layer: layer1.0.conv2]\x1f[ONNX Layer: layer1.0.add]\x1f[ONNX Layer: layer1.0.conv2]"
    (layer,) = read({"Name": "__myl_fused", "LayerType": "fusion", "Metadata": metadata}).layers
    assert layer.nodes == ("layer1.0.conv2", "layer1.0.add")


def test_counts_and_what_fell_back():
    layers = read(
        {
            "Name": "Reformatting CopyNode for Input Tensor 0 to conv1",
            "LayerType": "Reformat",
            "Outputs": [old("Half")],
        },
        {"Name": "conv1", "LayerType": "CaskConvolution", "Inputs": [old("Row major linear FP16 format")]},
        DOCUMENTED,
        {"Name": "pool", "LayerType": "CaskPooling", "Outputs": [old("Row major linear Int8 format")]},
    )
    assert layers.num_reformats == 1
    assert layers.count() == {"INT8": 2, "FP16": 1}
    assert layers.count(CONVOLUTION) == {"FP16": 1, "INT8": 1}
    assert layers.count(REFORMAT) == {"FP16": 1}
    assert layers.to_json()["convolutions_by_layer"][0] == {"nodes": ["conv1"], "precision": "FP16"}


@pytest.mark.parametrize("text", ["", "no JSON", "[]", "{}", "null", '{"Layers": 3}'])
def test_something_else_is_refused(text):
    with pytest.raises(RuntimeAdapterError):
        layers_from_inspector(text)


def test_names_alone_say_what_to_do():
    with pytest.raises(RuntimeAdapterError, match=r"ProfilingVerbosity\.DETAILED"):
        layers_from_inspector(json.dumps({"Layers": ["conv1 + relu", "fc"]}))
