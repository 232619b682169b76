"""The report of `resnet-export verify` as one JSON dictionary. Every writer (text, Markdown, JUnit, HTML) reads this.

Keys are only ever added; `schema_version` changes when one is taken away or means something else. A number that does
not exist is null, never NaN. Shares are 0 to 1, drops in percentage points, logits in the model's own units.

    schema_version    1
    tool              name, version, created (UTC, ISO 8601)
    environment       library or "python", "platform", "machine" -> version
    subject           path; kind: "bundle", "onnx" or "engine"; model: its name, or null
    reference         name ("PyTorch", "model.onnx"); statement: what it is and where it came from
    images            val: {root, source (what was given), num_images, labelled, matched}, or null; golden:
                      {num_images, source}, or null; statement: what was compared on, and what that cannot show
    labels            class names in index order, or null
    verdict           "pass", "fail" or "inconclusive"
    exit_code         0, 1 or 3
    summary           one sentence
    files             one entry per file that was judged:
        name, precision   "model.int8.onnx", "int8"; or "bundle", null, for checks of the bundle as a whole
        runtime           "onnxruntime", "tensorrt", "torch"; null for "bundle"
        provider          "CPUExecutionProvider", ..., or null
        arithmetic        how INT8 was computed, or null
        sha256            of the file, or null
        verdict           of all its gates
        gates             name, on ("golden", "val", "photographs", "file"), threshold, measured, interval
                          [low, high] or null, unit, verdict ("pass", "fail", "inconclusive", "skipped"), sentence
        comparisons       one entry per set of images:
            on, images        "golden", "val" or "photographs"; in words
            reference         what was compared with, in words
            metrics           num_images, num_classes, num_nonfinite_reference, num_nonfinite_candidate, exact,
                              max_abs_diff, mean_abs_diff, max_abs_reference, relative_max_diff, sqnr_db, cosine, kl,
                              agreement, agreement_interval (Wilson, 95 %), top5_overlap, num_flips, max_flip_margin,
                              top1_reference, top1_candidate, top5_reference, top5_candidate, losses, gains,
                              top1_drop_pp, top1_drop_interval_pp (Tango, 95 %), mcnemar_p; null where there is no
                              such number, as for kl to max_flip_margin of one number instead of classes
            flips             image (path below images.val.root, or "golden[3]"), label or null, reference_class,
                              candidate_class, margin, reference_top3 and candidate_top3 as [[class, logit], ...];
                              the surest answers first, at most 1000
            classes           index, num_images, num_equal, right_reference, right_candidate (null without labels)
        bisect            null, or
            num_images        images that the blocks were compared on
            statement         what was found, or why nothing could be compared
            suspects          names of blocks, in graph order
            causes            one sentence each
            blocks            name, sqnr_db (error arrived at its output), own_sqnr_db (fed with the reference's
                              input), expected_sqnr_db (what plain INT8 of this block gives; null where it is not INT8),
                              suspect (true or false), causes [sentences]
    attribution       null, or
        on                images
        sides             the sides that ran: "reference", "onnx", "engine"
        missing           side -> why it did not run
        losses            "quantization", "engine" or "total" -> {from, to, sqnr_db, kl, agreement, top1_drop_pp}
        statement         sentences
    baseline          null, or {path, created, verdict, statement, changes: [{file, on, metric, before, now, verdict
                      ("same", "better", "worse", "missing"), sentence}]}
    causes            file, sentence: what explains a failure
    warnings          sentences
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtimes.counted import counted
from runtimes.io.json_fields import JsonFields, json_fields, json_value
from runtimes.metrics.logit_comparison import LogitComparison
from runtimes.verification.gates import GateResult, Verdict, overall

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True)
class FileComparison:
    """One file on one set of images; the fields are the keys of `comparisons`."""

    on: str
    images: str
    reference: str
    found: LogitComparison

    def to_json(self) -> dict[str, Any]:
        """Return an entry of `comparisons`."""
        return {
            "on": self.on,
            "images": self.images,
            "reference": self.reference,
            "metrics": self.found.to_json(),
            "flips": json_value(self.found.flips),
            "classes": json_value(self.found.classes),
        }


@dataclass(slots=True)
class FileReport(JsonFields):
    """Results of one file; the fields are the keys of `files`."""

    name: str
    precision: str | None = None
    runtime: str | None = None
    provider: str | None = None
    arithmetic: str | None = None
    sha256: str | None = None
    gates: list[GateResult] = field(default_factory=list)
    comparisons: list[FileComparison] = field(default_factory=list)
    bisect: Mapping[str, Any] | None = None

    @property
    def verdict(self) -> Verdict:
        """The verdict of all gates."""
        return overall(gate.verdict for gate in self.gates)

    def to_json(self) -> dict[str, Any]:
        """Return an entry of `files`."""
        content = json_fields(self)
        results = {name: content.pop(name) for name in ("gates", "comparisons", "bisect")}
        return {**content, "verdict": self.verdict.value, **results}


@dataclass(frozen=True, slots=True)
class Setting(JsonFields):
    """Everything about a run but its results; the fields are the report's keys."""

    tool: Mapping[str, str]
    environment: Mapping[str, str]
    subject: Mapping[str, Any]
    reference: Mapping[str, Any]
    images: Mapping[str, Any]
    labels: Sequence[str] | None


def build_report(
    setting: Setting,
    files: Sequence[FileReport],
    *,
    attribution: Mapping[str, Any] | None = None,
    causes: Sequence[Mapping[str, str]] = (),
    warnings: Sequence[str] = (),
) -> dict[str, Any]:
    """Return the report; see the module's first lines."""
    verdict = overall(file.verdict for file in files)  # each file has to pass by a gate of its own
    return {
        "schema_version": SCHEMA_VERSION,
        **setting.to_json(),
        "verdict": verdict.value,
        "exit_code": verdict.exit_code,
        "summary": _summary(files, verdict),
        "files": json_value(files),
        "attribution": json_value(attribution),
        "baseline": None,
        "causes": json_value(causes),
        "warnings": json_value(warnings),
    }


def with_baseline(report: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, Any]:
    """Return the report with `baseline` laid in; a verdict that is worse counts for the whole."""
    verdict = overall((Verdict(report["verdict"]), Verdict(baseline["verdict"])))
    result = {**report, "baseline": dict(baseline), "verdict": verdict.value, "exit_code": verdict.exit_code}
    if verdict.value != report["verdict"]:
        result["summary"] = baseline["statement"]
    return result


def _summary(files: Sequence[FileReport], verdict: Verdict) -> str:
    decisive = [(file, gate) for file in files for gate in file.gates if gate.verdict is verdict]
    if not decisive:  # a file whose gates were all skipped
        decisive = [(file, gate) for file in files for gate in file.gates if file.verdict is verdict]
    num_gates = sum(gate.verdict is not Verdict.SKIPPED for file in files for gate in file.gates)
    if verdict is Verdict.PASS:
        num_files = sum("." in file.name for file in files)  # the bundle itself is among them
        skipped = sum(gate.verdict is Verdict.SKIPPED for file in files for gate in file.gates)
        words = f"all {num_gates} gates of {counted(num_files, 'file')} pass"
        return f"{words}{f', {skipped} skipped' if skipped else ''}" if decisive else "nothing was judged"
    if not decisive:
        return "every gate was skipped: nothing was shown"
    file, gate = decisive[0]
    others = f" (and {len(decisive) - 1} more)" if len(decisive) > 1 else ""
    return f"{file.name}, {gate.on}: {gate.sentence}{others}"
