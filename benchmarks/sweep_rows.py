"""What the sweeps over all variants share: one process per variant, resumable rows, photographs, and how long it took.

A sweep hands `run_all` two functions: one fills the row of one variant, one makes the document of all rows.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from runtimes.machine.installed_versions import installed_versions

if TYPE_CHECKING:
    from onnx import ModelProto

    from calibration.methods.effort import Effort
    from calibration.pipeline.quantize_model import QuantizationResult
    from exporter.models.loaded_model import LoadedModel

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# Python puts the script's folder first, where `calibration` would be a file of it and not the package.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry).resolve() != HERE), str(HERE)]

TIMEOUT_S = 3600
NUM_CALIBRATION, NUM_COMPARED, NUM_BATCHES = 16, 8, 4

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sweep:
    """One sweep.

    Attributes:
        script: Its file; a process of its own runs it for each variant. build/ holds its rows.
        description: What `--help` says.
        document: The page it writes.
        fill: Fills the row of a variant: row, name, side of the images in pixels or None.
        wrong: What is wrong with a row that has no error; "" is green.
        opening: Lines of the page before its tables; the conditions follow on the last.
        header: The columns, model and verdict first.
        cells: A row that has no error to its cells behind the verdict.
        closing: Lines behind the tables.
    """

    script: Path
    description: str
    document: Path
    fill: Callable[[Row, str, int | None], None]
    wrong: Callable[[Row], str]
    opening: tuple[str, ...]
    header: str
    cells: Callable[[Row], list[str]]
    closing: Callable[[dict[str, Row]], list[str]] = lambda rows: []

    def verdict(self, row: Row) -> str:
        """Return "green", or in a few words why not."""
        return told_error(row) if "error" in row else self.wrong(row) or "green"

    def page(self, rows: dict[str, Row], before: str = "") -> str:
        """Return the page: a table for each family; a variant that was not run keeps its line of the page `before`."""
        from exporter.models.model_names import FAMILIES

        kept = kept_lines(before, self.header.count("|") + 1)
        *before, last = self.opening
        lines = [*before, f"{last} {conditions(rows)}", ""]
        for family in FAMILIES.values():
            lines += [f"## {family.title}", "", f"| {self.header} |", "|---" * (self.header.count("|") + 1) + "|"]
            lines += [
                f"| {name} | {self._line(rows[name]) if name in rows else kept.get(name, 'not run yet')} |"
                for name in family.models
            ]
            lines.append("")
        return "\n".join([*lines, *self.closing(rows)]).rstrip() + "\n"

    def _line(self, row: Row) -> str:
        if "error" in row:
            return " | ".join([self.verdict(row), *["-"] * (self.header.count("|") - 1)])
        return " | ".join([self.verdict(row), *self.cells(row)])


def run_all(sweep: Sweep) -> int:
    """Run what the command line asks for and write the page; return the exit code."""
    parser = argparse.ArgumentParser(
        description=sweep.description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", help="names separated by commas")
    parser.add_argument("--family", help="as resnet-export models --family")
    parser.add_argument("--size", type=int, help="side of the images in pixels (default: the model's own)")
    parser.add_argument("--again", action="store_true", help="run variants that have a result too")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "build" / sweep.script.stem, help="folder of the JSON files"
    )
    parser.add_argument("--document", type=Path, default=sweep.document)
    parser.add_argument("--worker", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, file = options.worker
        write_row(Path(file), examine(sweep, name, options.size))
        return 0
    options.results.mkdir(parents=True, exist_ok=True)
    for name in chosen(options.only, options.family):
        file = options.results / f"{name}.json"
        if file.exists() and not options.again:
            continue
        print(f"{name} ...", end=" ", flush=True, file=sys.stderr)
        run(sweep.script, name, file, options.size)
        print(sweep.verdict(json.loads(file.read_text(encoding="utf-8"))), file=sys.stderr)
    rows = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in options.results.glob("*.json")}
    before = options.document.read_text(encoding="utf-8") if options.document.exists() else ""
    options.document.write_text(sweep.page(rows, before), encoding="utf-8")
    return 0


def kept_lines(page: str, num_cells: int) -> dict[str, str]:
    """Return, by variant, what a page says of it behind its name; the verdict gets the page's date if it has none."""
    day = re.search(r"(\d{4}-\d\d-\d\d), \d+ cores", page)
    kept = {}
    for line in page.splitlines():
        name, *cells = [cell.strip() for cell in line.strip("| ").split(" | ")]
        if day and len(cells) == num_cells - 1 and cells[0] not in ("verdict", "not run yet"):
            dated = cells[0] if re.search(r" of \d{4}-\d\d-\d\d$", cells[0]) else f"{cells[0]} of {day.group(1)}"
            kept[name] = " | ".join([dated, *cells[1:]])
    return kept


def chosen(only: str | None, family: str | None) -> list[str]:
    from exporter.models.model_names import FAMILIES, MODEL_NAMES, check_family, parse_model

    if only is not None:
        names = [name.strip() for name in only.split(",")]
        for name in names:
            parse_model(name)
        return names
    if family is not None:
        check_family(family)
        return [name for one in FAMILIES.values() if one.name == family for name in one.models]
    return list(MODEL_NAMES)


def run(script: Path, name: str, file: Path, size: int | None) -> None:
    """Examine one variant in a process of its own; whatever becomes of it, `file` says so."""
    command = [sys.executable, str(script), "--worker", name, str(file)]
    command += [] if size is None else ["--size", str(size)]
    started = time.perf_counter()
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT_S)
        failure = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        failure = f"no result within {TIMEOUT_S} s"
    if failure:
        write_row(file, {"name": name, "error": failure, "seconds": {"all": time.perf_counter() - started}})


def write_row(file: Path, row: Row) -> None:
    """Write beside and rename: an interrupted run leaves no half row."""
    temporary = file.with_suffix(".part")
    temporary.write_text(json.dumps(row, indent=1), encoding="utf-8")
    os.replace(temporary, file)


def examine(sweep: Sweep, name: str, size: int | None) -> Row:
    """Return one row; a stage that fails ends it with its reason."""
    row: Row = {"name": name, "seconds": {}, "versions": versions(), "date": date.today().isoformat()}
    started = time.perf_counter()
    try:
        sweep.fill(row, name, size)
    except Exception as err:  # the row says what happened, of whatever type
        row["error"] = f"{type(err).__name__}: {err}"
        traceback.print_exc()
    row["seconds"]["all"] = time.perf_counter() - started
    return row


def told_error(row: Row) -> str:
    """Return in a few words where a row ended, for a cell of a table."""
    return f"{row.get('stage', 'start')}: {row['error']}".replace("\n", " ").replace("|", "/")[:300]


class Stage:
    """Notes how long a stage took, also where it fails, and which it was."""

    def __init__(self, row: Row, name: str) -> None:
        self._row, self._name = row, name

    def __enter__(self) -> None:
        self._row["stage"] = self._name
        self._started = time.perf_counter()

    def __exit__(self, *unused: object) -> None:
        self._row["seconds"][self._name] = time.perf_counter() - self._started


@dataclass(frozen=True, slots=True)
class Variant:
    """A variant with random weights, and photographs to calibrate on and to compare on, float32 [n, 3, H, W]."""

    loaded: LoadedModel
    calibration: NDArray[np.float32]
    compared: NDArray[np.float32]


def load_variant(row: Row, name: str, size: int | None) -> Variant:
    """Load a variant at a size in pixels, or its own; the row says at which."""
    from exporter.models.load_model import load_model
    from exporter.models.loaded_model import RANDOM_WEIGHTS, ModelRequest
    from exporter.preprocessing.options import PreprocessingOptions

    loaded = load_model(ModelRequest(name, RANDOM_WEIGHTS, preprocessing=PreprocessingOptions(input_size=size)))
    row["input_size"] = list(loaded.preprocessing.input_size)
    return Variant(loaded, *photographs(loaded.preprocessing))


def quantize_variant(model: ModelProto, variant: Variant, effort: Effort) -> QuantizationResult:
    """Quantize as a user would, with Q/DQ computed as written."""
    from calibration.pipeline.quantize_model import quantize
    from runtimes.ort.adapter import OrtRuntime

    exact = partial(OrtRuntime, exact_qdq=True)
    batches = np.split(variant.calibration, NUM_BATCHES)
    return quantize(model, batches, open_runtime=OrtRuntime, open_exact=exact, effort=effort)


def photographs(preprocessing: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return prepared crops of photographs to calibrate on, and others to compare on."""
    import skimage.data
    from PIL import Image

    from runtimes.preprocessing.transform import preprocess

    random = np.random.default_rng(0)
    photos = [Image.fromarray(getattr(skimage.data, name)()) for name in ("astronaut", "coffee", "chelsea", "rocket")]
    crops = []
    for number in range(NUM_CALIBRATION + NUM_COMPARED):
        photo = photos[number % len(photos)]
        side = min(photo.size) // 2
        left, top = (int(random.integers(0, extent - side)) for extent in photo.size)
        crops.append(preprocess(preprocessing, photo.crop((left, top, left + side, top + side))))
    prepared = np.stack(crops)
    return prepared[:NUM_CALIBRATION], prepared[NUM_CALIBRATION:]


def logits(model: Any, images: NDArray[np.float32]) -> NDArray[np.float32]:
    from runtimes.ort.adapter import OrtRuntime

    with OrtRuntime(model, exact_qdq=True) as runtime:
        return runtime.run({"input": images})["logits"]


def sqnr_db(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> float | None:
    noise = float(np.square(reference.astype(np.float64) - candidate).sum())
    if not np.isfinite(noise) or noise == 0.0:
        return None
    return 10 * float(np.log10(np.square(reference.astype(np.float64)).sum() / noise))


def decibel(value: float | None, digits: int = 0) -> str:
    """Return a level for a cell of a table; None is no noise at all."""
    return "exact" if value is None else f"{value:.{digits}f} dB"


def pixels(row: Row) -> str:
    return "{} x {}".format(*row["input_size"])


def megabytes(sizes: Iterable[int]) -> str:
    return " / ".join(f"{size / 1e6:.1f}" for size in sizes) + " MB"


def engine_bytes(model: Any) -> int:
    import onnx

    from exporter.engines.build import build_engine

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save_model(model, path)
        return len(build_engine(path, flavor="rtx"))


def versions() -> dict[str, str]:
    names = ("torch", "torchvision", "timm", "onnx", "onnxruntime-gpu", "tensorrt-rtx")
    found = {"python": platform.python_version(), "machine": platform.machine(), "cores": str(os.cpu_count())}
    return found | installed_versions(names)


def conditions(rows: dict[str, Row]) -> str:
    made = sorted(
        {(row["date"], json.dumps(row["versions"], sort_keys=True)) for row in rows.values() if "date" in row}
    )
    if not made:
        return ""
    day, found = made[-1]
    known = json.loads(found)
    libraries = ", ".join(f"{name} {known[name]}" for name in known if name not in ("machine", "cores"))
    return f"{day}, {known['cores']} cores ({known['machine']}); {libraries}."
