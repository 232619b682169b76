"""Our file for ONNX Runtime beside the peers' files, each in a default session: the last table of docs/int8.md.

    python benchmarks/runtime_ort_peers.py --environments ENVS --write    # on an idle machine; ten minutes
    python benchmarks/runtime_ort_peers.py --environments ENVS --quick resnet18
    python benchmarks/runtime_ort_peers.py --environments ENVS BUNDLE     # a network with trained weights
    python benchmarks/runtime_ort_peers.py --environments ENVS FOLDER     # of `benchmarks/quantizers.py --work FOLDER`

ENVS is what `benchmarks/quantizers.py --create-environments` made. Of a folder that this benchmark kept, its files are
timed as they are and its held-out images measure; what is missing there is quantized, with its calibration images.
Otherwise all quantizers get the same FP32 file and the same crops of photographs; a network given by name has random
weights, which compute as long as trained ones. Calls take turns (`runtimes.metrics.interleaved_timing`), one picture,
ONNX Runtime's own choice of threads. SQNR is that of the logits of other pictures, in the session that is timed; it
says little where weights are random.
"""

# ruff: noqa: E402 - the packages are found only once the path is right
from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

HERE = Path(__file__).resolve().parent
# Python puts this script's folder first, where `calibration` would be a benchmark and not the package.
sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if Path(entry).resolve() != HERE)]

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from benchmarks.quantizer_environments import interpreter_of
from benchmarks.quantizer_images import network_from, prepare_photographs
from benchmarks.quantizer_settings import Setting, chosen
from benchmarks.quantizer_table import write_between_markers
from benchmarks.quantizers import file_of, run_row
from runtimes.machine.environment import machine_info
from runtimes.machine.power_state import power_state, warnings_of
from runtimes.metrics.interleaved_timing import MIN_ROUNDS, Timing, compare_timings, time_in_turns

NETWORKS = ("resnet18", "resnet50", "timm:efficientnet_lite0")
OURS = "resnet-export onnxruntime, effort 1"
ROWS = (OURS, "onnxruntime MinMax U8S8", "onnxruntime Percentile U8S8", "nncf default", "modelopt max")
NUM_CALIBRATION, NUM_HELD_OUT = 16, 8
TARGET = 0.95
INTEGER = ("QLinear", "QGemm", "ConvInteger", "MatMulInteger")
MOVING = (
    "MaxPool",
    "Flatten",
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Slice",
    "ReorderInput",
    "ReorderOutput",
)


@dataclass(frozen=True)
class File:
    """A quantizer's file in its session: what it computes, how well, and why there is none."""

    name: str
    session: onnxruntime.InferenceSession | None = None
    kernels: str = ""
    sqnr_db: float = 0.0
    error: str = ""


def main() -> int:
    """Print the table; with --write keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK|BUNDLE|FOLDER")
    parser.add_argument("--environments", type=Path, required=True, metavar="ENVS", help="of the peers")
    parser.add_argument("--create", action="store_true", help="make what is missing there (14 GB)")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep the files here, and take those that are there")
    parser.add_argument("--quick", action="store_true", help="a few calls; the times are noise")
    parser.add_argument("--write", action="store_true", help="put the table into docs/int8.md")
    options = parser.parse_args()
    options.batch_size, options.timeout = 2, 1200
    before = power_state()
    lines = [
        "| network | file | kernels | SQNR dB | p50 ms | p99 ms | ours is, times as long |",
        "|---|---|---|---|---|---|---|",
    ]
    verdicts = []
    with tempfile.TemporaryDirectory() as folder:
        for network in options.networks:
            found = list(rows(network, Path(options.work or folder), options))
            lines += found[:-1]
            verdicts.append(found[-1])
            print("\n".join(found), flush=True)
    text = "\n".join([header(before), "", *lines, "", *verdicts])
    print(f"\n{text}")
    if options.write:
        write_between_markers(HERE.parent / "docs" / "int8.md", "onnxruntime", text)
    return 0


def header(before: object) -> str:
    """Return where, when and with what."""
    machine = machine_info()
    mind = "".join(f" Mind: {warning}." for warning in warnings_of(before, power_state()))  # type: ignore[arg-type]
    return (
        f"{machine.num_cores} cores of {machine.cpu} ({', '.join(machine.cpu_flags)}), "
        f"{datetime.now(timezone.utc).date()}; onnxruntime {onnxruntime.__version__}, default sessions. "
        f"Target: ours at most {TARGET} of the fastest peer's p50, at equal or better SQNR.{mind}"
    )


def rows(network: str, work: Path, options: argparse.Namespace) -> Iterator[str]:
    """Quantize with all, time in turns; yields a line of the table per file, then the verdict."""
    name = Path(network).name.rpartition(":")[2].removesuffix(".files")
    kept = (Path(network) / "calibration.npy").is_file()
    folder = Path(network).resolve() if kept else work.resolve() / name
    folder.mkdir(parents=True, exist_ok=True)
    held_out = np.load(folder / "validation.npy") if kept else prepare(network, folder)
    files = [quantized(row, folder, held_out, options) for text in ROWS for row in chosen_row(text)]
    calls: dict[str, Callable[[], object]] = {
        file.name: partial(file.session.run, None, {file.session.get_inputs()[0].name: held_out[:1]})
        for file in files
        if file.session is not None
    }
    rounds, seconds = (3, 0.3) if options.quick else (MIN_ROUNDS, 2.0)
    timings = time_in_turns(calls, rounds=rounds, seconds=seconds, warm_up=5)
    for file in files:
        if file.error:
            yield f"| {name} | {file.name} | {file.error} | | | | |"
            continue
        timing = timings[file.name]
        compared = "" if file.name == OURS else ratio(timings[OURS], timing)
        figures = f"{file.sqnr_db:.1f} | {timing.p50_ms:.2f} | {timing.p99_ms:.2f}"
        yield f"| {name} | {file.name} | {file.kernels} | {figures} | {compared} |"
    num_calibration = len(np.load(folder / "calibration.npy", mmap_mode="r"))
    yield f"{verdict(name, files, timings)} {num_calibration} images calibrated, {len(held_out)} others measure.\n"


def ratio(ours: Timing, theirs: Timing) -> str:
    """Return how many times as long ours takes, with the rounds' least and most."""
    compared = compare_timings(ours, theirs)
    return f"{compared.ratio:.3f} ({compared.smallest:.3f} to {compared.largest:.3f})"


def verdict(name: str, files: list[File], timings: dict[str, Timing]) -> str:
    """Return the sentence on the target."""
    peers = [file for file in files if file.name != OURS and not file.error]
    if OURS not in timings or not peers:
        return f"{name}: nothing to compare."
    best = min(peers, key=lambda file: timings[file.name].p50_ms)
    found = compare_timings(timings[OURS], timings[best.name]).ratio
    accuracy = max(file.sqnr_db for file in peers)
    ours = next(file.sqnr_db for file in files if file.name == OURS)
    met = "met" if found <= TARGET else f"missed by {found - TARGET:.3f}"
    return (
        f"{name}: {found:.3f} of the fastest peer, {best.name} ({TARGET}: {met}); SQNR {ours:.1f} dB beside the best "
        f"peer's {accuracy:.1f}."
    )


def chosen_row(name: str) -> tuple[Setting, ...]:
    """Return the one row of `SETTINGS` of that name."""
    return tuple(row for row in chosen(None, second_order=True) if row.name == name)


def prepare(network: str, folder: Path) -> NDArray[np.float32]:
    """Export, unless it is a bundle; write `model.onnx` and `calibration.npy`; return the held-out images."""
    bundle = Path(network)
    if not bundle.is_dir():
        bundle = folder / "bundle"
        if not (bundle / "manifest.json").is_file():
            words = [network, "--weights", "random", "--quiet", "--force", "-o", str(bundle)]
            environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
            subprocess.run([sys.executable, "-m", "resnet_export", *words], check=True, env=environment)
    prepare_photographs(folder, network_from(bundle, None, None), NUM_CALIBRATION + NUM_HELD_OUT)
    images: NDArray[np.float32] = np.load(folder / "calibration.npy")
    np.save(folder / "calibration.npy", images[:NUM_CALIBRATION])
    return images[NUM_CALIBRATION:]


def quantized(row: Setting, folder: Path, held_out: NDArray[np.float32], options: argparse.Namespace) -> File:
    """Quantize in the row's environment, open and measure the file."""
    path = folder / file_of(row.name)
    if not path.is_file():
        interpreter = interpreter_of(row.environment, options.environments, create=options.create)
        if interpreter.path is None:
            return File(row.name, error=interpreter.reason)
        try:
            run_row(row, interpreter.path, folder, options)
        except RuntimeError as err:
            return File(row.name, error=str(err)[:200])
    with tempfile.TemporaryDirectory() as scratch:
        optimized = Path(scratch) / "optimized.onnx"
        reference, session = opened(folder / "model.onnx"), opened(path, optimized)
        kernels = kernels_of(optimized)
    name = session.get_inputs()[0].name
    wanted, got = (
        np.concatenate([s.run(None, {name: image[None]})[0] for image in held_out]) for s in (reference, session)
    )
    noise = float(((wanted - got).astype(np.float64) ** 2).sum())
    sqnr = 10 * np.log10(float((wanted.astype(np.float64) ** 2).sum()) / noise) if noise else float("inf")
    return File(row.name, session, kernels, float(sqnr))


def opened(path: Path, optimized: Path | None = None) -> onnxruntime.InferenceSession:
    """Open a session as anybody does; `optimized` gets the graph that it runs."""
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    if optimized is not None:
        settings.optimized_model_filepath = str(optimized)
    return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def kernels_of(optimized: Path) -> str:
    """Return how many kernels compute in integers, and every other that is no mere move, by name."""
    counts = Counter(node.op_type for node in onnx.load(optimized, load_external_data=False).graph.node)
    integers = sum(number for name, number in counts.items() if name.startswith(INTEGER))
    others = [f"{number} {name}" for name, number in sorted(counts.items()) if not name.startswith((*INTEGER, *MOVING))]
    return f"{integers} in integers; {', '.join(others) or 'none other'}"


if __name__ == "__main__":
    sys.exit(main())
