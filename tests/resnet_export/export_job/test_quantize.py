"""What a run tells about rounding the widest layers: all three figures, for each of them may have decided."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from graph_builder import GraphBuilder

from calibration.methods.effort import EFFORTS
from calibration.pipeline.judge import Judgement
from calibration.pipeline.quantize_model import QuantizationResult, quantize
from resnet_export.console.reporter import Reporter
from resnet_export.export_job.quantize import _tell
from runtimes import OrtRuntime
from runtimes.metrics.logit_comparison import LogitComparison

WORSE = LogitComparison(num_images=64, sqnr_db=30.04, kl=0.0123, num_equal=62)
BETTER = LogitComparison(num_images=64, sqnr_db=31.16, kl=0.0045, num_equal=64)


@pytest.fixture(scope="module")
def quantized() -> QuantizationResult:
    build = GraphBuilder()
    build.conv("conv", "input", 4)
    images = np.random.default_rng(0).normal(size=(8, 2, 8, 8)).astype(np.float32)
    return quantize(
        build.model("conv"),
        [images],
        open_runtime=OrtRuntime,
        open_exact=partial(OrtRuntime, exact_qdq=True),
        effort=EFFORTS[0],
    )


@pytest.mark.parametrize(
    ("judgement", "told"),
    [
        (
            Judgement(WORSE, BETTER),
            "widest layers rounded: on 64 images that refinement has not seen, 30.0 dB (agreement 96.9%, KL 0.012) "
            "without, 31.2 dB (agreement 100.0%, KL 0.0045) with it",
        ),
        (
            Judgement(WORSE, replace(BETTER, num_equal=61)),
            "widest layers not rounded: on 64 images that refinement has not seen, 30.0 dB (agreement 96.9%, KL 0.012) "
            "without, 31.2 dB (agreement 95.3%, KL 0.0045) with it",
        ),
        (
            Judgement(WORSE, replace(BETTER, sqnr_db=None, kl=0.0)),
            "widest layers rounded: on 64 images that refinement has not seen, 30.0 dB (agreement 96.9%, KL 0.012) "
            "without, no error (agreement 100.0%, KL 0) with it",
        ),
    ],
)
def test_the_run_tells_what_the_judges_said(quantized: QuantizationResult, judgement: Judgement, told: str) -> None:
    reporter = Reporter()
    _tell(replace(quantized, wide_layers=judgement), reporter)
    assert told in reporter.messages


def test_without_judges_nothing_is_told_of_them(quantized: QuantizationResult) -> None:
    reporter = Reporter()
    _tell(quantized, reporter)
    assert reporter.messages
    assert not any("widest" in message for message in reporter.messages)


def test_too_few_judges_are_told(quantized: QuantizationResult) -> None:
    reporter = Reporter()
    _tell(replace(quantized, unjudged=("layer4.0.conv2", "layer4.1.conv1"), num_sample=64), reporter)
    assert (
        "widest layers not rounded (2 of more than 1152 columns): fewer than 16 images are left to judge it on beside "
        "the 64 that refinement takes; give more with --calib and --num-calib"
    ) in reporter.messages


@pytest.mark.parametrize("effort", [0, 1, 2])
def test_weights_that_several_layers_read_are_told(effort: int) -> None:
    """They keep the nearest levels whatever the effort, and effort 0 rounds nothing."""
    build = GraphBuilder(channels=4)
    build.conv("first", "input", 4)
    build.conv("second", build.node("Relu", "relu", "first"), 4, weight="first.weight")
    model = build.model(build.conv("third", build.node("Relu", "relu2", "second"), 4))
    images = np.random.default_rng(0).normal(size=(8, 4, 8, 8)).astype(np.float32)
    exact = partial(OrtRuntime, exact_qdq=True)
    result = quantize(model, [images], open_runtime=OrtRuntime, open_exact=exact, effort=EFFORTS[effort])
    assert [layer.num_rounded > 0 for layer in result.refinement] == ([] if effort == 0 else [False, False, True])
    reporter = Reporter()
    _tell(result, reporter)
    told = (
        "1 weight not rounded for what a layer reads, because several do (first, second): the nearest levels suit all"
    )
    assert sum(message.startswith(told) for message in reporter.messages) == (effort > 0)
