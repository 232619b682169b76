"""The report as Markdown, for a CI's summary page (`$GITHUB_STEP_SUMMARY`) or a merge request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runtimes.verification.shown_figures import decibel, number, percent
from runtimes.verification.shown_intervals import agreement_interval

MARKS = {"pass": "✅", "fail": "❌", "inconclusive": "❔", "skipped": "⏭️"}

MAX_FLIPS = 10
"""Flips that the summary lists; the JSON report has them all."""


def markdown_summary(report: Mapping[str, Any]) -> str:
    """Return the Markdown text of a report (`runtimes.verification.report`)."""
    return "\n\n".join(_paragraphs(report)) + "\n"


def _paragraphs(report: Mapping[str, Any]) -> Iterator[str]:
    verdict = report["verdict"]
    yield f"## {MARKS[verdict]} resnet-export verify: {verdict}"
    yield f"`{_cell(report['subject']['path'])}`: {_cell(report['summary'])}"
    yield f"Reference: {_cell(report['reference']['statement'])}. {_cell(report['images']['statement'])}."
    if report["causes"]:
        yield "**What broke**"
        yield "\n".join(f"- `{_cell(cause['file'])}`: {_cell(cause['sentence'])}" for cause in report["causes"])
    yield _table(
        ("file", "on", "images", "top-1", "agreement", "max abs diff", "SQNR", "KL"),
        [_metrics_row(file, part) for file in report["files"] for part in file["comparisons"]],
    )
    yield _table(
        ("", "file", "on", "gate", "result"),
        [
            (MARKS[gate["verdict"]], file["name"], gate["on"], gate["name"], gate["sentence"])
            for file in report["files"]
            for gate in file["gates"]
        ],
    )
    yield from _flips(report)
    for key in ("attribution", "baseline"):
        if report[key] is not None:
            yield f"{key.capitalize()}: {_cell(report[key]['statement'])}"
    yield from (f"> warning: {_cell(warning)}" for warning in report["warnings"])


def _flips(report: Mapping[str, Any]) -> Iterator[str]:
    rows = [
        (flip["image"], file["name"], flip["margin"], flip["reference_class"], flip["candidate_class"])
        for file in report["files"]
        for part in file["comparisons"]
        for flip in part["flips"]
    ]
    if not rows:
        return
    rows.sort(key=lambda row: -row[2])
    labels = report["labels"]
    yield f"<details><summary>{len(rows)} answers differ</summary>"
    yield _table(
        ("image", "file", "margin of the reference", "reference", "candidate"),
        [
            (image, file, f"{margin:.3g}", _class(labels, trusted), _class(labels, tested))
            for image, file, margin, trusted, tested in rows[:MAX_FLIPS]
        ],
    )
    yield "</details>"


def _class(labels: Sequence[str] | None, index: int) -> str:
    return str(index) if labels is None else labels[index]


def _metrics_row(file: Mapping[str, Any], part: Mapping[str, Any]) -> tuple[str, ...]:
    found = part["metrics"]
    interval = agreement_interval(found)
    agreement = percent(found["agreement"])
    if interval is not None:
        agreement += f" ({percent(interval[0])} to {percent(interval[1])})"
    return (
        file["name"],
        part["on"],
        str(found["num_images"]),
        percent(found["top1_candidate"]),
        agreement,
        number(found["max_abs_diff"]),
        "exact" if found["exact"] else decibel(found["sqnr_db"]),
        "-" if found["kl"] is None else f"{found['kl']:.1e}",
    )


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = (f"| {' | '.join(map(_cell, row))} |" for row in rows)
    return "\n".join([f"| {' | '.join(header)} |", f"|{'---|' * len(header)}", *lines])


def _cell(text: str) -> str:
    """Return text that stays in its cell and is no markup: names of images and classes may hold anything."""
    flat = " ".join(str(text).split())
    for special in ("\\", "|", "`", "<", ">", "*", "_", "[", "]"):
        flat = flat.replace(special, {"<": "&lt;", ">": "&gt;"}.get(special, f"\\{special}"))
    return flat
