"""What the run says of its own check: a network whose float32 answers are chance is not called equal to anything."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from exporter.tracing.check_export import CheckReport
from resnet_export.console.reporter import Reporter
from resnet_export.export_job.job import _tell_check


@pytest.mark.parametrize(("rounding", "chance"), [(None, False), (1e-3, False), (4e4, True)])
def test_answers_that_are_chance_are_told_as_such(rounding, chance):
    """The last are timm's regnetv_040 with random weights, settled on two pictures."""
    reporter = Reporter()
    run = SimpleNamespace(loaded=SimpleNamespace(reference_name="PyTorch", gives_logits=True), reporter=reporter)
    exported = SimpleNamespace(config=SimpleNamespace(resolved_opset=20))
    _tell_check(run, exported, CheckReport((1, 2, 7), 7, 2.6e4 if chance else 1e-3, 8.65e4, rounding))
    assert ("opset 20 equals PyTorch" in reporter.messages[0]) != chance
    assert len(reporter.warnings) == (rounding is not None)
    assert (
        any("this network blows rounding up" in told and "give trained" in told for told in reporter.warnings) == chance
    )
