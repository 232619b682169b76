"""Variants made of one another, and runs that share their beginnings: against the models that `insert_qdq` makes."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pytest
from graph_builder import GraphBuilder, export_random, make_resnet8
from onnx import ModelProto, numpy_helper

from calibration.methods.dialect import Dialect
from calibration.methods.effort import EFFORTS
from calibration.mixed_precision import variant_runs
from calibration.mixed_precision.blocks import find_blocks
from calibration.mixed_precision.sensitivity import noise_to_signal, rank
from calibration.mixed_precision.variant_runs import VariantRuns, can_share
from calibration.mixed_precision.variants import VariantMaker
from calibration.pipeline.quantize_model import CalibratedModel, insert_and_refine, scale_and_calibrate
from calibration.qdq.insert_qdq import insert_qdq
from runtimes.ort.adapter import OrtRuntime
from runtimes.side_by_side import SideBySide, Streams

SEED = 20261129
SIZE = 16
open_exact = partial(OrtRuntime, exact_qdq=True)
DIALECTS = pytest.mark.parametrize("dialect", Dialect)


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(SEED).normal(size=(24, 3, SIZE, SIZE)).astype(np.float32)


@cache
def inverted_residuals() -> ModelProto:
    """Depthwise layers behind ReLU6, linear bottlenecks, a residual Add and a squeeze-and-excitation gate."""
    import torch
    from torch import nn

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.expand = nn.Sequential(nn.Conv2d(8, 24, 1), nn.ReLU6())
            self.depthwise = nn.Sequential(nn.Conv2d(24, 24, 3, padding=1, groups=24), nn.ReLU6())
            self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(24, 4, 1), nn.ReLU(), nn.Conv2d(4, 24, 1))
            self.project = nn.Conv2d(24, 8, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            inner = self.depthwise(self.expand(x))
            return x + self.project(inner * torch.sigmoid(self.squeeze(inner)))

    torch.manual_seed(SEED)
    stem = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU6())
    network = nn.Sequential(stem, Gated(), Gated(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    return export_random(network.eval(), size=SIZE)


def one_block() -> ModelProto:
    """A stem, a residual block and a classifier, for what more layers show no better."""
    made = GraphBuilder(channels=3, size=SIZE)
    stem = made.node("Relu", "relu", made.conv("conv1", "input", 8))
    inner = made.node("Relu", "layer1.0.relu", made.conv("layer1.0.conv1", stem, 8))
    total = made.node("Add", "layer1.0.add", made.conv("layer1.0.conv2", inner, 8), stem)
    made.gemm("fc", made.node("Relu", "layer1.0.relu_1", total), 10, transB=1)
    return made.model("fc", opset=20)


NETWORKS = {"resnet": partial(make_resnet8, SIZE), "inverted residuals": inverted_residuals}


@pytest.fixture(scope="module", params=NETWORKS)
def network(request) -> ModelProto:
    return NETWORKS[request.param]()


def calibrated_from(model: ModelProto, images: np.ndarray, effort: int, dialect: Dialect) -> CalibratedModel:
    return scale_and_calibrate(model, [images], open_runtime=OrtRuntime, effort=EFFORTS[effort], dialect=dialect)


def first_output(model: ModelProto, images: np.ndarray) -> np.ndarray:
    with open_exact(model) as runtime:
        return next(iter(runtime.run({model.graph.input[0].name: images}).values()))


def units_of(model: ModelProto) -> dict[str, frozenset[str]]:
    layers = [node.name for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    blocks = {block.name: frozenset(block.nodes) for block in find_blocks(model, layers)}
    return {**blocks, **{name: frozenset({name}) for name in layers}}


@DIALECTS
def test_a_variant_is_the_file_that_would_be_made(network, images, dialect):
    """Without corrections: the same constants, and logits that differ by a value on another level at most.

    But for what makes plain sessions leave float layers alone (`qdq.float_layers`): variants are run as written.
    """
    calibrated = calibrated_from(network, images, 0, dialect)
    maker = VariantMaker(calibrated)
    everything = frozenset(maker.places)
    shared = 0
    for nodes in units_of(network).values():
        for kept in (nodes, everything - nodes):
            if (entries := maker.entries(kept)) is None:
                continue
            shared += 1
            expected = insert_qdq(calibrated.model, calibrated.table, keep_float=kept).model
            made = maker.variant(entries).model
            stored, wanted = ({tensor.name: tensor for tensor in model.graph.initializer} for model in (made, expected))
            for name in wanted:
                if "zero_point" not in name and "float_bias" not in name:
                    assert np.array_equal(numpy_helper.to_array(stored[name]), numpy_helper.to_array(wanted[name]))
            np.testing.assert_allclose(first_output(made, images), first_output(expected, images), rtol=0, atol=2e-3)
    assert shared > len(units_of(network)), "most variants are made of the whole one"


@pytest.mark.parametrize(
    ("name", "effort", "dialect"),
    [
        ("resnet", 0, Dialect.ONNXRUNTIME),
        ("resnet", 1, Dialect.TENSORRT),
        ("inverted residuals", 0, Dialect.TENSORRT),
        ("inverted residuals", 1, Dialect.ONNXRUNTIME),
    ],
)
def test_figures_are_those_of_the_slow_form(name, images, dialect, effort, monkeypatch):
    """Every block on its own file, refined and run from the first node on; every pair of the three parameters."""
    network = NETWORKS[name]()
    monkeypatch.setattr(variant_runs, "NUM_SAMPLE", 64)
    calibrated = calibrated_from(network, images, effort, dialect)
    batches = [images[8:16], images[16:]]
    found = rank(calibrated, batches, open_exact=open_exact, num_worst=1)
    reference = np.concatenate([first_output(calibrated.model, batch) for batch in batches]).astype(np.float64)

    def noise(kept: frozenset[str]) -> float:
        model = insert_and_refine(calibrated, open_exact=open_exact, keep_float=kept, round_weights=False)
        logits = np.concatenate([first_output(model.quantized.model, batch) for batch in batches])
        return float(np.square(reference - logits).sum() / np.square(reference).sum())

    everything = frozenset(node.name for node in calibrated.model.graph.node)
    whole = noise(frozenset())
    assert noise_to_signal(found.whole) == pytest.approx(whole, rel=0.05)
    for cost in (*found.blocks, *found.layers):
        nodes = frozenset(cost.unit.nodes)
        assert noise_to_signal(cost.alone) == pytest.approx(noise(everything - nodes), rel=0.05, abs=1e-3 * whole)
        assert noise_to_signal(cost.without) == pytest.approx(noise(nodes), rel=0.05, abs=1e-3 * whole)


def test_a_run_goes_on_where_another_has_come_to(images):
    """Float up to any place, quantized behind it, equals one run of the model that is so."""
    model = make_resnet8(SIZE)
    calibrated = calibrated_from(model, images, 0, Dialect.TENSORRT)
    maker = VariantMaker(calibrated)
    end = len(maker.places)
    nodes = units_of(model)["layer2.0"]
    entries = maker.entries(frozenset(maker.places) - nodes)
    start = maker.first_difference(frozenset(), entries)
    assert 0 < start <= min(maker.places[name] for name in nodes)
    with VariantRuns(calibrated, (), SideBySide(open_exact, Streams(2, 1))) as runs:
        half = runs.go_on(maker.float_variant(), runs.begin([images]), start)
        before = {name: array.copy() for name, array in half.images[0].items()}
        (logits,) = runs.logits(runs.go_on(maker.variant(entries), half, end))
        assert all(np.array_equal(half.images[0][name], array) for name, array in before.items()), "left as it was"
    np.testing.assert_allclose(logits, first_output(maker.variant(entries).model, images), rtol=0, atol=1e-5)


def test_images_in_small_groups_give_the_same_figures(images, monkeypatch):
    """Where not all fit into memory, each group begins anew."""
    calibrated = calibrated_from(one_block(), images, 1, Dialect.TENSORRT)
    batches = [images[place : place + 4] for place in range(8, 24, 4)]
    once = rank(calibrated, batches, open_exact=open_exact, num_worst=0)
    monkeypatch.setattr("calibration.mixed_precision.sensitivity.MAX_BYTES", 1)
    tracked: list[int] = []

    def track(units, total):
        tracked.append(total)
        return units

    grouped = rank(calibrated, batches, open_exact=open_exact, num_worst=0, track=track)
    assert tracked == [2 * len(once.blocks)], "two groups of eight"
    for first, second in zip(once.blocks, grouped.blocks, strict=True):
        assert first.unit == second.unit
        assert first.noise == pytest.approx(second.noise, rel=1e-3, abs=1e-9)
        assert first.alone.num_images == second.alone.num_images == 16


def test_batches_side_by_side_give_the_same_figures(images):
    """Exactly: the ranking does not depend on how many cores there are."""
    calibrated = calibrated_from(one_block(), images, 1, Dialect.TENSORRT)
    batches = [images[place : place + 4] for place in range(8, 24, 4)]
    side_by_side = SideBySide(partial(OrtRuntime, exact_qdq=True, num_threads=1), Streams(3, 1))
    one_by_one = rank(calibrated, batches, open_exact=open_exact, num_worst=1)
    assert rank(calibrated, batches, open_exact=open_exact, side_by_side=side_by_side, num_worst=1) == one_by_one


def test_networks_that_take_the_slow_form(images):
    """A bias that another node adds, and what divides by features, are left to `refine`."""
    import torch
    from torch import nn

    class Normalized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 3)
            self.fc = nn.Linear(8, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            features = self.conv(x).mean((2, 3))
            return self.fc(features / features.norm(dim=1, keepdim=True))

    torch.manual_seed(SEED)
    model = export_random(Normalized().eval(), size=SIZE)
    assert not can_share(model)
    assert can_share(make_resnet8(SIZE))
    found = rank(calibrated_from(model, images, 1, Dialect.TENSORRT), [images], open_exact=open_exact)
    assert {cost.unit.name for cost in found.blocks} == {"conv", "fc"}
