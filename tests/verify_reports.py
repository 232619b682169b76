"""Reports of `verify` for the tests of what reads them, made by the code that makes them, without a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from runtimes.metrics.logit_comparison import LogitComparison
from runtimes.verification import Gate, GateResult, LogitMeter, Verdict, judge
from runtimes.verification.gates import DEFAULT_GATES
from runtimes.verification.report import FileComparison, FileReport, Setting, build_report

NAMES = ("9|<b>.png", "a*b_c.png", "plain.png")


def comparison(noise: float, *, num_images: int = 400, num_flips: int = 0) -> LogitComparison:
    """Return a comparison on labelled images with that much noise and that many wrong answers."""
    generator = np.random.default_rng(9)
    labels = generator.integers(0, 5, num_images)
    reference = generator.normal(size=(num_images, 5)) + 8 * np.eye(5)[labels]
    candidate = reference + noise * generator.normal(size=reference.shape)
    candidate[np.arange(num_flips), (labels[:num_flips] + 1) % 5] += 30
    meter = LogitMeter(5, labelled=True)
    names = [NAMES[place] if place < len(NAMES) else f"{place}.png" for place in range(num_images)]
    meter.add(reference, candidate, names=names, labels=labels)
    return meter.report()


def report(
    found: LogitComparison, *, name: str = "model.int8.onnx", checks: tuple[GateResult, ...] = (), **options: Any
) -> dict[str, Any]:
    """Return the report of one INT8 file compared on `val`."""
    gates = [Gate(gate, threshold) for gate, threshold in DEFAULT_GATES["int8"].items()]
    file = FileReport(name, "int8", "onnxruntime", "CPUExecutionProvider", "as written", "0" * 64)
    file.comparisons.append(FileComparison("val", "400 images of val", "model.onnx", found))
    file.gates.extend([*judge(found, gates, on="val"), *checks])
    setting = Setting(
        tool={"name": "resnet-export", "version": "1", "created": "2026-11-22T10:00:00+00:00"},
        environment={"python": "3.11", "onnxruntime": "1.31.1"},
        subject={"path": "bundle", "kind": "bundle", "model": "net"},
        reference={"name": "model.onnx", "statement": "model.onnx"},
        images={"val": None, "golden": None, "statement": "compared on 400 images of val"},
        labels=["cat|dog", "a_b", "c", "d", "e"],
    )
    return build_report(setting, [file], **options)


def check(verdict: Verdict, sentence: str = "why") -> GateResult:
    """Return the result of a check without a number."""
    return GateResult("blocks", "file", verdict, sentence)
