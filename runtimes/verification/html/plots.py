"""matplotlib to inline SVG in the page's own colors, which follow the reader's light or dark scheme.

A plot is drawn once, in colors that stand for roles; in the SVG's text each becomes a CSS variable of the page.
Names of tensors and blocks are text, never mathematics: `$` means nothing in them.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from runtimes.needed_library import needed_library
from runtimes.verification.html.evidence import TensorRange

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROLES = {
    "#010203": "var(--text)",
    "#040506": "var(--muted)",
    "#070809": "var(--line)",
    "#0a0b0c": "var(--accent)",
    "#0d0e0f": "var(--bad)",
    "#101112": "var(--soft)",
}
"""Colours that matplotlib draws in, to the page's variables."""

TEXT, MUTED, LINE, ACCENT, BAD, SOFT = ROLES

MOVED = 0.10
"""Movement per doubling of the images above which a scale is called moving, as `observers.convergence.MOVED`."""

MAX_NAMED = 5
"""Curves that are named in a plot."""

_STYLE = {
    "svg.fonttype": "none",
    "svg.hashsalt": "resnet-export",  # the same data gives the same text
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": TEXT,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.parse_math": False,
}


def histogram_plot(tensor: TensorRange) -> str:
    """Return the distribution of |x| with the range that was kept, as SVG; counts on a logarithmic axis."""
    figure, axes = _figure(2.7, 1.25)
    counts = np.asarray(tensor.counts, np.float64)
    edges = np.arange(len(counts) + 1) * tensor.bin_width
    shares = counts / counts.sum()
    kept = edges[:-1] < tensor.amax
    floor = 0.5 / counts.sum()
    for part, color in ((kept, ACCENT), (~kept, BAD)):
        heights = np.where(part, np.maximum(shares, floor), floor)
        axes.fill_between(edges, floor, np.append(heights, heights[-1]), step="post", color=color, linewidth=0)
    axes.axvline(tensor.amax, color=TEXT, linewidth=1.2)
    axes.set_yscale("log")
    axes.set_ylim(floor, 1)
    axes.set_xlim(0, max(tensor.max_abs, tensor.amax) * 1.03)
    axes.set_yticks([])
    axes.minorticks_off()
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    axes.locator_params(axis="x", nbins=4)
    return _svg(figure)


def convergence_plot(tensors: Sequence[TensorRange], num_images: Sequence[int]) -> str:
    """Return how every scale settled, relative to its last value, as SVG; the latest movers are named."""
    figure, axes = _figure(9.4, 3.0)
    curves = [(tensor.name, np.asarray(tensor.curve) / tensor.curve[-1]) for tensor in tensors if tensor.curve]
    last = [(abs(math.log(curve[-2])) if len(curve) > 1 else 0.0) for _, curve in curves]
    named = sorted(range(len(curves)), key=lambda place: -last[place])[:MAX_NAMED]
    for place, (name, curve) in enumerate(curves):
        moving = place in named and last[place] > math.log(1 + MOVED)
        if not moving:
            axes.plot(num_images, 100 * curve, alpha=0.45, color=ACCENT, linewidth=0.9)
        else:
            axes.plot(num_images, 100 * curve, color=BAD, linewidth=1.6, zorder=3)
            point = (num_images[-2], 100 * curve[-2])
            axes.annotate(name, point, (-6, 6), textcoords="offset points", ha="right", color=BAD, fontsize=9)
    axes.axhline(100, color=MUTED, linewidth=0.8)
    axes.set_xscale("log", base=2)
    axes.set_xticks(list(num_images), [str(count) for count in num_images])
    axes.minorticks_off()
    axes.set_xlabel("calibration images")
    axes.set_ylabel("scale, % of the last")
    return _svg(figure)


def block_plot(blocks: Sequence[Any]) -> str:
    """Return the SQNR of every block, alone and arrived at its output, as SVG; suspects stand out."""
    figure, axes = _figure(9.4, 0.7 + 0.2 * len(blocks))
    places = np.arange(len(blocks))
    finite = [value for block in blocks for value in (block["own_sqnr_db"], block["sqnr_db"]) if value is not None]
    top = max([*finite, 10.0])
    own = [top if block["own_sqnr_db"] is None else max(block["own_sqnr_db"], 0.0) for block in blocks]
    colors = [BAD if block["suspect"] else ACCENT for block in blocks]
    axes.barh(places, own, height=0.62, color=colors, alpha=0.85)
    arrived = [(block["sqnr_db"], place) for place, block in enumerate(blocks) if block["sqnr_db"] is not None]
    if arrived:
        axes.plot(*zip(*arrived, strict=True), color=TEXT, linewidth=1.2, marker="o", markersize=3.5)
    for place, block in enumerate(blocks):
        if block["expected_sqnr_db"] is not None:
            axes.plot([block["expected_sqnr_db"]] * 2, [place - 0.42, place + 0.42], color=MUTED, linewidth=1.6)
    axes.set_yticks(places, [str(block["name"]) for block in blocks])
    for label, block in zip(axes.get_yticklabels(), blocks, strict=True):
        label.set_color(BAD if block["suspect"] else TEXT)
    axes.set_ylim(len(blocks) - 0.4, -0.6)
    axes.set_xlim(min([0.0, *finite]), top * 1.04)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("SQNR in dB")
    return _svg(figure)


def latency_plot(rows: Sequence[Any]) -> str:
    """Return the median latency of each file and its 90th percentile, as SVG."""
    figure, axes = _figure(9.4, 0.75 + 0.36 * len(rows))
    places = np.arange(len(rows))
    medians = [row["latency"]["p50_ms"] for row in rows]
    slowest = [row["latency"]["p90_ms"] for row in rows]
    axes.barh(places, medians, height=0.55, color=ACCENT)
    for place, (median, slow) in enumerate(zip(medians, slowest, strict=True)):
        axes.plot([median, slow], [place, place], color=MUTED, linewidth=1.4)
        axes.plot([slow], [place], color=MUTED, marker="|", markersize=9)
        axes.text(slow, place, f"   {median:.2f} ms", va="center", color=TEXT, fontsize=9)
    axes.set_yticks(places, [str(row["name"]) for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.set_xlim(0, max(slowest) * 1.12)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", colors=TEXT)
    axes.set_xlabel("milliseconds per image, median and 90th percentile")
    return _svg(figure)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure in inches at 100 points an inch, without the state of pyplot."""
    matplotlib = needed_library("matplotlib", 'the HTML report needs matplotlib; pip install "resnet-export[report]"')
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
    return figure, axes


def _svg(figure: Figure) -> str:
    """Return the figure as an `<svg>` that fills its container, without the file's preamble and metadata."""
    import warnings

    import matplotlib

    content = io.StringIO()
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph", UserWarning)  # the browser has its own fonts
        figure.savefig(content, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(content.getvalue())


def _inline(text: str) -> str:
    """Make matplotlib's file part of a page: no preamble, no style of its own, no id that another plot has too."""
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style .*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    head, _, rest = text.partition(">")
    head = re.sub(r' (?:width|height|xmlns:xlink|xmlns|version)="[^"]*"', "", head)
    text = re.sub(r"font-family: [^;\"]*", "font-family: inherit", f'{head} role="img">{rest}')
    salt = hashlib.sha256(text.encode()).hexdigest()[:8]
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', text))
    text = re.sub(r' id="([^"]*)"', lambda found: f' id="{salt}-{found[1]}"' if found[1] in used else "", text)
    text = re.sub(r'(href="#|url\(#)', rf"\g<1>{salt}-", text).replace("xlink:href", "href")
    for color, variable in ROLES.items():
        text = text.replace(color, variable)
    return re.sub(r"\n\s*", " ", text)
