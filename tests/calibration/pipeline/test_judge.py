"""A further step stays only where images that made neither model say so."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from graph_builder import GraphBuilder
from numpy.testing import assert_array_equal
from onnx import ModelProto, TensorProto, numpy_helper

from calibration.methods.dialect import Dialect
from calibration.methods.effort import steps_of
from calibration.observers.sampled_positions import MAX_ANSWERS, sampled_answers
from calibration.pipeline import judge as judge_module
from calibration.pipeline import quantize_model
from calibration.pipeline.judge import MAX_JUDGES, MIN_JUDGES, JudgeBatch, Judgement, judge
from calibration.pipeline.quantize_model import QuantizationResult, quantize, scale_and_calibrate
from calibration.pipeline.refinement_sample import MAX_SAMPLE
from calibration.qdq.insert_qdq import insert_qdq
from calibration.refinement import refine as refine_module
from calibration.refinement import round_layer as round_layer_module
from calibration.refinement.refine import RefinedModel, refine
from runtimes.ort.adapter import OrtRuntime
from runtimes.protocol import Runtime

open_exact = partial(OrtRuntime, exact_qdq=True)


def noise(count: int, size: int = 8) -> np.ndarray:
    return np.random.default_rng(20261129).normal(size=(count, 2, size, size)).astype(np.float32)


@pytest.fixture(autouse=True)
def narrow_layers_are_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A layer is wide from a tenth of the columns on; all else is as with wide layers, rounding in two parts, too."""
    limit_columns(monkeypatch, "WIDEST", 115)


def limit_columns(monkeypatch: pytest.MonkeyPatch, name: str, columns: int) -> None:
    for module in (refine_module, round_layer_module):
        monkeypatch.setattr(module, name, columns)


def wide() -> ModelProto:
    """A convolution, and one of 3 x 3 x 16 = 144 columns."""
    build = GraphBuilder()
    build.node("Relu", "relu", build.conv("narrow", "input", 16))
    build.conv("wide", "relu", 4)
    return build.model("wide")


def wide_within() -> ModelProto:
    """The same with layers behind the wide one, one of them as wide."""
    build = GraphBuilder()
    build.node("Relu", "relu", build.conv("narrow", "input", 16))
    build.node("Relu", "relu2", build.conv("wide", "relu", 16))
    build.node("Relu", "relu3", build.conv("point", "relu2", 16, kernel=1))
    return build.model(build.conv("last", "relu3", 4))


def run(model: ModelProto, images: np.ndarray, effort: int, **options: Any) -> QuantizationResult:
    steps = steps_of(effort, "pads")  # what efforts 1 and 2 do differently beside wide layers
    return quantize(model, [images], open_runtime=OrtRuntime, open_exact=open_exact, effort=steps, **options)


def figures(sqnr_db: float | None, kl: float, agreement: float) -> SimpleNamespace:
    return SimpleNamespace(sqnr_db=sqnr_db, kl=kl, agreement=agreement)


@pytest.mark.parametrize(
    ("without", "with_step", "helps"),
    [
        ((30.0, 0.01, 0.99), (31.0, 0.01, 0.99), True),
        ((30.0, 0.01, 0.99), (31.0, 0.005, 1.0), True),
        ((30.0, 0.01, 0.99), (None, 0.0, 1.0), True),
        ((30.0, 0.01, 0.99), (30.0, 0.01, 0.99), False),
        ((30.0, 0.01, 0.99), (31.0, 0.011, 0.99), False),
        ((30.0, 0.01, 0.99), (31.0, 0.01, 0.98), False),
        ((None, 0.0, 1.0), (None, 0.0, 1.0), False),
        ((None, 0.0, 1.0), (90.0, 0.0, 1.0), False),
    ],
)
def test_a_step_must_win_and_lose_nowhere(without, with_step, helps: bool) -> None:
    assert Judgement(figures(*without), figures(*with_step)).helps == helps


def refined_pair(model: ModelProto, images: np.ndarray) -> tuple[RefinedModel, RefinedModel]:
    """The model refined without its wide layers, and with them."""
    steps = steps_of(2, "pads")
    calibrated = scale_and_calibrate(model, [images], open_runtime=OrtRuntime, effort=steps)
    plain = insert_qdq(calibrated.model, calibrated.table).model
    without, with_step = refine(
        calibrated.model,
        plain,
        calibrated.sample,
        open_runtime=open_exact,
        effort=steps,
        also_thorough=True,
    )
    assert with_step is not None
    return without, with_step


def answers(model: ModelProto, images: np.ndarray, opened: Callable[[ModelProto], Runtime]) -> np.ndarray:
    with opened(model) as runtime:
        return next(iter(runtime.run({"input": images}).values())).reshape(len(images), -1)


@pytest.fixture
def counted() -> Iterator[tuple[Callable[[ModelProto], Any], list[int]]]:
    """An `open_exact` that refuses a second session beside an open one; and the weights of each that was opened."""
    open_now: list[ModelProto] = []
    opened: list[int] = []

    @contextmanager
    def once(model: ModelProto) -> Iterator[Runtime]:
        assert not open_now
        open_now.append(model)
        weights = (tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.INT8)
        opened.append(sum(math.prod(tensor.dims) for tensor in weights if len(tensor.dims) == 4))
        with open_exact(model) as runtime:
            yield runtime
        open_now.clear()

    return once, opened


@pytest.mark.parametrize("max_weights", [10, 1000, 4 * 2**20])
@pytest.mark.parametrize("block_layers", [1, 4])
def test_the_figures_are_those_of_the_models(
    monkeypatch: pytest.MonkeyPatch, counted: Any, max_weights: int, block_layers: int
) -> None:
    """However the models are cut: what whole sessions answer, compared by hand."""
    monkeypatch.setattr(judge_module, "MAX_WEIGHTS", max_weights)
    monkeypatch.setattr(judge_module, "BLOCK_LAYERS", block_layers)
    open_once, opened = counted
    model, images = wide_within(), noise(200)
    pair = refined_pair(model, images[:100])
    reference = answers(model, images[100:], OrtRuntime)
    batches = [
        JudgeBatch(batch, logits)
        for batch, logits in zip(*(np.split(each, [50, 70]) for each in (images[100:], reference)), strict=True)
    ]
    found = judge(model, *pair, batches, open_exact=open_once)
    for comparison, refined in zip((found.without, found.with_step), pair, strict=True):
        error = answers(refined.model, images[100:], open_exact) - reference
        expected = 10 * np.log10(np.sum(np.square(reference, dtype=float)) / np.sum(np.square(error, dtype=float)))
        assert comparison.sqnr_db == pytest.approx(expected, abs=1e-3)
        assert comparison.num_images == 100
    assert found.without.sqnr_db != found.with_step.sqnr_db
    narrow, *others = (math.prod(tensor.dims) for tensor in model.graph.initializer if len(tensor.dims) == 4)
    assert max(opened) <= max(max_weights, *others)
    # A block of one layer is left at the wide one; of four, before the first, where the image is all that is alive.
    assert sum(opened) == 2 * sum(others) + narrow * (1 if block_layers == 1 else 2)


def test_answers_of_any_size_are_kept_in_part() -> None:
    small, large = np.arange(6.0).reshape(2, 3), np.zeros((2, 21, 520, 520), np.float32)
    assert np.array_equal(sampled_answers(small), small)
    kept = sampled_answers(large)
    assert kept.shape[0] == 2
    assert MAX_ANSWERS <= kept.shape[1] < 2 * MAX_ANSWERS


@pytest.mark.parametrize("dialect", list(Dialect))
def test_both_copies_share_the_way_to_the_first_wide_layer(monkeypatch: pytest.MonkeyPatch, dialect: Dialect) -> None:
    """Each is what a walk of its own gives, byte for byte."""
    better, worse = figures(31.0, 0.01, 1.0), figures(30.0, 0.02, 0.9)

    def chosen(effort: int, judgement: Judgement) -> bytes:
        monkeypatch.setattr(quantize_model, "judge", lambda *_, **__: judgement)
        result = run(wide_within(), noise(MAX_SAMPLE + MIN_JUDGES), effort, dialect=dialect)
        return result.quantized.model.SerializeToString(True)

    plain, thorough = chosen(2, Judgement(better, worse)), chosen(2, Judgement(worse, better))
    assert plain == chosen(1, Judgement(worse, better)) != thorough
    monkeypatch.setattr(refine_module, "_Copy", partial(refine_module._Copy, thorough=True))
    assert thorough == chosen(1, Judgement(better, worse))


def test_levels_of_layers_of_many_columns_are_found_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those behind a wide one, too: the second copy takes the first one's."""
    images = noise(100)
    limit_columns(monkeypatch, "SELDOM_FITTED", 10)
    rounded: list[str] = []
    whole = refine_module.round_layer
    monkeypatch.setattr(
        refine_module,
        "round_layer",
        lambda node, *args, **named: rounded.append(node.name) or whole(node, *args, **named),
    )
    pair = refined_pair(wide_within(), images)
    assert rounded == ["narrow", "wide", "point", "last"]
    levels = [
        numpy_helper.to_array(next(tensor for tensor in copy.model.graph.initializer if tensor.dims == [16, 16, 1, 1]))
        for copy in pair
    ]
    assert_array_equal(*levels)
    assert [layer.num_rounded for layer in pair[0].layers][2] == [layer.num_rounded for layer in pair[1].layers][2] > 0


def test_a_wide_layer_in_float_is_nothing_to_judge() -> None:
    result = run(wide(), noise(MAX_SAMPLE + MIN_JUDGES), 2, keep_float=["wide"])
    assert result.wide_layers is None
    assert result.unjudged == ()


@pytest.mark.parametrize("helps", [True, False])
def test_effort_2_is_effort_1_but_where_it_helps(monkeypatch: pytest.MonkeyPatch, helps: bool) -> None:
    images = noise(MAX_SAMPLE + MIN_JUDGES)
    seen = []

    def as_told(reference, without, with_step, judges, *, open_exact) -> Judgement:
        seen.append(np.concatenate([batch.images for batch in judges]))
        better, worse = figures(31.0, 0.01, 1.0), figures(30.0, 0.02, 0.9)
        return Judgement(worse, better) if helps else Judgement(better, worse)

    monkeypatch.setattr(quantize_model, "judge", as_told)
    one, two = (run(wide(), images, effort) for effort in (1, 2))
    assert np.array_equal(seen[0], images[MAX_SAMPLE:]), "images that refinement has not seen"
    assert len(seen) == 1, "effort 1 has nothing to judge"
    assert one.wide_layers is None
    assert two.wide_layers is not None
    assert two.unjudged == ()
    assert two.wide_layers.helps == helps
    rounded = [[layer.num_rounded > 0 for layer in result.refinement] for result in (one, two)]
    assert rounded == [[True, False], [True, helps]]
    same = one.quantized.model.SerializeToString(True) == two.quantized.model.SerializeToString(True)
    assert same == (not helps)


@pytest.mark.parametrize("count", [1, MAX_SAMPLE, MAX_SAMPLE + MIN_JUDGES - 1])
def test_without_judges_effort_2_is_effort_1(count: int) -> None:
    one, two = (run(wide(), noise(count), effort) for effort in (1, 2))
    assert two.wide_layers is None
    assert (one.unjudged, two.unjudged) == ((), ("wide",))
    assert one.quantized.model.SerializeToString(True) == two.quantized.model.SerializeToString(True)


def test_judges_are_calibration_images_too() -> None:
    count = MAX_SAMPLE + MAX_JUDGES + 5
    result = run(wide(), noise(count), 2)
    assert result.table.num_images == count
    assert result.num_sample == MAX_SAMPLE
    assert result.wide_layers is not None
    assert result.wide_layers.without.num_images == MAX_JUDGES
