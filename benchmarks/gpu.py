"""Everything this project claims about GPUs, tried on the machine at hand, as one Markdown report.

    python benchmarks/gpu.py [--quick] [--bundle DIR] [--budget 450] [-o gpu_report.md]
    python benchmarks/gpu.py --rehearse --quick --models cifar_resnet20     # every GPU call replaced by the CPU

Exports ResNets with random weights (or takes a bundle), builds engines with every TensorRT that is installed, runs
them and ONNX Runtime's CUDA provider, compares all with PyTorch on the same GPU and times them, beside trtexec where
it is on PATH. Runs from a plain checkout, without network. Every step is a process of its own: one that crashes, hangs
or lacks a library leaves its reason in the report, and the rest goes on. With a budget no step starts or runs longer
than it allows, so that an unattended run ends in time with a report of what it had.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Python puts this script's folder first, where `calibration` would be the benchmark and not the package.
sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if Path(entry).resolve() != HERE)]

from benchmarks.gpu_steps import (  # noqa: E402 - the path is set above
    BATCHES,
    FILES,
    FLAVOURS,
    INT8_NOTE,
    WORKERS,
    find_trtexec,
)

MODELS = ("resnet18", "resnet50")


@dataclass
class Run:
    """Options, the folder of this run, and the report as it grows."""

    options: argparse.Namespace
    folder: Path
    started: float = field(default_factory=time.monotonic)
    lines: list[str] = field(default_factory=list)

    @property
    def seconds_left(self) -> float:
        """What is left of the budget."""
        budget = self.options.budget
        return float("inf") if budget is None else budget - (time.monotonic() - self.started)

    @property
    def device(self) -> str:
        """Where GPU steps run: on the GPU, or in a rehearsal on the CPU."""
        return "cpu" if self.options.rehearse else "cuda"

    def add(self, *lines: str) -> None:
        """Append to the report and save it: an interrupted run leaves what it had."""
        self.lines += lines
        self.options.output.write_text("\n".join(self.lines) + "\n", encoding="utf-8")


def main() -> int:
    options = parse_options()
    if options.worker:
        name, arguments = options.worker[0], json.loads(options.worker[1])
        print("\nANSWER " + json.dumps(WORKERS[name](**arguments)), flush=True)
        return 0
    with tempfile.TemporaryDirectory(prefix="gpu_report_") as folder:
        run = Run(options, Path(folder))
        run.add("# GPU report" + " (rehearsed on the CPU: no figure is a GPU's)" * options.rehearse, "")
        run.add(f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, `{' '.join(sys.argv)}`", "")
        environment: dict[str, Any] = {}
        with section(run, "Environment"):
            environment.update(environment_section(run))
        models = [options.bundle.name] if options.bundle else options.models
        for model in models:
            with section(run, model):
                model_section(run, model, environment)
        print("\n".join(run.lines))
    print(f"written to {options.output}", file=sys.stderr)
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="resnet18 only, short timings")
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--weights", default="random", help="as of resnet-export; DEFAULT needs network (random)")
    parser.add_argument("--target", default="tensorrt", help="as of resnet-export (tensorrt)")
    parser.add_argument("--bundle", type=Path, help="a bundle folder to take instead of exporting; needs no torch")
    parser.add_argument("--rehearse", action="store_true", help="run every GPU step on the CPU: does the script work?")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="for the whole run (no limit)")
    parser.add_argument("--timeout", type=float, default=900.0, help="seconds that one step may take (900)")
    parser.add_argument("-o", "--output", type=Path, default=Path("gpu_report.md"))
    parser.add_argument("--worker", nargs=2, metavar=("NAME", "JSON"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.quick:
        options.models = options.models[:1]
    if options.bundle and not options.bundle.is_dir():
        parser.error(f"--bundle: {options.bundle} is no folder")
    if not options.output.resolve().parent.is_dir():
        parser.error(f"--output: folder {options.output.resolve().parent} does not exist")
    return options


@contextmanager
def section(run: Run, title: str) -> Iterator[None]:
    """Write a heading; turn an exception below it into a line of the report."""
    run.add(f"## {title}", "")
    try:
        yield
    except Exception as err:  # the report must go on, whatever a library raises
        run.add(f"**This section ended early: {type(err).__name__}: {err}**", "")


# Sections


def environment_section(run: Run) -> dict[str, Any]:
    """Report the machine; return the provider and TensorRT probes for later sections."""
    from runtimes.machine import environment, provider_probe

    machine, gpu, jetpack = environment.machine_info(), environment.gpu_info(), environment.jetpack_version()
    providers = provider_probe.loadable_providers(timeout_s=120)
    flavors = {name: environment.tensorrt_info(module) for name, module in FLAVOURS.items()}
    run.add(
        f"- {machine.os}, {machine.kernel}, {machine.architecture}, Python {machine.python}",
        f"- CPU: {machine.cpu}, {machine.num_cores} cores ({' '.join(machine.cpu_flags)})",
        f"- driver {gpu.driver_version or 'none'}, CUDA of the driver {gpu.cuda_version or 'none'}",
        *(
            f"- GPU {device.index}: {device.name}, SM {device.compute_capability}, {device.memory_mib} MiB"
            for device in gpu.devices
        ),
        *([f"- **GPU not usable: {gpu.reason}**"] if gpu.reason else []),
        f"- JetPack: {f'{jetpack.release.version}, L4T {jetpack.l4t}' if jetpack.release else jetpack.reason}",
        f"- source: {git_commit()}",
        "",
        "| library | version |",
        "|---|---|",
        *(f"| {item.name} | {item.version or cell(item.reason)} |" for item in environment.library_versions()),
        *(f"| {info.module} (imported) | {info.version or cell(info.reason)} |" for info in flavors.values()),
        "",
        "| ONNX Runtime provider | |",
        "|---|---|",
        *(f"| {item.name} | {provider_text(item)} |" for item in providers.providers),
        "",
    )
    return {"providers": {item.name: item for item in providers.providers}, "flavors": flavors}


def model_section(run: Run, model: str, environment: dict[str, Any]) -> None:
    """Make or take the files of one model, then run them everywhere."""
    folder = run.folder / model
    folder.mkdir(parents=True)
    source = prepare(run, model, folder)
    if "error" in source:
        run.add(f"No model to run: {cell(source['error'])}", "")
        return
    run.add(source["note"], "")
    precisions = [name for name, file in FILES.items() if (folder / file).is_file()]
    torch_row = torch_on_gpu(run, folder)
    reference = f"PyTorch FP32 on this {run.device.upper().replace('CUDA', 'GPU')}, without TF32"
    if "error" in torch_row:
        reference = source["reference"]
    run.add(f"Reference of all comparisons: {reference}.", "")
    engines = build_section(run, folder, precisions, environment)
    where = "GPU" if run.device == "cuda" else "CPU in place of the GPU"
    rows: list[tuple[str, dict[str, Any]]] = [(f"PyTorch FP32, {where}", torch_row)]
    rows.append(("ONNX Runtime CPU, FP32", step(run, "ort", folder=folder, provider="CPUExecutionProvider")))
    place = "CUDA" if run.device == "cuda" else "CPU in place of CUDA"
    rows += [(f"ONNX Runtime {place}, {name.upper()}", cuda_row(run, folder, name, environment)) for name in precisions]
    for flavor, name in engines:
        rows += trt_rows(run, folder, flavor, name)
    run.add("### Answers and latency", "", *rows_table(rows), "")
    run.add(
        "Latency: wall time of one call from NumPy array to NumPy array, copies to and from the GPU included, "
        "p50 (p10 to p90).",
        "",
    )
    overhead_section(run, folder, precisions)
    calibration_section(run, folder)
    trtexec_section(run, folder, engines)


def overhead_section(run: Run, folder: Path, precisions: Sequence[str]) -> None:
    """The adapter beside the raw session, with I/O binding and without, and with the provider's CUDA graph."""
    run.add("### What the adapter costs", "")
    run.add("| file | batch | way | p50 ms | beside the raw session |", "|---|---|---|---|---|")
    for precision in precisions:
        told = step(run, "overhead", folder=folder, precision=precision, device=run.device)
        if "error" in told:
            run.add(f"| {precision} | - | - | - | not run: {cell(told['error'])} |")
            continue
        run.add(*(f"| {precision} | {' | '.join(row)} |" for row in told["rows"]))
    run.add("", "The project says: `Model.run` takes at most 2 % longer than the raw session's `run`.", "")


def calibration_section(run: Run, folder: Path) -> None:
    """Scales measured on the GPU beside those of the CPU: at most 1 % apart, says the project."""
    told = step(run, "calibration", folder=folder, device=run.device)
    run.add("### Calibration on the GPU", "")
    if "error" in told:
        run.add(f"Not run: {cell(told['error'])}", "")
        return
    cpu, gpu = told["seconds"]
    run.add(
        f"{told['num_images']} images: largest relative difference of a scale {told['largest']:.2%}, of "
        f"{told['tensor']}; {cpu:.1f} s on the CPU, {gpu:.1f} s with CUDA.",
        "",
    )


def prepare(run: Run, model: str, folder: Path) -> dict[str, Any]:
    """Put ONNX files, inputs and reference logits into `folder`."""
    bundle = run.options.bundle
    if bundle is None:
        return step(run, "export", folder=folder, model=model, weights=run.options.weights, target=run.options.target)
    return step(run, "take_bundle", folder=folder, bundle=str(bundle.resolve()))


def torch_on_gpu(run: Run, folder: Path) -> dict[str, Any]:
    if not (folder / "module.pt").is_file():
        return {"error": "a bundle holds no PyTorch module"}
    return step(run, "torch", folder=folder, device=run.device)


def cuda_row(run: Run, folder: Path, precision: str, environment: dict[str, Any]) -> dict[str, Any]:
    """Run one file on ONNX Runtime's CUDA provider, unless the probe has found that it does not load."""
    if run.device == "cpu":
        return step(run, "ort", folder=folder, precision=precision, provider="CPUExecutionProvider")
    provider = environment.get("providers", {}).get("CUDAExecutionProvider")
    if provider is not None and not provider.loads:
        brings = f"; {provider.package} brings it" if provider.package else ""
        return {"error": f"the provider does not load: {provider.reason}{brings}"}
    row = step(run, "ort", folder=folder, precision=precision, provider="CUDAExecutionProvider")
    if precision == "int8" and "error" not in row:
        row["note"] = INT8_NOTE
    return row


def trt_rows(run: Run, folder: Path, flavor: str, precision: str) -> list[tuple[str, dict[str, Any]]]:
    """Run one engine call by call, and replayed as a CUDA graph."""
    title = f"{FLAVOURS[flavor]}, {precision.upper()}"
    plain = step(run, "trt", folder=folder, flavor=flavor, precision=precision)
    if "error" in plain:
        return [(title, plain)]
    graph = step(run, "trt", folder=folder, flavor=flavor, precision=precision, cuda_graphs=True)
    return [(title, plain), (f"{title}, CUDA graph", graph)]


def build_section(
    run: Run, folder: Path, precisions: Sequence[str], environment: dict[str, Any]
) -> list[tuple[str, str]]:
    """Build every engine; return (flavor, precision) of those there are."""
    built = []
    run.add("### Engines", "", "| library | precision | seconds | MB | |", "|---|---|---|---|---|")
    for flavor, module in FLAVOURS.items():
        info = environment.get("flavors", {}).get(flavor)
        if info is not None and info.version is None:
            run.add(f"| {module} | - | - | - | {cell(info.reason)} |")
            continue
        for precision in precisions:
            row = step(run, "build", folder=folder, flavor=flavor, precision=precision)
            if "error" in row:
                run.add(f"| {module} | {precision} | - | - | {cell(row['error'])} |")
                continue
            built.append((flavor, precision))
            run.add(f"| {module} | {precision} | {row['seconds']:.1f} | {row['size_mb']:.1f} | {cell(row['note'])} |")
    run.add("")
    return built


def trtexec_section(run: Run, folder: Path, engines: Sequence[tuple[str, str]]) -> None:
    """Time the same engines with NVIDIA's own tool."""
    run.add("### trtexec", "")
    programs = {"tensorrt": find_trtexec("trtexec"), "rtx": find_trtexec("tensorrt_rtx")}
    todo = [(flavor, precision) for flavor, precision in engines if programs[flavor]]
    if not todo:
        absent = "there is no engine" if not engines else "neither trtexec nor tensorrt_rtx is on PATH"
        run.add(f"Not run: {absent}.", "")
        return
    run.add("| engine | batch | latency, median ms | GPU compute, median ms | |", "|---|---|---|---|---|")
    for flavor, precision in todo:
        for batch in BATCHES:
            row = step(
                run,
                "trtexec",
                folder=folder,
                program=programs[flavor],
                flavor=flavor,
                precision=precision,
                batch=batch,
            )
            run.add(
                f"| {FLAVOURS[flavor]}, {precision} | {batch} | {row.get('latency_ms', '-')} "
                f"| {row.get('compute_ms', '-')} | {cell(row.get('error', ''))} |"
            )
    run.add("")


def rows_table(rows: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    lines = ["| | agreement | max diff | SQNR | " + " | ".join(f"batch {size}, ms" for size in BATCHES) + " | |"]
    lines.append("|" + "---|" * (5 + len(BATCHES)))
    for name, row in rows:
        if "error" in row:
            lines.append(f"| {name} | " + "- | " * (3 + len(BATCHES)) + f"not run: {cell(row['error'])} |")
            continue
        sqnr = "equal" if row["sqnr_db"] is None else f"{row['sqnr_db']:.1f} dB"
        times = " | ".join(row["latency"][str(size)] for size in BATCHES)
        lines.append(
            f"| {name} | {row['agreement']:.2%} | {row['max_abs_diff']:.2g} of {row['max_abs_reference']:.2g} | {sqnr} "
            f"| {times} | {cell(row.get('note', ''))} |"
        )
    return lines


# Steps: one process each


def step(run: Run, worker: str, *, folder: Path, **arguments: Any) -> dict[str, Any]:
    """Run a worker in a process of its own; return its answer, or {"error": why}."""
    told = {"folder": str(folder), "quick": run.options.quick, **arguments}
    print(f"{worker} {' '.join(str(value) for value in arguments.values())} ...", file=sys.stderr, flush=True)
    command = [sys.executable, __file__, "--worker", worker, json.dumps(told)]
    limit = min(run.options.timeout, run.seconds_left)
    if limit <= 0:
        return {"error": f"the budget of {run.options.budget:g} s was used up"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {limit:.0f} s"}
    found = re.search(r"^ANSWER (.*)$", done.stdout, re.MULTILINE)
    if found:
        answer: dict[str, Any] = json.loads(found[1])
        return answer
    if done.returncode < 0:
        return {"error": f"crashed with signal {-done.returncode}; last words: {last_line(done.stderr)}"}
    return {"error": last_line(done.stderr) or f"exit code {done.returncode}"}


def provider_text(provider: Any) -> str:
    if not provider.loads:
        return "does not load: " + cell(provider.reason)
    return f"loads after {provider.setup}" if provider.setup else "loads"


def git_commit() -> str:
    try:
        command = ["git", "-C", str(HERE.parent), "describe", "--always", "--dirty"]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "no git checkout"


def cell(text: str) -> str:
    """Return `text` fit for a cell of a Markdown table."""
    return " ".join(text.split()).replace("|", "\\|")


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""


if __name__ == "__main__":
    sys.exit(main())
