"""One self-contained HTML page of what `verify` found: no script, no request, every text escaped.

The page is made from the dictionary of `runtimes.verification.report`; the bundle, if there is one, adds ranges,
histograms, latency and golden images, and the folder of --val the images of answers that differ. A Content-Security-
Policy on the page forbids every request, so that even a mistake here could not send one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtimes.needed_library import needed_library
from runtimes.verification.html.evidence import BundleEvidence, TensorRange, bundle_evidence, thumbnail
from runtimes.verification.html.plots import block_plot, convergence_plot, histogram_plot, latency_plot
from runtimes.verification.shown_figures import decibel, number, percent, size
from runtimes.verification.shown_intervals import agreement_interval, drop_interval_pp

if TYPE_CHECKING:
    from markupsafe import Markup

TEMPLATE = "page.html.jinja"

MAX_FLIPS = 24
"""Answers that differ shown per file and set of images, the surest first."""

MAX_OPEN_FLIPS = 9
"""Of these, shown at once; the others are folded away."""

MAX_HISTOGRAMS = 12
"""Histograms shown at once; the others are folded away."""

MAX_CLASSES = 12
"""Classes shown, those with most differing answers first."""

VERDICT_WORDS = {"pass": "Pass", "fail": "Fail", "inconclusive": "Inconclusive", "skipped": "Skipped"}

Report = Mapping[str, Any]


def html_report(report: Report, *, evidence: BundleEvidence | None = None) -> str:
    """Return the page.

    Raises:
        MissingDependencyError: If jinja2 or matplotlib is not installed.
        BundleError: If the bundle's calibration.json or report.json cannot be read.
    """
    jinja2 = needed_library("jinja2", 'the HTML report needs jinja2; pip install "resnet-export[report]"')
    from markupsafe import Markup  # which jinja2 brings

    seen = bundle_evidence(Path(report["subject"]["path"])) if evidence is None else evidence
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "decibel": decibel, "number": number, "size": size}
    labels = report["labels"]
    page = environment.get_template(TEMPLATE).render(
        report=report,
        words=VERDICT_WORDS,
        title=report["subject"]["model"] or Path(report["subject"]["path"]).name,
        gates=_gates(report),
        rows=[_row(file, part) for file in report["files"] for part in file["comparisons"]],
        exported={row["file"]: row for row in seen.rows},
        bisects=[(file, _plot(Markup, block_plot, file["bisect"]["blocks"])) for file in _bisected(report)],
        not_bisected=_why_not_bisected(report),
        flips=list(_flips(report, seen)),
        label=lambda index: _label(labels, index),
        classes=list(_classes(report)),
        histograms=_histograms(Markup, seen),
        max_open_flips=MAX_OPEN_FLIPS,
        max_histograms=MAX_HISTOGRAMS,
        evidence=seen,
        convergence=_convergence(Markup, seen),
        latency=_plot(Markup, latency_plot, [row for row in seen.rows if row.get("latency")]),
    )
    return str(page)


def _plot(markup: type[Markup], draw: Callable[..., str], *data: Any) -> Markup | None:
    """Return a plot as markup, None where there is nothing to draw. What matplotlib wrote is escaped by it."""
    return markup(draw(*data)) if data[0] else None


def _row(file: Report, part: Report) -> dict[str, Any]:
    found = part["metrics"]
    intervals = {"agreement": agreement_interval(found), "drop": drop_interval_pp(found)}
    return {"file": file, "part": part, "metrics": found, **intervals}


def _gates(report: Report) -> list[tuple[Report, Report]]:
    """Return every gate with its file: what failed first, then what shows nothing, then what passed."""
    order = ("fail", "inconclusive", "pass", "skipped")
    gates = [(file, gate) for file in report["files"] for gate in file["gates"]]
    return sorted(gates, key=lambda pair: order.index(pair[1]["verdict"]))


def _bisected(report: Report) -> list[Report]:
    return [file for file in report["files"] if file["bisect"] is not None and file["bisect"]["blocks"]]


def _why_not_bisected(report: Report) -> list[str]:
    """Return why there is no picture of the blocks, where there is none at all."""
    if _bisected(report):
        return []
    asked = [f"{file['name']}: {file['bisect']['statement']}" for file in report["files"] if file["bisect"] is not None]
    return asked or ["Not asked for: run verify with --bisect to see which block loses how much."]


@dataclass(frozen=True, slots=True)
class Flips:
    """The answers of one file that differ, on one set of images."""

    file: Report
    part: Report
    shown: Sequence[tuple[Report, str | None]]

    @property
    def num_more(self) -> int:
        """How many are not shown."""
        return int(self.part["metrics"]["num_flips"] or 0) - len(self.shown)


def _flips(report: Report, evidence: BundleEvidence) -> Iterator[Flips]:
    val = report["images"]["val"]
    root = None if val is None else Path(val["root"])
    for file in report["files"]:
        for part in file["comparisons"]:
            if part["flips"]:
                shown = [(flip, thumbnail(flip["image"], root, evidence.golden)) for flip in part["flips"][:MAX_FLIPS]]
                yield Flips(file, part, shown)


def _label(labels: Sequence[str] | None, index: int | None) -> str:
    if index is None:
        return "-"
    return str(labels[index]) if labels is not None and 0 <= index < len(labels) else f"class {index}"


def _classes(report: Report) -> Iterator[tuple[Report, Report, list[Report]]]:
    """Yield file, comparison and the classes with most differing answers; sets without any are left out."""
    for file in report["files"]:
        for part in file["comparisons"]:
            worst = sorted(part["classes"], key=lambda row: row["num_equal"] - row["num_images"])
            differing = [row for row in worst if row["num_equal"] < row["num_images"]]
            if differing:
                yield file, part, differing[:MAX_CLASSES]


def _histograms(markup: type[Markup], evidence: BundleEvidence) -> list[tuple[TensorRange, Markup]]:
    return [
        (tensor, markup(histogram_plot(tensor)))
        for tensor in evidence.tensors
        if tensor.bin_width and any(tensor.counts)
    ]


def _convergence(markup: type[Markup], evidence: BundleEvidence) -> Markup | None:
    curves = [tensor for tensor in evidence.tensors if len(tensor.curve) == len(evidence.num_images) > 1]
    return _plot(markup, convergence_plot, curves, evidence.num_images)
