"""The sweeps' pages: what was run, and what stands from an earlier run with its date."""

from __future__ import annotations

from pathlib import Path

from benchmarks.sweep_rows import Sweep, kept_lines

SWEEP = Sweep(
    script=Path("sweep.py"),
    description="",
    document=Path("page.md"),
    fill=lambda row, name, size: None,
    wrong=lambda row: "",
    opening=("# Page", "", ""),
    header="model | verdict | layers",
    cells=lambda row: [str(row["layers"])],
)


def rows(day, **layers):
    versions = {"cores": 2, "machine": "x86_64", "onnx": "1.23.2"}
    return {name: {"name": name, "layers": count, "date": day, "versions": versions} for name, count in layers.items()}


def test_a_variant_that_was_not_run_keeps_its_line_and_the_day_of_it():
    first = SWEEP.page(rows("2026-11-23", resnet18=21, resnet34=37))
    assert "| resnet34 | green | 37 |" in first
    second = SWEEP.page(rows("2026-11-30", resnet18=20), first)
    assert "2026-11-30, 2 cores" in second
    assert "| resnet18 | green | 20 |" in second
    assert "| resnet34 | green of 2026-11-23 | 37 |" in second
    assert "| resnet50 | not run yet |" in second
    third = SWEEP.page(rows("2026-12-01", resnet50=54), second)
    assert "| resnet18 | green of 2026-11-30 | 20 |" in third
    assert "| resnet34 | green of 2026-11-23 | 37 |" in third


def test_lines_of_another_table_are_not_kept():
    page = SWEEP.page(rows("2026-11-23", resnet18=21))
    assert kept_lines(page, 3) == {"resnet18": "green of 2026-11-23 | 21"}
    assert kept_lines(page, 4) == kept_lines("", 3) == {}
