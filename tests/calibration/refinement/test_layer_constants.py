"""LayerConstants: what a layer's constants take, and what is left alone because the edit would do something else."""

from __future__ import annotations

import numpy as np
import pytest
from graph_builder import GraphBuilder
from numpy.testing import assert_allclose, assert_array_equal
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from calibration.methods.dialect import Dialect
from calibration.methods.quantize_bias import BIAS_QMAX
from calibration.placement.place import place
from calibration.qdq.insert_qdq import insert_qdq
from calibration.ranges.calibration_table import CalibrationTable, TensorRange
from calibration.refinement.layer_constants import LayerConstants
from runtimes.ort.adapter import OrtRuntime

WANTED = np.array([0.5, -0.25, 0.125])


def quantized_from(model: ModelProto, dialect: Dialect = Dialect.TENSORRT) -> ModelProto:
    kind = {Dialect.TENSORRT: ("int8", 0), Dialect.ONNXRUNTIME: ("uint8", 128)}[dialect]
    kept = TensorRange(4.0, 2.0**-5, 4.0, kind[1], kind[0])
    ranges = dict.fromkeys(place(model, dialect).activations, kept)
    return insert_qdq(model, CalibrationTable(ranges, {"name": "max"}, 1, (), (), dialect=dialect)).model


def node_of(model: ModelProto, name: str) -> NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def constant(model: ModelProto, name: str) -> np.ndarray:
    return next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == name)


def output(model: ModelProto) -> np.ndarray:
    images = np.random.default_rng(0).normal(size=(2, 2, 8, 8)).astype(np.float32)
    with OrtRuntime(model, exact_qdq=True) as runtime:
        (values,) = runtime.run({"input": images}).values()
    return values


def builder(kind: str) -> GraphBuilder:
    build = GraphBuilder()
    if kind.startswith("conv"):
        build.conv("layer", "input", 3)
    else:
        build.gemm("layer", "input", 3, transB=1)
    if kind.endswith("no bias"):
        del build.initializers["layer.bias"]
        del build.nodes[-1].input[2:]
    return build


def assert_added(model: ModelProto, *, step: float = 0.0) -> np.ndarray:
    """Add WANTED to the layer's bias; the outputs must show exactly what the constants say they took."""
    before = output(model)
    constants = LayerConstants(model.graph)
    assert constants.takes_bias(node_of(model, "layer"), len(WANTED))
    applied = constants.add_to_bias(node_of(model, "layer"), WANTED)
    shape = (3, 1, 1) if before.ndim == 4 else (3,)
    assert_allclose(output(model), before + applied.reshape(shape), atol=2e-6)
    assert np.abs(applied - WANTED).max() <= max(step / 2, 1e-7)
    return applied


@pytest.mark.parametrize("kind", ["conv", "conv, no bias", "gemm", "gemm, no bias"])
@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_bias_takes_what_is_added(kind: str, dialect: Dialect) -> None:
    model = quantized_from(builder(kind).model("layer"), dialect)
    layer = node_of(model, "layer")
    whole_steps = len(layer.input) > 2 and layer.input[2].endswith(".dequantized")
    assert_added(model, step=float(constant(model, "layer.bias.scale").max()) if whole_steps else 0.0)


def test_an_integer_bias_takes_whole_steps() -> None:
    model = quantized_from(_behind_a_relu(builder("conv")), Dialect.ONNXRUNTIME)
    scale = constant(model, "layer.bias.scale").astype(np.float64)
    before = constant(model, "layer.bias")
    applied = LayerConstants(model.graph).add_to_bias(node_of(model, "layer"), WANTED)
    after = constant(model, "layer.bias")
    assert after.dtype == np.int32
    assert_array_equal(after, before + np.rint(WANTED / scale).astype(int))
    assert_allclose(applied, np.rint(WANTED / scale) * scale)


def _behind_a_relu(build: GraphBuilder) -> ModelProto:
    build.node("Relu", "relu", "layer")
    build.channels["relu"] = 3
    build.conv("next", "relu", 2)
    return build.model("next")


def test_an_integer_bias_stays_where_its_sum_has_room() -> None:
    model = quantized_from(_behind_a_relu(builder("conv")), Dialect.ONNXRUNTIME)
    before = constant(model, "layer.bias").astype(np.float64)
    scale = constant(model, "layer.bias.scale").astype(np.float64)
    applied = LayerConstants(model.graph).add_to_bias(node_of(model, "layer"), np.array([1e30, -1e300, np.inf]))
    assert_array_equal(constant(model, "layer.bias"), [BIAS_QMAX, -BIAS_QMAX, BIAS_QMAX])
    assert_allclose(applied, (np.array([1, -1, 1]) * BIAS_QMAX - before) * scale)


def test_what_a_float32_bias_cannot_hold_is_not_claimed() -> None:
    model = quantized_from(builder("conv").model("layer"))
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "layer.bias")
    bias.CopyFrom(numpy_helper.from_array(np.float32([1e6, 1e6, 1e6]), "layer.bias"))
    applied = LayerConstants(model.graph).add_to_bias(node_of(model, "layer"), np.array([1e-3, 0.04, 1.0]))
    assert_array_equal(applied, [0.0, 0.0625, 1.0])


def matmul(*, bias: tuple[int, ...] = (3,), swapped: bool = False) -> ModelProto:
    """A MatMul with an INT8 weight, and an Add behind it."""
    build = GraphBuilder()
    build.node("Flatten", "flat", build.node("GlobalAveragePool", "pool", "input"), axis=1)
    build.constant("w", build.random.integers(-127, 128, (2, 3)).astype(np.int8))
    build.constant("w.scale", np.float32([0.01, 0.02, 0.03]))
    build.constant("w.zero", np.zeros(3, np.int8))
    build.node("DequantizeLinear", "w.dequantized", "w", "w.scale", "w.zero", axis=1)
    build.node("MatMul", "layer", "flat", "w.dequantized")
    build.constant("offset", np.ones(bias, np.float32))
    build.node("Add", "add", *(("offset", "layer") if swapped else ("layer", "offset")))
    return build.model("add")


@pytest.mark.parametrize("swapped", [False, True])
def test_a_matmul_is_corrected_in_the_add_behind_it(swapped: bool) -> None:
    model = matmul(swapped=swapped)
    before = output(model)
    applied = LayerConstants(model.graph).add_to_bias(node_of(model, "layer"), WANTED)
    assert_array_equal(applied, WANTED)
    assert_allclose(output(model), before + WANTED, atol=1e-6)


def nothing_is_added(model: ModelProto) -> bool:
    before = model.SerializeToString(deterministic=True)
    constants = LayerConstants(model.graph)
    could = constants.takes_bias(node_of(model, "layer"), len(WANTED))
    applied = constants.add_to_bias(node_of(model, "layer"), WANTED)
    assert could == applied.any()
    return not applied.any() and model.SerializeToString(deterministic=True) == before


def test_a_matmul_without_a_constant_of_its_own_is_left_alone() -> None:
    assert nothing_is_added(matmul(bias=(1,)))
    read_twice = matmul()
    read_twice.graph.node.append(helper.make_node("Relu", ["layer"], ["second"], name="second"))
    assert nothing_is_added(read_twice)
    shared = matmul()
    shared.graph.node.append(helper.make_node("Relu", ["offset"], ["second"], name="second"))
    assert nothing_is_added(shared)


@pytest.mark.parametrize("dialect", list(Dialect))
def test_a_shared_bias_is_left_alone(dialect: Dialect) -> None:
    build = builder("conv")
    build.conv("other", "input", 3)
    build.nodes[-1].input[2] = "layer.bias"
    model = quantized_from(build.model("layer", "other"), dialect)
    layer = node_of(model, "layer")
    own = layer.input[2].endswith(".dequantized")  # ONNX Runtime's dialect gives each layer a bias of its own
    assert nothing_is_added(model) != own


def test_a_bias_that_is_an_output_is_left_alone() -> None:
    model = quantized_from(builder("conv").model("layer"))
    model.graph.output.append(helper.make_tensor_value_info("layer.bias", TensorProto.FLOAT, [3]))
    assert nothing_is_added(model)


def test_a_bias_that_is_computed_is_left_alone() -> None:
    model = quantized_from(builder("conv").model("layer"))
    model.graph.node.insert(0, helper.make_node("Neg", ["layer.bias"], ["negated"], name="negated"))
    node_of(model, "layer").input[2] = "negated"
    assert nothing_is_added(model)


def test_an_integer_bias_behind_two_dequantizelinear_is_left_alone() -> None:
    model = quantized_from(_behind_a_relu(builder("conv")), Dialect.ONNXRUNTIME)
    again = helper.make_node("DequantizeLinear", ["layer.bias", "layer.bias.scale"], ["second"], name="second", axis=0)
    model.graph.node.append(again)
    assert nothing_is_added(model)


def test_a_gemm_with_beta_is_left_alone() -> None:
    build = GraphBuilder()
    build.gemm("layer", "input", 3, beta=0.5)
    assert nothing_is_added(quantized_from(build.model("layer")))


def test_a_gemm_whose_bias_broadcasts_is_left_alone() -> None:
    build = GraphBuilder()
    build.gemm("layer", "input", 3)
    build.constant("layer.bias", np.ones((1, 3), np.float32))
    assert nothing_is_added(quantized_from(build.model("layer")))


def test_a_new_bias_gets_a_name_of_its_own() -> None:
    build = builder("conv, no bias")
    build.constant("layer.bias", np.float32([1.0]))
    build.node("Add", "add", "layer", "layer.bias")
    model = quantized_from(build.model("add"))
    before = output(model)
    constants = LayerConstants(model.graph)
    for _ in range(2):  # the second time it is there
        applied = constants.add_to_bias(node_of(model, "layer"), WANTED)
        assert_array_equal(applied, WANTED)
    assert_allclose(output(model), before + 2 * WANTED.reshape(3, 1, 1), atol=1e-6)
    assert node_of(model, "layer").input[2] == "layer.bias_corrected"


def test_levels_are_read_and_written() -> None:
    model = quantized_from(builder("gemm").model("layer"))
    constants = LayerConstants(model.graph)
    weight = constants.weight(node_of(model, "layer"))
    assert weight is not None
    assert (weight.name, weight.levels.dtype, weight.levels.shape) == ("layer.weight", np.int8, (3, 2))
    assert_array_equal(weight.scale, constant(model, "layer.weight.scale"))
    constants.set_levels(weight.name, -weight.levels)
    assert_array_equal(constant(model, "layer.weight"), -weight.levels)


def test_a_shared_weight_is_not_handed_out() -> None:
    build = builder("conv")
    build.conv("other", "input", 3, weight="layer.weight")
    model = quantized_from(build.model("layer", "other"))
    assert LayerConstants(model.graph).weight(node_of(model, "layer")) is None


def test_a_weight_with_one_scale_is_not_handed_out() -> None:
    model = quantized_from(builder("conv").model("layer"))
    scale = next(tensor for tensor in model.graph.initializer if tensor.name == "layer.weight.scale")
    scale.CopyFrom(numpy_helper.from_array(np.float32(0.1), "layer.weight.scale"))
    assert LayerConstants(model.graph).weight(node_of(model, "layer")) is None
