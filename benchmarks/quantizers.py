"""Our INT8 beside every peer's: accuracy, time, memory, latency and size, measured in one run.

    python benchmarks/quantizers.py BUNDLE --calib DIR --val DIR --create-environments ENVS
    python benchmarks/quantizers.py model.onnx --resize 96x96 --labels FILE --calib DIR --val DIR --environments ENVS
    python benchmarks/quantizers.py BUNDLE --photographs 64 --repeat 3 --environments ENVS        (no accuracy)

All quantizers get the same FP32 ONNX file and the same prepared images; each runs in a process and an environment of
its own. Their files are then measured by one evaluator on images that no quantizer has seen. docs/int8.md explains
the columns.
"""

# ruff: noqa: E402 - the packages are found only once the path is right
from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Python puts this script's folder first, where `calibration` would be a benchmark and not the package.
sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if Path(entry).resolve() != HERE)]

from benchmarks import quantizer_targets
from benchmarks.quantizer_dialect import FLOAT, TENSORRT, dialect_of
from benchmarks.quantizer_environments import interpreter_of, last_error
from benchmarks.quantizer_images import (
    Network,
    Prepared,
    network_from,
    prepare_folders,
    prepare_photographs,
    preprocessing_from,
)
from benchmarks.quantizer_result import RowResult, RunResult, merged
from benchmarks.quantizer_settings import OURS, SETTINGS, Setting, chosen
from benchmarks.quantizer_table import markdown, write_between_markers
from exporter.version import __version__
from resnet_export.console.option_types import per_channel, positive, resize
from runtimes.machine.environment import machine_info

FORWARD = Setting("FP32 forward", OURS, "forward.py")
EVALUATORS = ("onnxruntime", "onnxruntime-gpu", "onnx", "numpy")


def main() -> None:
    options = parse_options()
    if options.list:
        print("\n".join(f"{row.name:34} {row.environment}" for row in SETTINGS))
        return
    if options.model is None:
        runs = [load_run(path) for path in options.merge]
    else:
        with tempfile.TemporaryDirectory() as folder:
            runs = [measure(options, Path(options.work or folder)), *(load_run(path) for path in options.merge)]
    run = merged(runs)
    if options.json:
        options.json.write_text(json.dumps(run.to_json(), indent=1) + "\n")
    text = f"{markdown(run)}\n\n{quantizer_targets.markdown(run)}"
    print(text)
    if options.write:
        write_between_markers(options.write, options.table, text)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, nargs="?", help="bundle folder or FP32 .onnx file; none: only --merge")
    parser.add_argument("--calib", type=Path, metavar="DIR", help="calibration images")
    parser.add_argument("--val", type=Path, metavar="DIR", help="held-out images; class folders give top-1")
    parser.add_argument("--num-calib", type=positive, default=512, metavar="N")
    parser.add_argument("--num-val", type=positive, metavar="N")
    parser.add_argument("--photographs", type=positive, metavar="N", help="calibrate with N of scikit-image's instead")
    parser.add_argument("--speed-only", action="store_true", help="no accuracy; --val is not read")
    parser.add_argument("--labels", type=Path, metavar="FILE", help="class names in index order, for an .onnx file")
    parser.add_argument("--resize", type=resize, metavar="N|HxW")
    parser.add_argument("--input-size", type=positive, metavar="N", help="center crop")
    parser.add_argument("--mean", type=per_channel, metavar="R,G,B")
    parser.add_argument("--std", type=per_channel, metavar="R,G,B")
    homes = parser.add_mutually_exclusive_group()
    homes.add_argument("--environments", type=Path, metavar="DIR", help="the peers' environments, as made before")
    homes.add_argument("--create-environments", type=Path, metavar="DIR", help="make those that are missing (14 GB)")
    parser.add_argument("--only", metavar="NAME,...", help="rows whose names begin so; --list shows them")
    parser.add_argument("--second-order", action="store_true", help="also rows that optimize layer by layer (slow)")
    parser.add_argument("--list", action="store_true", help="print the rows' names")
    parser.add_argument("--repeat", type=positive, default=1, metavar="N", help="rounds of quantization and latency")
    parser.add_argument("--batch-size", type=positive, default=2, metavar="N")
    parser.add_argument("--timeout", type=positive, default=7200, metavar="S", help="seconds a row may take")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what was measured")
    parser.add_argument("--merge", type=Path, nargs="+", default=[], metavar="FILE", help="add rows of earlier runs")
    parser.add_argument("--write", type=Path, metavar="FILE.md", help="put the table between its markers")
    parser.add_argument("--table", metavar="NAME", help="which markers: <!-- table:NAME -->")
    parser.add_argument("--work", type=Path, metavar="DIR", help="keep images, files and logs here")
    options = parser.parse_args()
    if options.model is None and not options.merge and not options.list:
        parser.error("give a model, or --merge files of earlier runs")
    if options.model is not None and (options.calib is None) == (options.photographs is None):
        parser.error("give --calib DIR or --photographs N")
    if (options.write is None) != (options.table is None):
        parser.error("--write and --table go together")
    try:
        chosen(options.only, second_order=options.second_order)
    except ValueError as err:
        parser.error(str(err))
    return options


def load_run(path: Path) -> RunResult:
    """Read what `--json` wrote."""
    return RunResult.from_json(json.loads(path.read_text()))


def measure(options: argparse.Namespace, folder: Path) -> RunResult:
    """Quantize with every chosen row, evaluate, and return what was measured."""
    load = os.getloadavg()[0]
    rows = chosen(options.only, second_order=options.second_order)
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    given = preprocessing_from(options.input_size, options.resize, options.mean, options.std)
    network = network_from(options.model, options.labels, given)
    prepared = prepare(options, folder, network)
    run = start_run(options, network, prepared, load)
    environments = options.environments or options.create_environments
    create = options.create_environments is not None
    pythons = {
        name: interpreter_of(name, environments, create=create) for name in dict.fromkeys(r.environment for r in rows)
    }
    run.rows = [RowResult(row.name, row.role, dict(row.options), error=pythons[row.environment].reason) for row in rows]
    for _ in range(options.repeat):
        forward = run_row(FORWARD, Path(sys.executable), folder, options)
        run.forward_seconds.append(forward["seconds"])
        run.forward_peak_bytes.append(forward["peak_bytes"])
        for row, result in zip(rows, run.rows, strict=True):
            python = pythons[row.environment].path
            if not result.error and python is not None:
                add_round(result, row, python, folder, options, forward["seconds"])
    evaluate(run, folder, options.repeat, with_accuracy=prepared.num_validation > 0)
    return run


def prepare(options: argparse.Namespace, folder: Path, network: Network) -> Prepared:
    for stale in ("labels.npy", "validation.npy"):
        (folder / stale).unlink(missing_ok=True)
    if options.photographs:
        return prepare_photographs(folder, network, options.photographs)
    val = None if options.speed_only else options.val
    return prepare_folders(folder, network, options.calib, val, num_calib=options.num_calib, num_val=options.num_val)


def start_run(options: argparse.Namespace, network: Network, prepared: Prepared, load: float) -> RunResult:
    machine = machine_info()
    flags = ", ".join(machine.cpu_flags) or "none of the INT8 instruction sets known here"
    versions = {"resnet-export": __version__}
    for name in EVALUATORS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # of onnxruntime and onnxruntime-gpu one is installed
    return RunResult(
        network=network.description,
        model_sha256=network.sha256,
        images=prepared.description,
        machine=f"{machine.num_cores} cores of {machine.cpu} ({flags})",
        load=load,
        date=date.today().isoformat(),
        batch_size=options.batch_size,
        repeats=options.repeat,
        versions={**versions, "Python": machine.python},
        float_bytes=network.path.stat().st_size,
    )


def file_of(name: str) -> str:
    """Return the file name of a row's output."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower()) + ".onnx"


def run_row(row: Setting, python: Path, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Run a row's script in its environment and return what it measured.

    Raises:
        RuntimeError: With the error that the script ended with.
    """
    output = folder / file_of(row.name)
    output.unlink(missing_ok=True)
    command = [str(python), str(HERE / "quantizer_peers" / row.script)]
    command += ["--model", str(folder / "model.onnx"), "--images", str(folder / "calibration.npy")]
    command += ["--batch-size", str(options.batch_size), "--output", str(output)]
    command += ["--options", json.dumps(dict(row.options))]
    # A peer must not find this checkout: an installed package of the same name as one of ours would be shadowed.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    print(f"running {row.name} ...", file=sys.stderr)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=options.timeout, cwd=folder, env=environment
        )
    except subprocess.TimeoutExpired as err:
        raise RuntimeError(f"not done after {options.timeout} s") from err
    output.with_suffix(".log").write_text(f"{done.stdout}\n{done.stderr}")
    if done.returncode:
        raise RuntimeError(last_error(done.stderr) if done.returncode > 0 else f"killed by signal {-done.returncode}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def add_round(
    result: RowResult, row: Setting, python: Path, folder: Path, options: argparse.Namespace, forward_seconds: float
) -> None:
    """Quantize once and add what was measured, or the reason why there is no file."""
    try:
        measured = run_row(row, python, folder, options)
    except RuntimeError as err:
        result.error = str(err)[:400]
        return
    result.seconds.append(measured["seconds"])
    result.times_forward.append(measured["seconds"] / forward_seconds)
    result.peak_bytes.append(measured["peak_bytes"])
    result.imported_bytes.append(measured["imported_bytes"])
    result.versions = measured["versions"]


def evaluate(run: RunResult, folder: Path, repeat: int, *, with_accuracy: bool) -> None:
    """Inspect every file, run it over the validation images, and time it in as many rounds as quantization had."""
    files: dict[str, list[str]] = {}
    produced = [row for row in run.rows if not row.error]
    for row in produced:
        path = folder / file_of(row.name)
        dialect = dialect_of(path)
        row.dialect = {"name": dialect.name, "reasons": list(dialect.reasons)}
        row.dialect |= {"num_weighted": dialect.num_weighted, "num_integer": dialect.num_integer}
        row.file_share = path.stat().st_size / run.float_bytes
        files[path.name] = ["exact"] if dialect.name in (TENSORRT, FLOAT) else ["exact", "default", "precise"]
    (folder / "files.json").write_text(json.dumps(files))
    if with_accuracy and produced:
        accuracy = run_evaluator("accuracy", folder)
        for row in produced:
            row.accuracy = accuracy[file_of(row.name)]
            run.float_top1 = row.accuracy["exact"].get("top1_float", run.float_top1)
    for _ in range(repeat):
        latency = run_evaluator("latency", folder)
        run.float_latency_ms.append(latency["model.onnx"]["p50_ms"])
        for row in produced:
            measured = latency[file_of(row.name)]
            row.latency_error = measured.get("error", "")
            row.latency_ms += [measured["p50_ms"]] if "p50_ms" in measured else []


def run_evaluator(what: str, folder: Path) -> dict[str, Any]:
    print(f"evaluating {what} ...", file=sys.stderr)
    command: Sequence[str] = [sys.executable, str(HERE / "quantizer_evaluate.py"), what, str(folder)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


if __name__ == "__main__":
    main()
