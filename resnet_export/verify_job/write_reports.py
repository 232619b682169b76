"""The end of `verify`: table, files, exit code. One dictionary goes in; each writer is one call."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import Any

from resnet_export.console.put_json import append_text, prints_json, put_json, put_text
from resnet_export.console.terminal import print_table
from runtimes.counted import counted
from runtimes.verification.junit import junit_xml
from runtimes.verification.markdown import markdown_summary
from runtimes.verification.shown_figures import decibel, number

MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?", "skipped": "-"}
COLUMNS = ("", "images", "top-1", "agreement", "max |diff|", "SQNR", "KL")

BAR_WIDTH = 24
MAX_BAR_DB = 60.0
"""SQNR of a full bar."""

MAX_FLIPS = 5

Report = Mapping[str, Any]


def _html(report: Report) -> str:
    from runtimes.verification.html import html_report

    return html_report(report)


WRITERS: Mapping[str, Callable[[Report], str]] = {"junit": junit_xml, "markdown": markdown_summary, "html": _html}
"""Option to what makes the file's text of the report."""

APPENDED = frozenset({"markdown"})
"""Options whose file is added to: a CI's summary page has other parts."""


def write_reports(report: dict[str, Any], arguments: argparse.Namespace) -> int:
    """Write what was asked for, print, and return the exit code."""
    if arguments.json is not None:
        put_json(report, arguments.json)
    for option, text_of in WRITERS.items():
        if (path := getattr(arguments, option)) is not None:
            (append_text if option in APPENDED else put_text)(text_of(report), path)
    if not arguments.quiet and not prints_json(arguments):
        print_report(report)
    elif report["exit_code"]:
        print(f"{report['verdict']}: {report['summary']}", file=sys.stderr)
    return int(report["exit_code"])


def print_report(report: Report) -> None:
    """Print the report as a person reads it."""
    subject = report["subject"]
    title = f"{subject['model'] or subject['path']}: {report['images']['statement'].split(':')[0]}"
    rows = [_row(file, part) for file in report["files"] for part in file["comparisons"]]
    print_table(title, COLUMNS, rows, list(_footer(report)))


def _row(file: Report, part: Report) -> tuple[str, ...]:
    found = part["metrics"]
    return (
        file["name"],
        f"{found['num_images']} {part['on']}",
        _percent(found["top1_candidate"]),
        _percent(found["agreement"]),
        number(found["max_abs_diff"]),
        "exact" if found["exact"] else decibel(found["sqnr_db"]),
        "-" if found["kl"] is None else f"{found['kl']:.1e}",
    )


def _footer(report: Report) -> list[str]:
    lines = [f"reference: {report['reference']['statement']}"]
    lines += [f"INT8: {file['arithmetic']}" for file in report["files"] if file["arithmetic"]][:1]
    if report["images"]["val"] is None:
        lines.append(f"note: {report['images']['statement']}")
    lines.append("")
    for file in report["files"]:
        for gate in file["gates"]:
            lines.append(f"{MARKS[gate['verdict']]} {file['name']}, {gate['on']}: {gate['sentence']}")
    for file in report["files"]:
        lines += _flip_lines(file, report["labels"])
        if file["bisect"] is not None:
            lines += ["", *bisect_lines(file["name"], file["bisect"])]
    if report["attribution"] is not None:
        lines += ["", f"attribution: {report['attribution']['statement']}"]
    if report["baseline"] is not None:
        lines += ["", f"baseline: {report['baseline']['statement']}"]
    if report["causes"]:
        lines += ["", *(f"cause: {cause['file']}: {cause['sentence']}" for cause in report["causes"])]
    return [*lines, "", f"{report['verdict']}: {report['summary']}"]


def _flip_lines(file: Report, labels: list[str] | None) -> list[str]:
    flips = [flip for part in file["comparisons"] for flip in part["flips"]]
    if not flips:
        return []
    name = (lambda index: str(index)) if labels is None else (lambda index: labels[index])
    flips.sort(key=lambda flip: -flip["margin"])
    lines = [
        f"  {flip['image']}: {name(flip['reference_class'])} (margin {flip['margin']:.2g}) became "
        f"{name(flip['candidate_class'])}"
        for flip in flips[:MAX_FLIPS]
    ]
    more = len(flips) - MAX_FLIPS
    return [
        "",
        f"{file['name']}: {counted(len(flips), 'answer differs', 'answers differ')}",
        *lines,
        *([f"  and {more} more"] if more > 0 else []),
    ]


def bisect_lines(name: str, found: Report) -> list[str]:
    """Return the table of blocks with a bar each: its own SQNR, fed with the reference's input."""
    if not found["blocks"]:
        return [f"{name}, block by block: {found['statement']}"]
    width = max(len(block["name"]) for block in found["blocks"])
    lines = [
        f"{name}, block by block on {counted(found['num_images'], 'image')}: SQNR of the block alone, "
        "and arrived at its output"
    ]
    for block in found["blocks"]:
        own = block["own_sqnr_db"]
        share = 1.0 if own is None else min(1.0, max(0.0, own / MAX_BAR_DB))
        bar = ("█" * round(share * BAR_WIDTH)).ljust(BAR_WIDTH, "·")
        expected = "" if block["expected_sqnr_db"] is None else f"  plain INT8 {decibel(block['expected_sqnr_db'])}"
        mark = "  <-- " + "; ".join(block["causes"]) if block["suspect"] else ""
        lines.append(
            f"  {block['name']:<{width}}  {bar} {decibel(own):>9} {decibel(block['sqnr_db']):>9}{expected}{mark}"
        )
    return [*lines, f"  {found['statement']}"]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.2%}"
