"""keep_float: what stays in float, what becomes of the Q/DQ around it, and that the rest still fuses."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from graph_builder import GraphBuilder, make_resnet8
from onnx import ModelProto, numpy_helper

from calibration.errors import PlacementError
from calibration.methods.dialect import Dialect
from calibration.methods.effort import EFFORTS
from calibration.pipeline.quantize_model import insert_and_refine, quantize, scale_and_calibrate
from calibration.placement.for_tensorrt import KEPT, Reader, place_qdq
from calibration.placement.place import place
from calibration.qdq.insert_qdq import insert_qdq
from calibration.ranges.collect_ranges import calibrate
from exporter.graph.onnx_graph import with_outputs
from runtimes.ort.adapter import OrtRuntime

SEED = 20261126
DIALECTS = pytest.mark.parametrize("dialect", Dialect)
open_exact = partial(OrtRuntime, exact_qdq=True)


def run(model: ModelProto, images: np.ndarray) -> dict[str, np.ndarray]:
    with open_exact(model) as runtime:
        return runtime.run({"input": images})


def names_in(model: ModelProto, *prefixes: str) -> set[str]:
    return {node.name for node in model.graph.node if node.name.startswith(prefixes)}


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(SEED).normal(size=(16, 3, 32, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def resnet() -> ModelProto:
    """Stem, three stages of one block (the second and third with a projection), classifier."""
    return make_resnet8()


@pytest.fixture(scope="module")
def tables(resnet, images):
    return {dialect: calibrate(resnet, [images], open_runtime=OrtRuntime, dialect=dialect) for dialect in Dialect}


# Placement


def two_convolutions() -> GraphBuilder:
    graph = GraphBuilder()
    x = graph.node("Relu", "x", "input")
    conv2 = graph.conv("conv2", graph.node("Relu", "relu", graph.conv("conv1", x, 2)), 2)
    graph.node("Relu", "out", graph.node("Add", "add", conv2, x))
    return graph


def test_an_add_behind_a_float_convolution_needs_no_pair_on_its_shortcut():
    placement = place_qdq(two_convolutions().model("out"), {"conv2"})
    assert placement.activations == {"x": (Reader("conv1", 0),)}
    assert [weight.name for weight in placement.weights] == ["conv1.weight"]
    assert (placement.residual_adds, placement.num_adds) == ((), 1)
    assert placement.skipped == (
        f"conv2: {KEPT}",
        f"add: the convolution of its main path, conv2, is {KEPT}",
    )
    assert KEPT == "kept in float: asked for, or by the accuracy budget"


def test_an_add_behind_an_int8_convolution_keeps_its_pair():
    placement = place_qdq(two_convolutions().model("out"), {"conv1"})
    assert placement.activations == {"x": (Reader("add", 1),), "relu": (Reader("conv2", 0),)}
    assert len(placement.residual_adds) == 1


def test_an_add_can_be_named_itself():
    placement = place_qdq(two_convolutions().model("out"), {"add"})
    assert placement.activations == {"x": (Reader("conv1", 0),), "relu": (Reader("conv2", 0),)}
    assert placement.skipped == (f"add: {KEPT}",)


def test_a_node_that_nothing_quantizes_may_be_named():
    model = two_convolutions().model("out")
    assert place_qdq(model, {"relu", "out"}) == place_qdq(model)


@DIALECTS
def test_layers_that_share_a_weight_stay_in_float_together(dialect):
    graph = GraphBuilder(channels=3, size=32)
    first = graph.conv("first", "input", 3)
    second = graph.conv("second", graph.node("Relu", "relu", first), 3, weight="first.weight")
    model = graph.model(graph.conv("last", second, 2))
    placement = place(model, dialect, {"second"})
    assert [weight.name for weight in placement.weights] == ["last.weight"]
    assert f"first: its weight is that of second, which is {KEPT}" in placement.skipped


@DIALECTS
def test_an_unknown_name_is_refused_with_near_ones(resnet, tables, dialect):
    with pytest.raises(PlacementError, match=r"got 'layer1.0.conv3', expected .*; near: layer1.0.conv"):
        insert_qdq(resnet, tables[dialect], keep_float=["layer1.0.conv3"])
    with pytest.raises(PlacementError, match=r"got 'nonsense!', expected the name of a node of the model$"):
        place(resnet, dialect, ["nonsense!"])


@DIALECTS
def test_no_tensor_needs_a_range_that_the_whole_models_table_lacks(resnet, dialect):
    whole = place(resnet, dialect).activations
    for node in resnet.graph.node:
        kept = place(resnet, dialect, {node.name}).activations
        assert set(kept) <= set(whole), node.name


# Values


@DIALECTS
@pytest.mark.parametrize("effort", [0, 1])
def test_a_fully_kept_model_answers_like_the_float_model(resnet, images, dialect, effort):
    everything = [node.name for node in resnet.graph.node]
    result = quantize(
        resnet,
        [images],
        open_runtime=OrtRuntime,
        open_exact=open_exact,
        dialect=dialect,
        effort=EFFORTS[effort],
        keep_float=everything,
    )
    assert not any(node.op_type.endswith("Linear") for node in result.quantized.model.graph.node)
    assert (result.quantized.placement.weights, result.refinement) == ((), ())
    expected, got = run(resnet, images)["logits"], run(result.quantized.model, images)["logits"]
    if effort == 0:
        assert np.array_equal(got, expected)
    else:  # channels were scaled and scaled back, in float32
        assert np.abs(got - expected).max() < 1e-5 * np.abs(expected).max()


@DIALECTS
def test_what_comes_before_the_first_int8_layer_is_exactly_the_float_models(resnet, tables, images, dialect):
    kept = names_in(resnet, "conv1", "relu", "layer1.")
    quantized = insert_qdq(resnet, tables[dialect], keep_float=kept).model
    float_tensors = [node.output[0] for node in resnet.graph.node if node.name in kept]
    probe = "layer2.0.conv1"
    expected = run(with_outputs(resnet, [*float_tensors, probe]), images)
    got = run(with_outputs(quantized, [*float_tensors, probe]), images)
    for name in float_tensors:
        assert np.array_equal(got[name], expected[name]), name
    assert not np.array_equal(got[probe], expected[probe])


@DIALECTS
def test_constants_of_kept_layers_are_untouched_and_the_others_are_integers(resnet, tables, dialect):
    kept = names_in(resnet, "layer2.")
    before = {tensor.name: numpy_helper.to_array(tensor) for tensor in resnet.graph.initializer}
    quantized = insert_qdq(resnet, tables[dialect], keep_float=kept).model
    after = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    nodes = {node.name: node for node in quantized.graph.node}
    for node in resnet.graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        if node.name in kept:
            assert list(nodes[node.name].input[1:]) == list(node.input[1:])
            for name in node.input[1:]:
                assert np.array_equal(after[name], before[name])
        else:
            assert after[node.input[1]].dtype == np.int8


def test_leaving_out_one_layer_again_calibrates_no_second_time(resnet, images):
    """`insert_and_refine` gives what `quantize` gives, from the same calibrated model, any number of times."""
    calibrated = scale_and_calibrate(resnet, [images], open_runtime=OrtRuntime)
    whole = insert_and_refine(calibrated, open_exact=open_exact)
    part = insert_and_refine(calibrated, open_exact=open_exact, keep_float=["layer1.0.conv2"])
    again = insert_and_refine(calibrated, open_exact=open_exact)
    direct = quantize(resnet, [images], open_runtime=OrtRuntime, open_exact=open_exact, keep_float=["layer1.0.conv2"])
    assert whole.quantized.model == again.quantized.model
    assert part.quantized.model == direct.quantized.model
    assert {layer.name for layer in whole.refinement} - {layer.name for layer in part.refinement} == {"layer1.0.conv2"}


# What runtimes make of it


def test_onnx_runtime_runs_the_rest_in_integers(resnet, tables, tmp_path):
    """Only what was kept runs in float: the block's two convolutions and its Add; pairs around it cost no kernel."""
    kernels = {}
    for name, kept in (("whole", set()), ("part", names_in(resnet, "layer1."))):
        model = insert_qdq(resnet, tables[Dialect.ONNXRUNTIME], keep_float=kept).model
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(tmp_path / f"{name}.onnx")
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        kernels[name] = Counter(node.op_type for node in onnx.load(tmp_path / f"{name}.onnx").graph.node)
    whole, part = kernels["whole"], kernels["part"]
    assert (whole["QLinearConv"], whole["QLinearAdd"], whole["Conv"] + whole["FusedConv"]) == (9, 3, 0)
    assert (part["QLinearConv"], part["QLinearAdd"], part["Conv"] + part["FusedConv"]) == (7, 2, 2)
    assert part["Add"] <= 1  # 0 where ONNX Runtime merges it with a convolution
    assert part["QGemm"] == whole["QGemm"] == 1


@pytest.mark.tensorrt
@pytest.mark.parametrize(
    "kept",
    [("layer1.", "fc"), ("layer2.0.conv2",), ("layer2.0.conv1", "layer3.0.conv1"), ("conv1", "layer3.")],
    ids=["block and classifier", "main path", "first convolutions", "stem and block"],
)
def test_tensorrt_rtx_builds_a_half_kept_resnet(resnet, images, tmp_path: Path, kept):
    pytest.importorskip("tensorrt_rtx", reason="the TensorRT-RTX builder is not installed")
    from exporter.engines.build import build_engine
    from exporter.engines.build_options import BuildOptions
    from runtimes.bundle.manifest import BatchRange

    result = quantize(
        resnet, [images], open_runtime=OrtRuntime, open_exact=open_exact, keep_float=names_in(resnet, *kept)
    )
    path = tmp_path / "model.int8.onnx"
    onnx.save(result.quantized.model, path)
    assert len(build_engine(path, options=BuildOptions(batch=BatchRange(1, 2, 2)), flavor="rtx")) > 1000
