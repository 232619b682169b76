"""quantize(): each effort against the one below it on trained networks and held-out images, and on every odd input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import cache, partial

import numpy as np
import onnx
import pytest
from conftest import TrainedNetwork
from graph_builder import GraphBuilder
from onnx import ModelProto

from calibration.errors import CalibrationError, NonFiniteActivationError
from calibration.methods.builtin_methods import Max, MeanSquaredError
from calibration.methods.dialect import Dialect
from calibration.methods.effort import DEFAULT_EFFORT, EFFORTS, Effort, steps_of
from calibration.methods.method import Method
from calibration.observers.observe_batches import FEW_SAMPLES_PER_IMAGE, SAMPLES_PER_IMAGE, SeenBatch
from calibration.pipeline.quantize_model import QuantizationResult, quantize, scale_and_calibrate
from calibration.pipeline.refinement_sample import MAX_SAMPLE
from calibration.qdq.offsets import give_offsets_back, num_pads
from calibration.ranges.calibration_table import CalibrationTable
from calibration.ranges.collect_ranges import table_of
from calibration.refinement.channel_groups import find_channel_groups
from calibration.refinement.cross_layer_equalization import scale_channels
from exporter.graph.onnx_graph import with_outputs
from runtimes.metrics.logit_comparison import LogitComparison
from runtimes.metrics.logit_meter import LogitMeter
from runtimes.ort.adapter import OrtRuntime

SEED = 20261203
open_exact = partial(OrtRuntime, exact_qdq=True)


def quantized(model: ModelProto, images, *, effort: int = DEFAULT_EFFORT, **options) -> QuantizationResult:
    steps = effort if isinstance(effort, Effort) else EFFORTS[effort]
    return quantize(model, images, open_runtime=OrtRuntime, open_exact=open_exact, effort=steps, **options)


LEAST_GAIN_DB = 1.0
"""Of SQNR by effort 1 over effort 0; docs/int8.md has what was measured."""


def batches(images: np.ndarray, size: int = 10):
    return (images[place : place + size] for place in range(0, len(images), size))


def parity(reference: ModelProto, candidate: ModelProto, images: np.ndarray) -> LogitComparison:
    meter = LogitMeter(strict=True)
    with OrtRuntime(reference) as true, open_exact(candidate) as test:
        for batch in batches(images, 64):
            meter.add(*(next(iter(each.run({"input": batch}).values())) for each in (true, test)))
    return meter.report()


@pytest.fixture(scope="module", params=[pytest.param("small_network", marks=pytest.mark.slow), "bottleneck_network"])
def network(request) -> TrainedNetwork:
    found = request.getfixturevalue(request.param)
    return replace(found, calibration=found.calibration[:80], held_out=found.held_out[:200])


@pytest.fixture(scope="module", params=[pytest.param("digits_network", marks=pytest.mark.slow), "bottleneck_network"])
def deep_network(request) -> TrainedNetwork:
    """Networks of so many layers that what each of them loses adds up."""
    found = request.getfixturevalue(request.param)
    return replace(found, calibration=found.calibration[:64], held_out=found.held_out[:128])


@pytest.fixture(scope="module")
def result_of(network):
    @cache
    def compute(effort: int, dialect: Dialect) -> QuantizationResult:
        before = network.model.SerializeToString(deterministic=True)
        result = quantized(network.model, batches(network.calibration), dialect=dialect, effort=effort)
        assert network.model.SerializeToString(deterministic=True) == before, "the float model is not changed"
        return result

    return compute


@pytest.fixture(scope="module")
def default_of(deep_network):
    """What the default effort gives, once for all tests."""

    @cache
    def compute(dialect: Dialect) -> QuantizationResult:
        return quantized(deep_network.model, batches(deep_network.calibration), dialect=dialect)

    return compute


@pytest.mark.parametrize("dialect", list(Dialect))
def test_the_default_effort_beats_the_one_below_on_images_that_it_has_not_seen(
    deep_network, default_of, dialect
) -> None:
    """Effort 2 has the steps of effort 1, as the test below says; where it has more: test_judge."""
    model = deep_network.model
    plain = quantized(model, batches(deep_network.calibration), effort=0, dialect=dialect)
    default = default_of(dialect)
    reports = [parity(model, result.quantized.model, deep_network.held_out) for result in (plain, default)]
    print(f"{dialect.value}:", ", ".join(f"{report.sqnr_db:.2f} dB" for report in reports))
    assert reports[1].sqnr_db >= reports[0].sqnr_db + LEAST_GAIN_DB
    assert reports[1].agreement >= 0.99


@pytest.mark.parametrize("deep_network", ["digits_network"], indirect=True)
def test_pads_gain_where_layers_pad(deep_network, default_of) -> None:
    """Half the step of what such layers read, on images that were not seen, where 18 of 22 layers pad."""
    model = deep_network.model
    assert steps_of(DEFAULT_EFFORT, "biases") == EFFORTS[DEFAULT_EFFORT]
    pads = quantized(model, batches(deep_network.calibration), effort=steps_of(DEFAULT_EFFORT, "pads"))
    results = [default_of(Dialect.TENSORRT), pads]
    assert [num_pads(result.quantized.model) > 0 for result in results] == [False, True]
    reports = [parity(model, result.quantized.model, deep_network.held_out) for result in results]
    print(", ".join(f"{report.sqnr_db:.2f} dB" for report in reports))
    assert reports[1].sqnr_db >= reports[0].sqnr_db + LEAST_GAIN_DB


@pytest.mark.parametrize("dialect", list(Dialect))
def test_every_effort_places_the_same_nodes(network, result_of, dialect) -> None:
    nodes = [
        [
            (node.name, node.op_type, *node.input, *node.output)
            for node in give_offsets_back(result_of(effort, dialect).quantized.model, network.model).graph.node
        ]
        for effort in EFFORTS
    ]
    without = [[[name for name in node if "zero_point" not in name] for node in each] for each in nodes]
    assert without[0] == without[1] == without[2]


def test_tensorrt_gets_no_zero_point_at_any_effort(result_of) -> None:
    for effort in EFFORTS:
        model = result_of(effort, Dialect.TENSORRT).quantized.model
        types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
        points = {node.input[2] for node in model.graph.node if node.op_type == "QuantizeLinear"}
        assert {types[name] for name in points} == {onnx.TensorProto.INT8}


def test_the_result_says_what_was_done(network, result_of) -> None:
    for effort in EFFORTS:
        result = result_of(effort, Dialect.TENSORRT)
        assert result.effort == EFFORTS[effort]
        assert result.table.num_images == len(network.calibration)
        onnx.checker.check_model(result.quantized.model, full_check=True)
    plain, default, slow = (result_of(effort, Dialect.TENSORRT) for effort in EFFORTS)
    assert (plain.num_groups, plain.num_sample, plain.refinement) == (0, 0, ())
    layers = [node.name for node in network.model.graph.node if node.op_type in ("Conv", "Gemm")]
    for result in (default, slow):
        assert [layer.name for layer in result.refinement] == layers
        assert 0 < result.num_groups <= len(find_channel_groups(network.model))
        assert sum(layer.largest_correction > 0 for layer in result.refinement) > len(layers) / 2
        assert sum(layer.num_rounded > 0 for layer in result.refinement) > len(layers) / 2
    assert default.num_sample == slow.num_sample == MAX_SAMPLE < len(network.calibration)


@pytest.mark.tensorrt
@pytest.mark.parametrize("effort", EFFORTS)
def test_tensorrt_rtx_parses_and_builds_every_effort(result_of, tmp_path, effort) -> None:
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    from exporter import build_engine

    path = tmp_path / "model.onnx"
    onnx.save(result_of(effort, Dialect.TENSORRT).quantized.model, path)
    assert len(build_engine(path, flavor="rtx")) > 10_000


@pytest.mark.parametrize("dialect", list(Dialect))
def test_where_no_layer_is_wide_effort_2_is_effort_1_with_pads(network, result_of, dialect) -> None:
    """Two runs of the same steps give the same bytes."""
    first, again = (result_of(effort, dialect) for effort in (steps_of(1, "pads"), 2))
    assert again.wide_layers is None
    assert again.quantized.model.SerializeToString(deterministic=True) == first.quantized.model.SerializeToString(
        deterministic=True
    )
    assert (again.table.ranges, again.refinement) == (first.table.ranges, first.refinement)


def crippled(model: ModelProto, largest: float) -> ModelProto:
    """The same function with the ranges of channels up to `largest` times apart, as careless training leaves them."""
    random = np.random.default_rng(SEED)
    groups = find_channel_groups(model)
    return scale_channels(model, {group: largest ** random.uniform(0, 1, group.num_channels) for group in groups}).model


@pytest.mark.parametrize(
    ("method", "dialect"), [(None, Dialect.TENSORRT), (Max(), Dialect.ONNXRUNTIME)], ids=["mse", "max"]
)
def test_the_killer_network_survives_by_default(deep_network, method, dialect) -> None:
    """Channels 100 times apart: ranges alone fail, scaling the channels brings the network back."""
    killer = crippled(deep_network.model, 100.0)
    assert parity(deep_network.model, killer, deep_network.held_out).sqnr_db > 90, "it computes the same"
    reports = []
    for effort in (0, 1):
        images = batches(deep_network.calibration[:32])
        result = quantized(killer, images, dialect=dialect, method=method, effort=effort)
        reports.append(parity(killer, result.quantized.model, deep_network.held_out))
        print(f"{dialect.value} effort {effort}: {reports[-1].sqnr_db:.1f} dB, {reports[-1].agreement:.1%} agree")
    assert reports[0].sqnr_db < 15
    assert reports[1].sqnr_db > reports[0].sqnr_db + 15
    assert reports[1].agreement >= 0.985


def two_layers(size: int = 8, channels: int = 4) -> ModelProto:
    build = GraphBuilder(size=size)
    build.node("Relu", "relu", build.conv("conv", "input", channels))
    build.gemm("out", "relu", 3, transB=1)
    return build.model("out")


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(SEED).normal(size=(count, 2, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("sizes", [[1], [3], [5, 1, 7], [40, 40, 1], [1] * 20])
@pytest.mark.parametrize("dialect", list(Dialect))
def test_batches_of_any_size_and_number(effort: int, sizes: list[int], dialect: Dialect) -> None:
    images = noise(sum(sizes))
    model = two_layers()
    result = quantized(model, np.split(images, np.cumsum(sizes)[:-1]), effort=effort, dialect=dialect)
    assert result.table.num_images == len(images)
    assert result.num_sample == (0 if effort == 0 else min(len(images), MAX_SAMPLE))
    # Of one image too little is known to hold others, but it is still the same network.
    assert parity(model, result.quantized.model, noise(200)[100:]).sqnr_db > (20 if len(images) > 1 else 10)


@pytest.mark.parametrize("effort", EFFORTS)
def test_of_one_image_no_bias_is_learnt(effort: int) -> None:
    result = quantized(two_layers(), [noise(1)], effort=effort)
    assert all(layer.largest_correction == 0 for layer in result.refinement)


def test_a_channel_loud_before_its_rectifier_stays_within_fp16() -> None:
    build = GraphBuilder(channels=3)
    rows = build.random.normal(0, 0.3, (8, 3, 3, 3)) * 3000
    build.constant("a.weight", rows.astype(np.float32))
    build.node("Relu", "a.relu", build.conv("a", "input", 8, weight="a.weight"))
    low = -np.abs(build.random.normal(0, 0.3, (8, 8, 3, 3))).astype(np.float32)  # behind the rectifier next to nothing
    low[0] *= -1
    low[1:, 0] *= -0.3
    build.constant("b.weight", low)
    build.node("Relu", "b.relu", build.conv("b", "a.relu", 8, weight="b.weight"))
    model = build.model(build.gemm("out", "b.relu", 4), opset=19)
    images = build.random.normal(0, 1, (8, 3, 8, 8)).astype(np.float32)
    scaled = scale_and_calibrate(model, [images], open_runtime=OrtRuntime)
    before, after = (peak_of(each, "b", images) for each in (model, scaled.model))
    assert scaled.num_groups == 2
    assert 20_000 < before < 60_000
    assert after < 65_504


def peak_of(model: ModelProto, tensor: str, images: np.ndarray) -> float:
    with OrtRuntime(with_outputs(model, [tensor])) as runtime:
        return float(np.abs(runtime.run({"input": images})[tensor]).max())


def test_two_runs_give_the_same_bytes_and_tables() -> None:
    first, again = (quantized(two_layers(), batches(noise(100)), effort=2) for _ in range(2))
    assert again.quantized.model.SerializeToString(deterministic=True) == first.quantized.model.SerializeToString(
        deterministic=True
    )
    assert (again.table, again.refinement) == (first.table, first.refinement)


def test_a_stream_is_consumed_once_and_in_order() -> None:
    taken = []

    def stream():
        for place, batch in enumerate(batches(noise(200), 10)):
            taken.append(place)
            yield batch

    assert quantized(two_layers(), stream()).table.num_images == 200
    assert taken == list(range(20))


@pytest.mark.parametrize(
    ("method", "largest_sample"), [(Max(), FEW_SAMPLES_PER_IMAGE), (MeanSquaredError(), SAMPLES_PER_IMAGE)]
)
def test_max_samples_few_values(method: Method, largest_sample: int) -> None:
    """It reads the exact extremes; what the cache's key says of the sample is what is taken."""
    model = two_layers(size=128)  # its input has 2 channels of 128 x 128, 32768 values
    images = np.random.default_rng(SEED).normal(size=(2, 2, 128, 128)).astype(np.float32)
    sizes = []

    def calibrator(model: ModelProto, factors: object, seen: Iterable[SeenBatch]) -> CalibrationTable:
        batches = list(seen)
        sizes.extend(len(batch.observations["input"].sample) // len(batch.images) for batch in batches)
        return table_of(model, batches, method=method)

    scale_and_calibrate(model, [images], open_runtime=OrtRuntime, calibrator=calibrator, method=method)
    assert all(largest_sample / 2 < size <= largest_sample for size in sizes)
    assert sizes


def test_a_calibrator_that_takes_nothing_leaves_all_images_to_judge_on() -> None:
    """As the cache does, which knows the ranges already."""
    model, images = two_layers(), noise(100)
    table = quantized(model, batches(images)).table
    cached, fresh = (
        scale_and_calibrate(model, batches(images), open_runtime=OrtRuntime, calibrator=calibrator, effort=EFFORTS[2])
        for calibrator in (lambda *_: table, None)
    )
    assert sum(len(batch.images) for batch in cached.judges) == 100 - MAX_SAMPLE
    for one, other in zip(cached.judges, fresh.judges, strict=True):
        assert np.array_equal(one.images, other.images)
        assert np.array_equal(one.answers, other.answers)


@pytest.mark.parametrize("effort", EFFORTS)
def test_an_empty_stream_is_refused(effort: int) -> None:
    with pytest.raises(CalibrationError, match="no calibration image was given"):
        quantized(two_layers(), iter(()), effort=effort)


@pytest.mark.parametrize("effort", EFFORTS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", [3, 95])
def test_an_image_that_is_not_finite_is_named(effort: int, value: float, place: int) -> None:
    """The first of them is in the sample, the second is not."""
    images = noise(100)
    images[place, 0, 2, 2] = value
    with pytest.raises(
        NonFiniteActivationError, match=rf"tensor 'input' .* calibration images {place} \(the first is 0\)"
    ):
        quantized(two_layers(), batches(images), effort=effort)


@pytest.mark.parametrize("effort", EFFORTS)
def test_a_model_without_layers_is_refused(effort: int) -> None:
    build = GraphBuilder()
    build.node("Relu", "relu", "input")
    with pytest.raises(CalibrationError, match="there is nothing to quantize"):
        quantized(build.model("relu"), [noise(4)], effort=effort)
