"""Latency against batch size as a picture, by matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from exporter.errors import ExportError
from resnet_export.bench_job.stages import BenchRow
from runtimes.io.atomic_write import replacing
from runtimes.needed_library import needed_library


def check_can_plot() -> None:
    """Raise MissingDependencyError where matplotlib is not installed, before anything is measured."""
    _figure_class()


def plot_rows(rows: Sequence[BenchRow], path: Path) -> None:
    """Draw the median of `run` over the batch size, a line for each candidate; the bar is p50 to p90.

    Raises:
        ExportError: If the file's format is unknown or it cannot be written.
    """
    figure = _figure_class()(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(row.name for row in rows):
        mine = sorted((row for row in rows if row.name == name), key=lambda row: row.batch)
        medians = [row.stages["run"].p50_ms for row in mine]
        upper = [row.stages["run"].p90_ms - row.stages["run"].p50_ms for row in mine]
        axes.errorbar(
            [row.batch for row in mine], medians, [[0.0] * len(upper), upper], marker="o", capsize=3, label=name
        )
    axes.set(xlabel="batch", ylabel="run, milliseconds", xscale="log", yscale="log")
    axes.set_xticks(sorted({row.batch for row in rows}), [str(size) for size in sorted({row.batch for row in rows})])
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    try:
        with replacing(path) as temporary:
            figure.savefig(temporary, dpi=150, format=path.suffix.removeprefix(".") or "png")
    except (ValueError, OSError) as err:
        raise ExportError(f"{path} cannot be drawn: {err}") from err


def _figure_class() -> Any:
    told = '--plot needs matplotlib ({err}); pip install "resnet-export[bench]"'
    return needed_library("matplotlib.figure", told).Figure  # no pyplot: no window, no global state
