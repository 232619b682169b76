"""The end of a run as a person reads it: the table, where the bundle is, what to type next."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from resnet_export.console.terminal import print_table
from runtimes.verification.shown_figures import decibel, size

FEATURE_COLUMNS = ("", "output", "cosine", "pixels agree", "max |diff|", "SQNR", "size", "p50 latency")
COLUMNS = ("", "top-1", "agreement", "max |diff|", "SQNR", "size", "p50 latency")


def print_result(report: dict[str, Any]) -> None:
    """Print the table of a report and the lines below it."""
    title = report["model"]
    if report["measured_on"] is not None:
        title += f", measured on {report['measured_on']}"
    elsewhere = {row["latency"]["provider"] for row in report.get("other_runtimes", ())}
    computed_by = " or, in its row, ".join(("ONNX Runtime, CPU of this machine", *sorted(elsewhere)))
    footer = [f"latency: {computed_by}, one image; it says nothing about a GPU"]
    if report["int8_arithmetic"] is not None:
        footer.append(f"INT8 accuracy: {report['int8_arithmetic']}")
    if report["accuracy_budget"] is not None:
        footer.append(f"accuracy budget holds: {report['accuracy_budget']['statement']}")
    if report.get("keep_float") is not None:
        footer.append(f"in float by --keep-float: {report['keep_float']['statement']}")
    footer += ["", f"bundle: {report['bundle']}/", f"next:   {report['next']}"]
    rows = list(_with_plain_sessions(report["rows"], report.get("plain_sessions", [])))
    rows += [{**row, "size_bytes": None} for row in report.get("other_runtimes", ())]
    rows += filter(None, [report["int8_default_kernels"]])
    if any("features" in row for row in rows):
        print_table(title, FEATURE_COLUMNS, (cells for row in rows for cells in feature_rows(row)), footer)
    else:
        print_table(title, COLUMNS, (table_row(row) for row in rows), footer)


def _with_plain_sessions(rows: list[dict[str, Any]], plain: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield each file's row, and behind it that of its plain session, which is the one that was timed."""
    sessions = {row["file"]: row for row in plain}
    for row in rows:
        session = sessions.get(row["file"])
        yield row if session is None else {**row, "latency": None}
        if session is not None:
            yield {**session, "size_bytes": None}


def feature_rows(row: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return one line of cells per output of a file, or one for the reference."""
    ends = (size(row["size_bytes"]), _latency(row["latency"]))
    if "features" not in row:
        return [(row["name"], "all", "reference", "-", "-", "-", *ends)]
    lines: list[tuple[str, ...]] = []
    for place, (output, found) in enumerate(row["features"].items()):
        cosine = "-" if found["cosine"] is None else f"{found['cosine']:.6f}"
        pixels = "-" if found.get("pixel_agreement") is None else f"{found['pixel_agreement']:.2%}"
        cells = (output, cosine, pixels, f"{found['max_abs_diff']:.2g}", _sqnr(found))
        lines.append((row["name"], *cells, *ends) if place == 0 else ("", *cells, "", ""))
    return lines


def table_row(row: dict[str, Any]) -> tuple[str, ...]:
    """Return the cells of one row; a dash where nothing was measured."""
    return (row["name"], *_parity_cells(row), size(row["size_bytes"]), _latency(row["latency"]))


def _parity_cells(row: dict[str, Any]) -> tuple[str, str, str, str]:
    parity = row["parity"]
    if parity is None:
        return ("-", "-", "-", "-")
    top1 = "-" if parity["top1_candidate"] is None else f"{parity['top1_candidate']:.2%}"
    if row["file"] is None:
        return (top1, "reference", "-", "-")
    agreement = "-" if parity["agreement"] is None else f"{parity['agreement']:.2%}"
    return (top1, agreement, f"{parity['max_abs_diff']:.2g}", _sqnr(parity))


def _sqnr(parity: dict[str, Any]) -> str:
    return "exact" if parity["max_abs_diff"] == 0 else decibel(parity["sqnr_db"])


def _latency(latency: dict[str, Any] | None) -> str:
    return "-" if latency is None else f"{latency['p50_ms']:.2f} ms"
