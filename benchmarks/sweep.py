"""Export every variant and write what came of it: docs/variants.md.

    python benchmarks/sweep.py [--only resnet18,densenet121] [--family cifar_resnet] [--size 64] [--again]

Each variant is a process of its own, so that one that crashes or hangs is one red row. What a process found is a JSON
file in --results; a later run skips variants that have one (--again does not), and the table shows all there are.

Weights are random, with the statistics of trained ones (`--weights random`): structure, types and arithmetic are
checked, accuracy is not. A row is green when FP32 equals PyTorch within 1e-4 of the largest logit at batch 1, 2 and 7
(where float32 itself rounds by more: is as near to PyTorch in float64 as PyTorch in float32 is, within a factor of 2),
every FP16 activation is finite, INT8 holds every layer that the placement names, and TensorRT-RTX builds all three.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from datetime import date
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
# Python puts this script's folder first, where `calibration` would be a file of it and not the package.
sys.path[:] = [str(ROOT), *(entry for entry in sys.path if Path(entry).resolve() != HERE)]

DOCUMENT = ROOT / "docs" / "variants.md"
TIMEOUT_S = 1800
NUM_CALIBRATION, NUM_COMPARED = 16, 8
PUBLISHED_PARAMETERS = {
    # He et al. 2015, as torchvision counts them, and table 6 for CIFAR-10 (in millions, as printed there).
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "cifar_resnet20_a": 0.27e6,
    "cifar_resnet32_a": 0.46e6,
    "cifar_resnet44_a": 0.66e6,
    "cifar_resnet56_a": 0.85e6,
    "cifar_resnet110_a": 1.7e6,
    "cifar_resnet1202_a": 19.4e6,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="names separated by commas")
    parser.add_argument("--family", help="as resnet-export models --family")
    parser.add_argument("--size", type=int, help="side of the images in pixels (default: the model's own)")
    parser.add_argument("--again", action="store_true", help="run variants that have a result too")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "sweep", help="folder of the JSON files")
    parser.add_argument("--document", type=Path, default=DOCUMENT)
    parser.add_argument("--worker", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        name, file = options.worker
        write_row(Path(file), examine(name, options.size))
        return 0
    options.results.mkdir(parents=True, exist_ok=True)
    for name in chosen(options.only, options.family):
        file = options.results / f"{name}.json"
        if file.exists() and not options.again:
            continue
        print(f"{name} ...", end=" ", flush=True, file=sys.stderr)
        run(name, file, options.size)
        print(verdict(json.loads(file.read_text(encoding="utf-8"))), file=sys.stderr)
    rows = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in options.results.glob("*.json")}
    options.document.write_text(document(rows), encoding="utf-8")
    return 0


def chosen(only: str | None, family: str | None) -> list[str]:
    from exporter.model_names import FAMILIES, MODEL_NAMES, check_family, check_model_name

    if only is not None:
        names = [name.strip() for name in only.split(",")]
        for name in names:
            check_model_name(name)
        return names
    if family is not None:
        check_family(family)
        return [name for one in FAMILIES if one.name == family for name in one.models]
    return list(MODEL_NAMES)


def run(name: str, file: Path, size: int | None) -> None:
    """Examine one variant in a process of its own; whatever becomes of it, `file` says so."""
    command = [sys.executable, __file__, "--worker", name, str(file)]
    command += [] if size is None else ["--size", str(size)]
    started = time.perf_counter()
    try:
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=TIMEOUT_S)
        failure = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or [f"exit {done.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        failure = f"no result within {TIMEOUT_S} s"
    if failure:
        write_row(file, {"name": name, "error": failure, "seconds": {"all": time.perf_counter() - started}})


def write_row(file: Path, row: dict[str, Any]) -> None:
    """Write beside and rename: an interrupted run leaves no half row."""
    temporary = file.with_suffix(".part")
    temporary.write_text(json.dumps(row, indent=1), encoding="utf-8")
    os.replace(temporary, file)


# One variant


def examine(name: str, size: int | None) -> dict[str, Any]:
    """Return one row; a stage that fails ends it with its reason."""
    row: dict[str, Any] = {"name": name, "seconds": {}, "versions": versions(), "date": date.today().isoformat()}
    started = time.perf_counter()
    try:
        _examine(row, name, size)
    except Exception as err:  # the row says what happened, of whatever type
        row["error"] = f"{type(err).__name__}: {err}"
        traceback.print_exc()
    row["seconds"]["all"] = time.perf_counter() - started
    return row


def _examine(row: dict[str, Any], name: str, size: int | None) -> None:
    from calibration.quantize_model import quantize
    from exporter.exported_model import ExportConfig, export_loaded
    from exporter.float16 import float16_from_float32
    from exporter.load_model import load_model
    from exporter.loaded_model import RANDOM_WEIGHTS, ModelRequest
    from exporter.post_export_check import check_against_pytorch, first_nonfinite_tensor
    from exporter.preprocessing_options import PreprocessingOptions
    from runtimes.ort import OrtRuntime
    from runtimes.pytorch import TorchRuntime, float64_outputs

    loaded = load_model(ModelRequest(name, RANDOM_WEIGHTS, preprocessing=PreprocessingOptions(input_size=size)))
    row["input_size"] = list(loaded.preprocessing.input_size)
    row["parameters"] = sum(parameter.numel() for parameter in loaded.module.parameters())
    row["macs"] = macs_of(loaded.module, loaded.preprocessing.input_size)
    calibration, compared = photographs(loaded.preprocessing)

    with Stage(row, "export"):
        exported = export_loaded(loaded, ExportConfig())
    row["folded"] = len(exported.folding.folded)
    row["kept"] = dict(Counter(general(kept.reason) for kept in exported.folding.kept))
    with Stage(row, "compare"), TorchRuntime(loaded.module) as reference:
        in_float64 = partial(float64_outputs, loaded.module)
        check = check_against_pytorch(reference, exported.onnx, compared, open_runtime=OrtRuntime, exact=in_float64)
        expected = reference.run({"input": compared})["logits"]
    row["parity"] = check.relative
    row["rounding"] = None if check.max_rounding is None else check.max_rounding / check.max_abs_logit

    with Stage(row, "fp16"):
        half = float16_from_float32(exported.onnx).model
        row["fp16_nonfinite"] = first_nonfinite_tensor(half, compared[:2], open_runtime=OrtRuntime)
    row["fp16_sqnr_db"] = sqnr_db(expected, logits(half, compared))
    with Stage(row, "int8"):
        exact = partial(OrtRuntime, exact_qdq=True)
        batches = np.split(calibration, 4)
        quantized = quantize(exported.onnx, batches, open_runtime=OrtRuntime, open_exact=exact).quantized
    row["int8_sqnr_db"] = sqnr_db(expected, logits(quantized.model, compared))
    placement = quantized.placement
    row["int8"] = {
        "layers": len(placement.weights),
        "tensors": len(placement.activations),
        "adds": len(placement.residual_adds),
        "all_adds": placement.num_adds,
        "gated_adds": sum(add.kernel != "Conv" for add in placement.residual_adds),
        "shared_scales": len(placement.shared_scales),
        "skipped": dict(Counter(sentence.partition(": ")[2] for sentence in placement.skipped)),
    }
    row["engines"] = {}
    with Stage(row, "build"):
        for precision, model in (("fp32", exported.onnx), ("fp16", half), ("int8", quantized.model)):
            row["engines"][precision] = engine_bytes(model)


class Stage:
    """Notes how long a stage took, also where it fails, and which it was."""

    def __init__(self, row: dict[str, Any], name: str) -> None:
        self._row, self._name = row, name

    def __enter__(self) -> None:
        self._row["stage"] = self._name
        self._started = time.perf_counter()

    def __exit__(self, *unused: object) -> None:
        self._row["seconds"][self._name] = time.perf_counter() - self._started


def general(reason: str) -> str:
    """Return a reason without the names in it, so that equal ones can be counted."""
    return " ".join("..." if word.startswith(("'", "max_", "relu", "add_")) else word for word in reason.split())


def macs_of(module: Any, input_size: tuple[int, int]) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(torch.zeros(1, 3, *input_size))
    return int(counter.get_total_flops()) // 2  # a MAC is two floating-point operations


def photographs(preprocessing: Any) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return prepared crops of photographs to calibrate on, and others to compare on."""
    import skimage.data
    from PIL import Image

    from runtimes.preprocessing import preprocess

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
    from runtimes.ort import OrtRuntime

    with OrtRuntime(model, exact_qdq=True) as runtime:
        return runtime.run({"input": images})["logits"]


def sqnr_db(reference: NDArray[np.float32], candidate: NDArray[np.float32]) -> float | None:
    noise = float(np.square(reference.astype(np.float64) - candidate).sum())
    if not np.isfinite(noise) or noise == 0.0:
        return None
    return 10 * float(np.log10(np.square(reference.astype(np.float64)).sum() / noise))


def engine_bytes(model: Any) -> int:
    import onnx

    from exporter.engine import build_engine

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save_model(model, path)
        return len(build_engine(path, flavour="rtx"))


def versions() -> dict[str, str]:
    names = ("torch", "torchvision", "timm", "onnx", "onnxruntime-gpu", "tensorrt-rtx")
    found = {"python": platform.python_version(), "machine": platform.machine(), "cores": str(os.cpu_count())}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


# The table


def verdict(row: dict[str, Any]) -> str:
    """Return "green", or in a few words why not."""
    if "error" in row:
        return f"{row.get('stage', 'start')}: {row['error']}".replace("\n", " ").replace("|", "/")[:300]
    if row["fp16_nonfinite"] is not None:
        return f"FP16 overflows in {row['fp16_nonfinite']}"
    return "green"


def document(rows: dict[str, dict[str, Any]]) -> str:
    from exporter.model_names import FAMILIES

    lines = [
        "# Variants",
        "",
        "Written by `make sweep` (`benchmarks/sweep.py`), which says what is checked and what makes a row green.",
        "Weights are random with the statistics of trained ones, so SQNR compares arithmetic, not accuracy. "
        + conditions(rows),
        "",
    ]
    notes: dict[str, list[str]] = {}
    for family in FAMILIES:
        lines += [f"## {family.title}", "", *HEADER]
        for name in family.models:
            row = rows.get(name)
            lines.append(f"| {name} | {'not run yet' if row is None else cells(row)} |")
            for note in () if row is None else notes_of(row):
                notes.setdefault(note, []).append(name)
        lines.append("")
    lines += ["## Why something is not folded, or stays in float", ""]
    lines += [f"- {note} ({', '.join(names)})" for note, names in notes.items()]
    return "\n".join(lines).rstrip() + "\n"


HEADER = (
    "| model | verdict | parameters | MACs | input | FP32 parity | BatchNorms folded / kept | FP16 | INT8 "
    "| layers in INT8 | residual Adds | RTX plans FP32 / FP16 / INT8 | seconds |",
    "|---|---|---|---|---|---|---|---|---|---|---|---|---|",
)


def cells(row: dict[str, Any]) -> str:
    if "error" in row:
        return " | ".join([verdict(row), *["-"] * 10, f"{row['seconds']['all']:.0f}"])
    int8 = row["int8"]
    layers = sum(count for reason, count in int8["skipped"].items() if is_layer(reason))
    adds = f"{int8['adds']} of {int8['all_adds']}" if int8["all_adds"] else "none"
    adds += f" ({int8['gated_adds']} behind a gate)" if int8["gated_adds"] else ""
    return " | ".join(
        [
            verdict(row),
            parameters(row),
            f"{row['macs'] / 1e9:.2f} G" if row["macs"] >= 1e8 else f"{row['macs'] / 1e6:.1f} M",
            f"{row['input_size'][0]} x {row['input_size'][1]}",
            f"{row['parity']:.1e}",
            f"{row['folded']} / {sum(row['kept'].values())}",
            decibel(row["fp16_sqnr_db"]),
            decibel(row["int8_sqnr_db"]),
            f"{int8['layers']}" + (f", {layers} in float" if layers else ""),
            adds,
            " / ".join(f"{row['engines'][key] / 1e6:.1f} MB" for key in ("fp32", "fp16", "int8")),
            f"{row['seconds']['all']:.0f}",
        ]
    )


def parameters(row: dict[str, Any]) -> str:
    published = PUBLISHED_PARAMETERS.get(row["name"])
    if published is None:
        return f"{row['parameters']:,}"
    digits = 1e-9 if isinstance(published, int) else 0.03  # the paper prints two or three digits
    agrees = abs(row["parameters"] / published - 1) <= digits
    return f"{row['parameters']:,} ({'as published' if agrees else f'published: {published:,.0f}'})"


def is_layer(reason: str) -> bool:
    from calibration.residual import LAYER_NORM, NO_CONV

    return reason not in (LAYER_NORM, NO_CONV)


def decibel(value: float | None) -> str:
    return "exact" if value is None else f"{value:.0f} dB"


def notes_of(row: dict[str, Any]) -> list[str]:
    if "error" in row:
        return []
    notes = [f"BatchNorm kept as one affine operation: {reason}" for reason in row["kept"]]
    if rounding := row.get("rounding"):
        notes.append(f"PyTorch's own float32 is off by {rounding:.1e} of the largest logit from its float64")
    return notes + [f"In float: {reason}" for reason in row["int8"]["skipped"]]


def conditions(rows: dict[str, dict[str, Any]]) -> str:
    made = sorted(
        {(row["date"], json.dumps(row["versions"], sort_keys=True)) for row in rows.values() if "date" in row}
    )
    if not made:
        return ""
    day, found = made[-1]
    known = json.loads(found)
    libraries = ", ".join(f"{name} {known[name]}" for name in known if name not in ("machine", "cores"))
    return f"{day}, {known['cores']} cores ({known['machine']}); {libraries}."


if __name__ == "__main__":
    sys.exit(main())
