"""Markdown from what was measured, and the place in a document where it goes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from benchmarks.quantizer_dialect import TENSORRT
from benchmarks.quantizer_result import RowResult, RunResult, median

BUSY = 0.5
"""Load average above which a run says that its times are those of a busy machine. Our choice: half a core."""

_ACCURACY = ("SQNR of logits", "as ONNX Runtime runs it: default / precise", "agreement", "KL(softmax)")
_TOP1 = ("top-1", "drop, points (McNemar p)")
_COST = ("x FP32 forward", "peak memory (its libraries alone)", "latency", "file")


def markdown(run: RunResult) -> str:
    """Return header, table, failures and versions."""
    accuracy = any(row.accuracy for row in run.rows)
    labelled = run.float_top1 is not None
    columns = ["quantizer", "dialect", "INT8 layers", *(_ACCURACY if accuracy else ())]
    columns += [*(_TOP1 if labelled else ()), *_COST]
    rows = [_float_row(run, accuracy, labelled), *(_row(row, accuracy, labelled) for row in run.rows)]
    lines = [*_header(run), "", _line(columns), _line(["---"] * len(columns)), *(_line(row) for row in rows), ""]
    lines += _notes(run)
    return "\n".join(lines)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |"


def _header(run: RunResult) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in run.versions.items())
    lines = [f"{run.network}, {run.images}; {run.machine}; {run.date}.", f"Evaluated with {versions}."]
    if run.repeats > 1:
        lines.append(f"Times and memory: median of {run.repeats} rounds, rows taking turns.")
    if run.load > BUSY:
        lines.append(
            f"**The machine was busy (load average {run.load:.1f} when the run began): times and latencies below are "
            "for orientation only.**"
        )
    return lines


def _float_row(run: RunResult, accuracy: bool, labelled: bool) -> list[str]:
    cells = ["FP32", "float", "-", *(["-"] * len(_ACCURACY) if accuracy else [])]
    if labelled:
        cells += [_percent(run.float_top1), "-"]
    seconds = median(run.forward_seconds)
    return [
        *cells,
        "-" if seconds is None else f"1 ({seconds:.2f} s)",
        _gigabytes(median(run.forward_peak_bytes)),
        _milliseconds(median(run.float_latency_ms)),
        f"{run.float_bytes / 1e6:.1f} MB",
    ]


def _row(row: RowResult, accuracy: bool, labelled: bool) -> list[str]:
    num_columns = 3 + len(_COST) + (len(_ACCURACY) if accuracy else 0) + (len(_TOP1) if labelled else 0)
    if row.error:
        return [row.name, "failed, see below", *["-"] * (num_columns - 2)]
    layers = f"{row.dialect['num_integer']} of {row.dialect['num_weighted']}"
    cells = [row.name, dialect_words(row), layers]
    if accuracy:
        modes = [_decibel(row.measured("sqnr_db", mode)) for mode in ("default", "precise")]
        cells += [
            _decibel(row.measured("sqnr_db")),
            "-" if modes == ["-", "-"] else " / ".join(modes),
            _percent(row.measured("agreement")),
            _small(row.measured("kl_softmax")),
        ]
    if labelled:
        cells += [_percent(row.measured("top1")), _drop(row)]
    times = median(row.times_forward)
    return [
        *cells,
        "-" if times is None else f"{times:.2f}",
        f"{_gigabytes(median(row.peak_bytes))} ({_gigabytes(median(row.imported_bytes))})",
        _milliseconds(median(row.latency_ms)),
        "-" if row.file_share is None else f"{100 * row.file_share:.1f} %",
    ]


def dialect_words(row: RowResult) -> str:
    """Return the dialect, and in brackets why it is not TensorRT's."""
    reasons = row.dialect.get("reasons", ())
    name: str = row.dialect["name"]
    return name if name == TENSORRT or not reasons else f"{name} ({', '.join(reasons)})"


def _drop(row: RowResult) -> str:
    before, after, p_value = (row.measured(name) for name in ("top1_float", "top1", "p_value"))
    if before is None or after is None or p_value is None:
        return "-"
    return f"{100 * (before - after):+.2f} (p = {p_value:.2g})"


def _notes(run: RunResult) -> list[str]:
    lines = [f"- {row.name}: {row.error}" for row in run.rows if row.error]
    lines += [f"- {row.name}: no latency: {row.latency_error}" for row in run.rows if row.latency_error]
    for row in run.rows:
        for mode, values in row.accuracy.items():
            if "error" in values:
                lines.append(f"- {row.name}: does not run ({mode}): {values['error']}")
    versions: dict[str, list[str]] = {}
    for row in run.rows:
        words = ", ".join(f"{name} {version}" for name, version in row.versions.items())
        if words:
            versions.setdefault(words, []).append(row.name)
    peers = [f"{names[0].split()[0]}: {words}" for words, names in versions.items()]
    return [*(["What failed, in its own words:", "", *lines, ""] if lines else []), f"Versions: {'; '.join(peers)}."]


def _decibel(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} dB"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def _small(value: float | None) -> str:
    return "-" if value is None else f"{value:.5f}"


def _gigabytes(value: float | None) -> str:
    return "-" if value is None else f"{value / 1e9:.2f} GB"


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} ms"


def write_between_markers(document: Path, name: str, text: str) -> None:
    """Replace what stands between `<!-- table:NAME -->` and `<!-- /table:NAME -->`.

    Raises:
        ValueError: If the document lacks the markers, or has them twice.
    """
    content = document.read_text(encoding="utf-8")
    opening, closing = f"<!-- table:{name} -->", f"<!-- /table:{name} -->"
    pattern = re.compile(f"{re.escape(opening)}.*?{re.escape(closing)}", re.DOTALL)
    if len(pattern.findall(content)) != 1:
        raise ValueError(f"{document}: expected {opening} and {closing} once each, in this order")
    replaced = pattern.sub(lambda _: f"{opening}\n\n{text.strip()}\n\n{closing}", content)
    temporary = document.with_name(f".{document.name}.tmp")
    temporary.write_text(replaced, encoding="utf-8")
    temporary.replace(document)
