"""An existing ONNX file as MODEL: files as PyTorch's exporters write them, and every refusal."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from block_models import photographs, trained
from graph_builder import GraphBuilder
from onnx import TensorProto, helper, numpy_helper

from exporter.errors import ExportError, OnnxFileError
from exporter.graph.onnx_file import read_onnx
from exporter.graph.onnx_graph import tensor_shapes
from exporter.models.load_model import load_model
from exporter.models.loaded_model import ModelRequest
from exporter.models.model_names import ONNX_FILE, parse_model
from exporter.preprocessing.options import PreprocessingOptions
from exporter.tracing.check_export import check_against_pytorch
from exporter.tracing.export import ExportConfig, export_loaded
from runtimes.ort.adapter import OrtRuntime
from runtimes.pytorch import TorchRuntime

EXPORTS = {
    "default": {},
    "opset 23, not optimized": {"opset_version": 23, "optimize": False, "dynamic_shapes": ({0: "n"},)},
    "TorchScript 11": {"dynamo": False, "opset_version": 11},
    "TorchScript 13, BatchNorm kept": {
        "dynamo": False,
        "opset_version": 13,
        "do_constant_folding": False,
        "training": torch.onnx.TrainingMode.PRESERVE,
        "input_names": ["image"],
        "output_names": ["scores"],
        "dynamic_axes": {"image": {0: "n"}},
    },
}


def write(path: Path, options: dict, name: str = "basic") -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(trained(name), (torch.zeros(1, 3, 64, 64),), path, verbose=False, **options)
    return path


def export_and_check(loaded, images):
    """Export and compare with the original file, as the main job does."""
    exported = export_loaded(loaded, ExportConfig(opset=17))
    with TorchRuntime(loaded.module, output_names=loaded.outputs) as reference:
        report = check_against_pytorch(reference, exported.onnx, images, open_runtime=OrtRuntime)
    return exported, report


@pytest.mark.parametrize("options", EXPORTS.values(), ids=EXPORTS)
def test_files_of_pytorch_export_and_equal_themselves(options, tmp_path):
    path = write(tmp_path / "model.onnx", options)
    loaded = load_model(ModelRequest(str(path)))
    exported, report = export_and_check(loaded, photographs(7))
    ops = Counter(node.op_type for node in exported.onnx.graph.node)
    assert set(ops) == {"Conv", "Relu", "MaxPool", "Add", "GlobalAveragePool", "Flatten", "Gemm"}
    assert exported.folding.kept == ()
    if "kept" in path.name or options.get("optimize") is False or "training" in options:
        assert len(exported.folding.folded) == ops["Conv"]
    assert report.relative < 1e-5
    original = onnx.load(path, load_external_data=False)
    assert exported.onnx.graph.input[0].name == original.graph.input[0].name
    assert exported.onnx.graph.output[0].name == original.graph.output[0].name
    assert (loaded.model_id, loaded.num_classes, loaded.source) == ("model", 10, "onnx")
    assert loaded.preprocessing.input_size == (64, 64)


def test_the_reference_runs_a_fixed_batch_in_pieces(tmp_path):
    path = tmp_path / "model.onnx"
    model = trained("basic")
    torch.onnx.export(model, (torch.zeros(4, 3, 64, 64),), path, verbose=False, dynamo=False)
    loaded = load_model(ModelRequest(str(path)))
    images = torch.from_numpy(photographs(7))
    with torch.inference_mode():
        torch.testing.assert_close(loaded.module(images), model(images), rtol=1e-4, atol=1e-4)


def test_external_data_that_is_missing_is_named(tmp_path):
    path = write(tmp_path / "model.onnx", {})
    (tmp_path / "model.onnx.data").rename(tmp_path / "elsewhere")
    with pytest.raises(OnnxFileError, match=r"model\.onnx\.data, which cannot be read"):
        read_onnx(path)


def classifier(**changes) -> onnx.ModelProto:
    graph = GraphBuilder(channels=3)
    return graph.model(graph.gemm("fc", graph.conv("conv", "input", 4), 5), **changes)


def saved(tmp_path: Path, model: onnx.ModelProto) -> Path:
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_file_that_is_fit(tmp_path):
    source = read_onnx(saved(tmp_path, classifier()))
    assert (source.output_names, source.num_classes) == (("fc",), 5)
    assert (source.input_size, source.batch, source.opset) == ((8, 8), None, 17)


def test_weights_in_constant_nodes_are_counted(tmp_path):
    """As Paddle2ONNX writes them: no initializer at all."""
    model = classifier()
    known = read_onnx(saved(tmp_path, model)).num_parameters
    made = [onnx.helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer]
    nodes = [*made, *model.graph.node]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(nodes)
    assert read_onnx(saved(tmp_path, model)).num_parameters == known > 0


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip file", b"\x08\x07", b"import torch\n"])
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    with pytest.raises(OnnxFileError, match="is not an ONNX file"):
        read_onnx(path)


@pytest.mark.parametrize("share", [0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(share, tmp_path):
    path = saved(tmp_path, classifier())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(OnnxFileError):
        read_onnx(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(OnnxFileError, match="cannot be read: no such file"):
        read_onnx(tmp_path / "model.onnx")


def _input(dtype: int, *shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info("input", dtype, list(shape))


def with_input(dtype: int, *shape) -> onnx.ModelProto:
    model = classifier()
    model.graph.input[0].CopyFrom(_input(dtype, *shape))
    return model


def with_second_input() -> onnx.ModelProto:
    model = classifier()
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1]))
    return model


def with_second_output() -> onnx.ModelProto:
    model = classifier()
    model.graph.output.append(helper.make_tensor_value_info("conv", TensorProto.FLOAT, ["n", 4, 8, 8]))
    return model


def without_output() -> onnx.ModelProto:
    model = classifier()
    del model.graph.output[:]
    return model


def quantized() -> onnx.ModelProto:
    graph = GraphBuilder(channels=3)
    scale, zero = graph.constant("scale", np.float32(0.1)), graph.constant("zero", np.int8(0))
    x = graph.node("DequantizeLinear", "dq", graph.node("QuantizeLinear", "q", "input", scale, zero), scale, zero)
    graph.channels[x] = 3
    return graph.model(graph.gemm("fc", graph.conv("conv", x, 4), 5))


def foreign() -> onnx.ModelProto:
    model = classifier()
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    return model


def training() -> onnx.ModelProto:
    graph = GraphBuilder(channels=3)
    names = [graph.constant(f"c{place}", np.ones(3, np.float32)) for place in range(4)]
    graph.nodes.append(
        helper.make_node("BatchNormalization", ["input", *names], ["bn", "mean", "var"], name="bn", training_mode=1)
    )
    graph.channels["bn"] = 3
    return graph.model(graph.gemm("fc", graph.conv("conv", "bn", 4), 5))


def of_opset(version: int) -> onnx.ModelProto:
    model = classifier()
    model.opset_import[0].version = version
    return model


def half() -> onnx.ModelProto:
    model = classifier()
    for tensor in model.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    return model


REFUSED = {
    "uint8": (with_input(TensorProto.UINT8, "n", 3, 8, 8), "is uint8, expected float32; --input uint8 adds"),
    "three axes": (with_input(TensorProto.FLOAT, 3, 8, 8), "expected four axes"),
    "NHWC": (with_input(TensorProto.FLOAT, "n", 8, 8, 3), r"as \[N, C, H, W\] of 8 channels, but .* takes 3"),
    "grey": (with_input(TensorProto.FLOAT, "n", 1, 8, 8), "of 1 channels, but .* takes 3"),
    "two inputs": (with_second_input(), r"got 2 inputs \(input, mask\)"),
    "two outputs": (with_second_output(), r"got 2 outputs \(fc, conv\)"),
    "no output": (without_output(), "it has no output; expected one"),
    "quantized": (quantized(), "is quantized already"),
    "foreign": (foreign(), "domain 'com.microsoft'"),
    "training": (training(), "call model.eval"),
    "old": (of_opset(6), "got opset 6, expected 7 to"),
    "new": (of_opset(99), "got opset 99, expected 7 to"),
    "half": (half(), "of float16, first 'conv.weight', expected float32"),
}


@pytest.mark.parametrize(("model", "reason"), REFUSED.values(), ids=REFUSED)
def test_refusals(model, reason, tmp_path):
    with pytest.raises(OnnxFileError, match=reason):
        read_onnx(saved(tmp_path, model))


@pytest.mark.parametrize(
    ("kind", "batch"), [("GridSample", 1), ("GridSample", 4), ("Concat", 1), ("Concat", 4), ("Add", 4)]
)
def test_a_file_whose_constants_are_for_so_many_images(kind, batch, tmp_path):
    """It was no module: the node that keeps the batch is named, and what to do."""
    graph = GraphBuilder(channels=3)
    shape = (batch, 8, 8, 2) if kind == "GridSample" else (batch, 4, 8, 8)
    constant = graph.constant("kept", graph.random.uniform(-1, 1, shape).astype(np.float32))
    mixed = graph.node(
        kind, "mixed", graph.conv("conv", "input", 4), constant, **({"axis": 1} if kind == "Concat" else {})
    )
    graph.channels[mixed] = 8 if kind == "Concat" else 4
    graph.inputs[0].type.tensor_type.shape.dim[0].dim_value = batch
    path = saved(tmp_path, graph.model(graph.gemm("fc", mixed, 5), opset=17))
    told = rf"made for that many images: 'mixed' \({kind}\) with the constant 'kept' of shape .*with a dynamic batch"
    with pytest.raises(ExportError, match=rf"model\.onnx: .*got {batch}, expected 'batch'; the file is {told}"):
        export_loaded(load_model(ModelRequest(str(path))), ExportConfig())


def test_a_file_that_onnxruntime_does_not_load_is_named(tmp_path):
    """A weight of another shape than its layer's: the checker takes it."""
    model = classifier()
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == "fc.weight")
    weight.dims[:] = weight.dims[::-1]
    with pytest.raises(OnnxFileError, match=r"model\.onnx: ONNX Runtime does not load the model.*: export it anew"):
        load_model(ModelRequest(str(saved(tmp_path, model))))


@pytest.mark.parametrize("unknown", [-1, 0])
def test_sizes_that_are_no_sizes_are_dynamic_axes(unknown, tmp_path):
    """Some exporters write a dynamic batch as -1 or 0; ONNX Runtime runs it at any."""
    model = classifier()
    for info in (model.graph.input[0], model.graph.output[0]):
        info.type.tensor_type.shape.dim[0].dim_value = unknown
    source = read_onnx(saved(tmp_path, model))
    assert source.batch is None
    assert source.input_size == (8, 8)
    loaded = load_model(ModelRequest(str(saved(tmp_path, model))))
    export_and_check(loaded, np.random.default_rng(0).normal(size=(7, 3, 8, 8)).astype(np.float32))


@pytest.mark.parametrize("op_type", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("opset", [11, 12])
@pytest.mark.parametrize("names", ["node0 node1", "node node", " "])
def test_a_softmax_over_channels_of_old_opsets(op_type, opset, names, tmp_path):
    """It flattens from its axis on; the conversion writes that with nodes of its own, which have no names."""
    graph = GraphBuilder(channels=3)
    gated = graph.node("Mul", "mul", "input", graph.node(op_type, "gate", "input", axis=1))
    graph.channels[gated] = 3
    model = graph.model(graph.gemm("fc", graph.conv("conv", gated, 4), 5), opset=opset)
    for node, name in zip(model.graph.node, names.split(" "), strict=False):
        node.name = name
    exported, _ = export_and_check(
        load_model(ModelRequest(str(saved(tmp_path, model)))),
        np.random.default_rng(0).normal(size=(7, 3, 8, 8)).astype(np.float32),
    )
    counts = Counter(node.name for node in exported.onnx.graph.node)
    assert "" not in counts
    assert set(counts.values()) == {1}


def dropout() -> onnx.ModelProto:
    graph = GraphBuilder(channels=3)
    constants = graph.constant("ratio", np.float32(0.5)), graph.constant("training", np.array(True))
    graph.channels["drop"] = 3
    graph.node("Dropout", "drop", "input", *constants)
    graph.channels["drop"] = 3
    return graph.model(graph.gemm("fc", graph.conv("conv", "drop", 4), 5))


def test_dropout_in_training_mode_is_refused_by_name(tmp_path):
    with pytest.raises(OnnxFileError, match="'drop' is a Dropout in training mode"):
        read_onnx(saved(tmp_path, dropout()))


def test_an_output_that_is_no_vector_is_no_logits(tmp_path):
    graph = GraphBuilder(channels=3)
    source = read_onnx(saved(tmp_path, graph.model(graph.conv("conv", "input", 4))))
    assert not source.gives_logits
    assert source.output_names == ("conv",)
    assert source.output_shapes[0][0] == 4


def test_an_open_image_size_needs_the_option(tmp_path):
    path = saved(tmp_path, with_input(TensorProto.FLOAT, "n", 3, "h", "w"))
    with pytest.raises(OnnxFileError, match="give --input-size"):
        load_model(ModelRequest(str(path)))
    loaded = load_model(ModelRequest(str(path), preprocessing=PreprocessingOptions(input_size=16)))
    exported = export_loaded(loaded, ExportConfig())
    assert [dim.dim_value for dim in exported.onnx.graph.input[0].type.tensor_type.shape.dim[2:]] == [16, 16]


@pytest.mark.parametrize(
    ("request_", "reason"),
    [
        ({"weights": "random"}, "holds its weights"),
        ({"num_classes": 7}, "has 5 classes"),
        ({"preprocessing": PreprocessingOptions(input_size=16)}, "images of 8x8 only"),
        (
            {"preprocessing": PreprocessingOptions(resize=(16, 8))},
            "and --resize 16x8 alone .* say --resize 8x8",
        ),
    ],
)
def test_options_that_do_not_apply(request_, reason, tmp_path):
    path = saved(tmp_path, classifier())
    with pytest.raises(OnnxFileError, match=reason):
        load_model(ModelRequest(str(path), **request_))


def test_open_axes_are_shown_by_their_names(tmp_path):
    with pytest.raises(OnnxFileError, match=r"has shape \[n, c, h, w\], expected a fixed number of channels"):
        read_onnx(saved(tmp_path, with_input(TensorProto.FLOAT, "n", "c", "h", "w")))


def test_a_batch_that_cannot_be_freed_is_told(tmp_path):
    """The file adds a constant of its own batch: the axis cannot become symbolic."""
    graph = GraphBuilder(channels=3)
    noise = graph.constant("noise", np.ones((2, 5), np.float32))
    model = graph.model(graph.node("Add", "out", graph.gemm("fc", "input", 5), noise))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    loaded = load_model(ModelRequest(str(saved(tmp_path, model))))
    with pytest.raises(ExportError, match="batch"):
        export_and_check(loaded, np.zeros((1, 3, 8, 8), np.float32))


def test_names_of_files():
    assert parse_model("a/My Net.ONNX").source == ONNX_FILE
    assert parse_model("a/My Net.ONNX").model_id == "My_Net"


def test_a_constant_whose_data_does_not_fill_its_shape(tmp_path):
    """Found by mutated files: the checker accepts it, and reading it raised an error of NumPy's."""
    weight = onnx.helper.make_tensor("w", TensorProto.FLOAT, [4, 3, 1, 1], [0.0] * 12)
    del weight.dims[1]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["input", "w"], ["logits"])],
        "damaged",
        [onnx.helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 4, 8, 8])],
        [weight],
    )
    path = tmp_path / "damaged.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(OnnxFileError, match="constant 'w' of shape"):
        read_onnx(path)


def test_a_pipe_is_no_file(tmp_path):
    os.mkfifo(tmp_path / "model.onnx")
    with pytest.raises(OnnxFileError, match="pipe or device"):
        read_onnx(tmp_path / "model.onnx")


def test_a_tensor_of_terabytes_is_refused_by_its_shape(tmp_path):
    shape = onnx.helper.make_tensor("shape", TensorProto.INT64, [2], [1 << 20, 1 << 20])
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Flatten", ["input"], ["flat"]),
            onnx.helper.make_node("ConstantOfShape", ["shape"], ["big"]),
            onnx.helper.make_node("ReduceMax", ["big"], ["one"], keepdims=0),
            onnx.helper.make_node("Add", ["flat", "one"], ["logits"]),
        ],
        "bomb",
        [onnx.helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [onnx.helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", 192])],
        [shape],
    )
    path = tmp_path / "bomb.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    with pytest.raises(OnnxFileError, match="tensor 'big' would have shape"):
        read_onnx(path)


@pytest.mark.parametrize("opset", [11, 22])
def test_a_linear_layer_behind_a_pool_that_rounds_up(opset, tmp_path):
    """11 x 11 computed, 12 x 12 inferred by ONNX up to opset 21: the layer fits what is computed (17 loads nowhere)."""
    graph = GraphBuilder(channels=3, size=32)
    pool = graph.node("MaxPool", "pool", "input", kernel_shape=[3, 3], strides=[3, 3], pads=[1] * 4, ceil_mode=1)
    flat = graph.node("Flatten", "flat", pool, axis=1)
    weight = graph.constant("w", graph.random.normal(size=(3 * 121, 5)).astype(np.float32))
    bias = graph.constant("b", np.zeros(5, np.float32))
    graph.node("Gemm", "fc", flat, weight, bias)
    ends = [helper.make_tensor_value_info("fc", TensorProto.FLOAT, ["batch", 5])]
    made = helper.make_graph(graph.nodes, "pools", graph.inputs, ends, list(graph.initializers.values()))
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    exported, _ = export_and_check(
        load_model(ModelRequest(str(saved(tmp_path, model)))),
        np.random.default_rng(0).normal(size=(7, 3, 32, 32)).astype(np.float32),
    )
    assert tensor_shapes(exported.onnx)["pool"][2:] == (11, 11)
