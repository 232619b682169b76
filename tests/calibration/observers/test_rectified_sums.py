"""What a rectifier lets pass of a sum: the same answers, and tensors against NumPy on what the whole model computes."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from graph_builder import GraphBuilder, make_resnet8
from numpy.testing import assert_allclose, assert_array_equal
from onnx import ModelProto
from onnx.reference import ReferenceEvaluator

from calibration import insert_qdq
from calibration.errors import NonFiniteActivationError
from calibration.methods.builtin_methods import Max
from calibration.methods.dialect import Dialect
from calibration.observers.observe_batches import observe_batches
from calibration.observers.rectified_sums import keep_what_passes
from calibration.ranges.collect_ranges import calibrate
from exporter.graph.onnx_graph import copy_model, with_outputs
from runtimes.ort.adapter import OrtRuntime

SEED = 20261201


def images_of(model: ModelProto, count: int = 3) -> np.ndarray:
    shape = [dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim[1:]]
    return np.random.default_rng(SEED).normal(size=(count, *shape)).astype(np.float32)


def values(model: ModelProto, names: list[str], images: np.ndarray) -> dict[str, np.ndarray]:
    tapped = with_outputs(model, names)
    outputs = [info.name for info in tapped.graph.output]
    return dict(zip(outputs, ReferenceEvaluator(tapped).run(None, {"input": images}), strict=True))


def what_passes(added: np.ndarray, other: np.ndarray, high: float = np.inf) -> np.ndarray:
    """Return, place by place, a value that gives the same sum behind a rectifier: nearer to 0 where it may be."""
    total = added + other
    too_low = np.where(added > 0, added, np.minimum(0, -other))
    too_high = np.where(added < 0, added, np.maximum(0, high - other))
    return np.where(total <= 0, too_low, np.where(total >= high, too_high, added))


def block(rectifier: str = "Relu", *, opset: int = 17) -> ModelProto:
    """A block with a projection: `main` and `shortcut` are added, a rectifier follows, `last` reads it."""
    build = GraphBuilder()
    build.conv("main", build.node("Relu", "first.relu", build.conv("first", "input", 4)), 4)
    build.conv("shortcut", "input", 4, kernel=1)
    build.node("Add", "sum", "main", "shortcut")
    if rectifier == "Clip":
        limits = (build.constant("low", np.float32(0)), build.constant("high", np.float32(0.5)))
        build.node("Clip", "relu", "sum", *limits)
    else:
        build.node(rectifier, "relu", "sum")
    build.conv("last", "relu", 2)
    return build.model("last", opset=opset)


@pytest.mark.parametrize("opset", [13, 17, 20])
def test_both_that_are_added_hold_what_passes(opset) -> None:
    model = block(opset=opset)
    cut = copy_model(model)
    assert keep_what_passes(cut, ["main", "shortcut"]).keys() == {"main", "shortcut"}
    images = images_of(model)
    before, after = (values(each, ["main", "shortcut"], images) for each in (model, cut))
    assert_array_equal(after["last"], before["last"])
    for name, other in (("main", "shortcut"), ("shortcut", "main")):
        assert_allclose(after[name], what_passes(before[name], before[other]), atol=1e-6)
        assert after[name].min() > before[name].min() + 0.1  # it does reach less far down
        assert after[name].max() <= before[name].max() + 1e-6


def test_a_rectifier_with_an_upper_limit_cuts_at_both_ends() -> None:
    model = block("Clip")
    cut = copy_model(model)
    keep_what_passes(cut, ["main"])
    images = images_of(model)
    before, after = (values(each, ["main", "shortcut"], images) for each in (model, cut))
    assert_array_equal(after["last"], before["last"])
    assert_allclose(after["main"], what_passes(before["main"], before["shortcut"], 0.5), atol=1e-6)
    assert_array_equal(after["shortcut"], before["shortcut"])


def test_a_network_answers_the_same_bit_for_bit() -> None:
    model = make_resnet8()
    cut = copy_model(model)
    made = [node.output[0] for node in model.graph.node]
    assert len(keep_what_passes(cut, made)) == 5  # three last convolutions of a block, two projections
    images = images_of(model)
    for name, array in values(model, [], images).items():
        assert_array_equal(values(cut, [], images)[name], array)


@pytest.mark.parametrize(
    "kind", ["no rectifier", "sum is read twice", "sum is an output", "added is read twice", "bias", "itself", "leaky"]
)
def test_what_something_else_needs_is_left_as_it_is(kind) -> None:
    build = GraphBuilder()
    build.conv("main", "input", 4)
    build.conv("shortcut", "input", 4, kernel=1)
    other = {"bias": build.constant("row", np.ones((1, 4, 1, 1), np.float32)), "itself": "main"}.get(kind, "shortcut")
    build.node("Add", "sum", "main", other)
    operator = {"no rectifier": "Sigmoid", "leaky": "LeakyRelu"}.get(kind, "Relu")
    outputs = [build.conv("last", build.node(operator, "relu", "sum"), 2)]
    if kind == "sum is read twice":
        outputs.append(build.conv("beside", "sum", 2))
    if kind == "sum is an output":
        outputs.append("sum")
    if kind == "added is read twice":
        outputs += [build.conv("beside", "main", 2), build.conv("also", "shortcut", 2)]
    if kind in ("bias", "itself"):
        outputs.append(build.conv("beside", "shortcut", 2))
    model = build.model(*outputs)
    cut = copy_model(model)
    assert keep_what_passes(cut, ["main", "shortcut"]) == {}
    assert cut.SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize("size", [8, 96])  # tensors that come out as they are, and ones reduced inside the session
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_what_the_rectifier_would_hide_is_still_found(bad, size) -> None:
    """-Inf in what is added passes as a number: the whole tensor is what has to be finite."""
    build = GraphBuilder(size=size)
    build.node(
        "Add", "main", build.conv("first", "input", 4), build.constant("bad", np.float32([[[bad]], *[[[0]]] * 3]))
    )
    build.conv("shortcut", "input", 4, kernel=1)
    build.conv("last", build.node("Relu", "relu", build.node("Add", "sum", "main", "shortcut")), 2)
    model = build.model("last")
    with pytest.raises(NonFiniteActivationError, match="'main'"):
        list(observe_batches(model, ["main"], [images_of(model)], open_runtime=OrtRuntime))


@pytest.mark.parametrize("dialect", list(Dialect))
def test_ranges_are_of_what_passes(dialect) -> None:
    model = block()
    images = images_of(model, 8)
    found = values(model, ["main", "shortcut"], images)
    table = calibrate(model, [images], open_runtime=OrtRuntime, method=Max(), dialect=dialect)
    added = {"main", "shortcut"} & table.ranges.keys()
    assert added == ({"main", "shortcut"} if dialect is Dialect.ONNXRUNTIME else {"shortcut"})
    for name in added:
        passes = what_passes(found[name], found["shortcut" if name == "main" else "main"])
        assert table.ranges[name].amax == pytest.approx(np.abs(passes).max(), abs=1e-6)


def test_a_branch_that_is_mostly_cut_away_loses_less() -> None:
    """A main path that reaches down to -200, where the sum is 0 whatever it is; its weights are levels."""
    build = GraphBuilder(size=16)
    positive = build.node("Relu", "positive", "input")
    deep = build.constant("deep", np.float32([1.0, -63.5]).reshape(1, 2, 1, 1))
    first = build.constant("first", np.float32([1.0, 0.0]).reshape(1, 2, 1, 1))
    build.node("Conv", "main", positive, deep)
    build.node("Relu", "shortcut", build.node("Conv", "side", positive, first))
    build.node("Relu", "relu", build.node("Add", "sum", "main", "shortcut"))
    build.node("Conv", "last", "relu", build.constant("one", np.ones((1, 1, 1, 1), np.float32)))
    model = build.model("last", opset=19)
    images = images_of(model, 8)
    images[:, 1] = np.where(images[:, 1] > 0, 3.0, 0.0)
    expected = values(model, [], images)["last"]
    table = calibrate(model, [images], open_runtime=OrtRuntime, method=Max(), dialect=Dialect.ONNXRUNTIME)
    kept = table.ranges["main"]
    lowest = float(values(model, ["main"], images)["main"].min())
    width = kept.max_value - lowest
    whole = dataclasses.replace(
        kept,
        amax=max(-lowest, kept.max_value),
        scale=float(np.float32(width / 255)),
        min_value=lowest,
        zero_point=round(-lowest / width * 255),
    )
    errors = []
    for ranges in (table.ranges, {**table.ranges, "main": whole}):
        quantized = insert_qdq(model, dataclasses.replace(table, ranges=ranges)).model
        errors.append(float(np.square(values(quantized, [], images)["last"] - expected).mean()))
    assert errors[0] < errors[1] / 20, errors
