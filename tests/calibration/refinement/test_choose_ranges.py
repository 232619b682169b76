"""`--method auto`: it departs from mean squared error where the logits gain, and only there; both dialects."""

from __future__ import annotations

import json
from functools import partial

import numpy as np
import pytest
from graph_builder import GraphBuilder
from numpy.testing import assert_array_equal
from onnx import ModelProto

from calibration.errors import CalibrationError
from calibration.methods.builtin_methods import CANDIDATES, Auto, MeanSquaredError
from calibration.methods.dialect import Dialect
from calibration.methods.effort import EFFORTS
from calibration.methods.method import describe
from calibration.pipeline.quantize_model import quantize, scale_and_calibrate, settle_ranges
from calibration.qdq.insert_qdq import insert_qdq
from calibration.ranges.calibration_table import CalibrationTable
from calibration.ranges.collect_ranges import calibrate
from calibration.refinement.choose_ranges import MIN_GAIN, choose_ranges
from runtimes.ort.adapter import OrtRuntime

SEED = 20261122
open_exact = partial(OrtRuntime, exact_qdq=True)
DIALECTS = list(Dialect)


def blind_to_channel_0(size: int = 96) -> ModelProto:
    """A convolution whose weights for the first channel of the input are zero, and a layer behind it."""
    build = GraphBuilder(size=size)
    weight = np.random.default_rng(SEED).normal(0, 0.3, (3, 2, 3, 3)).astype(np.float32)
    weight[:, 0] = 0
    build.constant("w", weight)
    build.node("Relu", "relu", build.conv("conv", "input", 3, weight="w"))
    build.gemm("out", "relu", 4, transB=1)
    return build.model("out")


def with_outliers(count: int, size: int = 96) -> np.ndarray:
    """Images whose first channel holds one value 2000 times the others: it takes the range, and nobody reads it."""
    random = np.random.default_rng(SEED + count)
    images = random.normal(size=(count, 2, size, size)).astype(np.float32)
    images[:, 1] *= random.uniform(0.2, 3, (count, 1, 1)).astype(np.float32)  # so that the logits differ
    images[:, 0].reshape(count, -1)[:, 17] = 2000.0 + random.uniform(0, 1, count)
    return images


def error(reference: ModelProto, candidate: ModelProto, images: np.ndarray) -> float:
    with OrtRuntime(reference) as true, open_exact(candidate) as test:
        return float(np.square(true.run({"input": images})["out"] - test.run({"input": images})["out"]).sum())


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("effort", [0, 1])
def test_outliers_that_nobody_reads_are_clipped(dialect: Dialect, effort: int) -> None:
    model, images, others = blind_to_channel_0(), with_outliers(24), with_outliers(10)
    results = {
        method: quantize(
            model,
            [images],
            open_runtime=OrtRuntime,
            open_exact=open_exact,
            method=method,
            dialect=dialect,
            effort=EFFORTS[effort],
        )
        for method in (MeanSquaredError(), Auto())
    }
    plain, chosen = results.values()
    assert plain.table.ranges["input"].amax > 1000, "the tensor alone says: keep them"
    assert chosen.table.ranges["input"].amax < 100
    assert chosen.table.chosen["input"] in ("percentile", "entropy")
    assert chosen.table.method == {"name": "auto"}
    assert not chosen.table.candidates
    errors = [error(model, result.quantized.model, others) for result in (plain, chosen)]
    assert errors[1] < errors[0] / 100


@pytest.mark.parametrize("dialect", DIALECTS)
def test_on_its_sample_it_is_never_worse(bottleneck_network, dialect: Dialect) -> None:
    """Every kept candidate brought the logits nearer on both halves; what was not kept is where it began."""
    images = bottleneck_network.calibration[:64]
    calibrated = scale_and_calibrate(
        bottleneck_network.model,
        [images],
        open_runtime=OrtRuntime,
        method=Auto(),
        dialect=dialect,
        effort=EFFORTS[1],
    )
    settled = settle_ranges(calibrated, open_exact=open_exact)
    for name, word in settled.table.chosen.items():
        of_word = calibrated.table.ranges if word == "mse" else calibrated.table.candidates[word]
        assert settled.table.ranges[name] == of_word[name]
    assert set(settled.table.chosen) == set(settled.table.ranges) == set(calibrated.table.ranges)
    assert settle_ranges(settled, open_exact=open_exact) is settled, "nothing is left to settle"

    sample = np.concatenate(calibrated.sample)
    with OrtRuntime(bottleneck_network.model) as runtime:
        (true,) = runtime.run({"input": sample}).values()
    errors = []
    for table in (calibrated.table, settled.table):
        with open_exact(insert_qdq(calibrated.model, table).model) as runtime:
            (found,) = runtime.run({"input": sample}).values()
        difference = true - found
        errors.append(np.square(difference - difference.mean(axis=0)).sum())
    num_departures = sum(word != "mse" for word in settled.table.chosen.values())
    print(f"{dialect.value}: {num_departures} departures, error {errors[1] / errors[0]:.3f} of the start's")
    # ONNX Runtime's file has INT32 biases, the model that was judged float ones: there the gain need not be the same.
    gain = MIN_GAIN if num_departures and dialect is Dialect.TENSORRT else 0.0
    assert errors[1] <= errors[0] * (1 - gain) * 1.001


@pytest.mark.parametrize("dialect", DIALECTS)
def test_the_judged_model_answers_like_the_quantized_one(bottleneck_network, dialect: Dialect) -> None:
    """With the table's own ranges as inputs, biases in float: nothing but what is chosen is another."""
    from calibration.refinement import choose_ranges as module

    images = bottleneck_network.calibration[:16]
    table = calibrate(bottleneck_network.model, [images], open_runtime=OrtRuntime, dialect=dialect)
    quantized = insert_qdq(bottleneck_network.model, table)
    with open_exact(quantized.model) as runtime:
        (expected,) = runtime.run({"input": images}).values()
    with open_exact(module._with_free_ranges(quantized)) as runtime:
        found = module._logits(runtime, [images[:5], images[5:]], module._inputs(table.ranges, runtime))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())


def test_tensors_with_one_range_change_together(bottleneck_network) -> None:
    """ONNX Runtime's pools and reshapes take their input's range: the file that is written must hold one for both."""
    calibrated = scale_and_calibrate(
        bottleneck_network.model,
        [bottleneck_network.calibration[:16]],
        open_runtime=OrtRuntime,
        method=Auto(),
        dialect=Dialect.ONNXRUNTIME,
        effort=EFFORTS[0],
    )
    settled = settle_ranges(calibrated, open_exact=open_exact)
    placement = insert_qdq(settled.model, settled.table).placement
    assert placement.same_range
    for name, source in placement.same_range.items():
        assert settled.table.ranges[name] == settled.table.ranges[source]


@pytest.mark.parametrize("num_images", [1, 2, 3])
def test_one_image_chooses_nothing(num_images: int) -> None:
    model = blind_to_channel_0()
    result = quantize(model, [with_outliers(num_images)], open_runtime=OrtRuntime, open_exact=open_exact, method=Auto())
    departed = [word for word in result.table.chosen.values() if word != "mse"]
    assert bool(departed) == (num_images > 1)


def test_both_halves_must_gain() -> None:
    """One outlier on an odd image: clipping it lowers the error of all images together by a third; odd ones lose."""
    build = GraphBuilder(size=16)
    build.node("Relu", "relu", build.conv("conv", "input", 3))
    build.gemm("out", "relu", 4, transB=1)
    model = build.model("out")
    images = np.random.default_rng(SEED).normal(size=(200, 2, 16, 16)).astype(np.float32)
    images[1, 0, 5, 5] = 800.0
    table = calibrate(model, [images], open_runtime=OrtRuntime, method=Auto())
    settled = choose_ranges(model, table, [images], open_exact=open_exact)
    assert settled.ranges["input"].amax == table.ranges["input"].amax > 700
    assert settled.chosen["input"] == "mse"
    even_only = choose_ranges(model, table, [images[::2]], open_exact=open_exact)
    assert even_only.ranges["input"].amax < 100


def test_progress_counts_tensors() -> None:
    seen = []

    def track(groups, total):
        for group in groups:
            seen.append((group, total))
            yield group

    calibrated = scale_and_calibrate(
        blind_to_channel_0(), [with_outliers(4)], open_runtime=OrtRuntime, method=Auto(), effort=EFFORTS[0]
    )
    settle_ranges(calibrated, open_exact=open_exact, track_tensors=track)
    assert [group for group, _ in seen] == [(name,) for name in calibrated.table.ranges]
    assert {total for _, total in seen} == {len(seen)}


def test_the_table_survives_json_before_and_after() -> None:
    calibrated = scale_and_calibrate(
        blind_to_channel_0(), [with_outliers(4)], open_runtime=OrtRuntime, method=Auto(), effort=EFFORTS[0]
    )
    assert list(calibrated.table.candidates) == [describe(method)["name"] for method in CANDIDATES[1:]]
    settled = settle_ranges(calibrated, open_exact=open_exact)
    for table in (calibrated.table, settled.table):
        assert CalibrationTable.from_json(json.loads(json.dumps(table.to_json()))) == table
    content = settled.table.to_json()
    assert "candidates" not in content
    assert {entry["method"] for entry in content["tensors"].values()} == set(settled.table.chosen.values())
    for damaged in (5, {"max": 5}, {"max": {"input": {}}}):
        with pytest.raises(CalibrationError):
            CalibrationTable.from_json({**calibrated.table.to_json(), "candidates": damaged})


def test_ranges_of_the_start_are_those_of_mse() -> None:
    images = with_outliers(4)
    auto, mse = (
        calibrate(blind_to_channel_0(), [images], open_runtime=OrtRuntime, method=method)
        for method in (Auto(), MeanSquaredError())
    )
    assert auto.ranges == mse.ranges
    assert not mse.candidates
    assert_array_equal(auto.input_mean, mse.input_mean)
    assert 0 < MIN_GAIN < 1
