"""Everything this project claims about GPUs, tried on the machine at hand, as one Markdown report.

    python benchmarks/gpu.py [--quick] [--bundle DIR] [-o gpu_report.md]

Exports ResNets with random weights (or takes a bundle), builds engines with every TensorRT that is installed, runs
them and ONNX Runtime's CUDA provider, compares all with PyTorch on the same GPU and times them, beside trtexec where
it is on PATH. Runs from a plain checkout, without network. Every step is a process of its own: one that crashes, hangs
or lacks a library leaves its reason in the report, and the rest goes on.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Python puts this script's folder first, where `calibration` would be the benchmark and not the package.
sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if Path(entry).resolve() != HERE)]

FILES = {
    "fp32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "int8": "model.int8.onnx",
    "int8-fp16": "model.int8.fp16.onnx",
}
FLAVOURS = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
BATCHES = (1, 8)
INT8_NOTE = "computed in float: quantize, dequantize, float convolution"
MODELS = ("resnet18", "resnet50")


@dataclass
class Run:
    """Options, the folder of this run, and the report as it grows."""

    options: argparse.Namespace
    folder: Path
    lines: list[str] = field(default_factory=list)

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
        run.add("# GPU report", "", f"{datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC, `{' '.join(sys.argv)}`", "")
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
    from runtimes import environment, provider_probe

    machine, gpu, jetpack = environment.machine_info(), environment.gpu_info(), environment.jetpack_version()
    providers = provider_probe.loadable_providers(timeout_s=120)
    flavours = {name: environment.tensorrt_info(module) for name, module in FLAVOURS.items()}
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
        *(f"| {info.module} (imported) | {info.version or cell(info.reason)} |" for info in flavours.values()),
        "",
        "| ONNX Runtime provider | |",
        "|---|---|",
        *(f"| {item.name} | {provider_text(item)} |" for item in providers.providers),
        "",
    )
    return {"providers": {item.name: item for item in providers.providers}, "flavours": flavours}


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
    reference = "PyTorch FP32 on this GPU, without TF32"
    if "error" in torch_row:
        reference = source["reference"]
    run.add(f"Reference of all comparisons: {reference}.", "")
    engines = build_section(run, folder, precisions, environment)
    rows: list[tuple[str, dict[str, Any]]] = [("PyTorch FP32, GPU", torch_row)]
    rows.append(("ONNX Runtime CPU, FP32", step(run, "ort", folder=folder, provider="CPUExecutionProvider")))
    rows += [(f"ONNX Runtime CUDA, {name.upper()}", cuda_row(run, folder, name, environment)) for name in precisions]
    for flavour, name in engines:
        rows += trt_rows(run, folder, flavour, name)
    run.add("### Answers and latency", "", *rows_table(rows), "")
    run.add(
        "Latency: wall time of one call from NumPy array to NumPy array, copies to and from the GPU included, "
        "p50 (p10 to p90).",
        "",
    )
    trtexec_section(run, folder, engines)


def prepare(run: Run, model: str, folder: Path) -> dict[str, Any]:
    """Put ONNX files, inputs and reference logits into `folder`."""
    bundle = run.options.bundle
    if bundle is None:
        return step(run, "export", folder=folder, model=model, weights=run.options.weights, target=run.options.target)
    return step(run, "take_bundle", folder=folder, bundle=str(bundle.resolve()))


def torch_on_gpu(run: Run, folder: Path) -> dict[str, Any]:
    if not (folder / "module.pt").is_file():
        return {"error": "a bundle holds no PyTorch module"}
    return step(run, "torch", folder=folder)


def cuda_row(run: Run, folder: Path, precision: str, environment: dict[str, Any]) -> dict[str, Any]:
    """Run one file on ONNX Runtime's CUDA provider, unless the probe has found that it does not load."""
    provider = environment.get("providers", {}).get("CUDAExecutionProvider")
    if provider is not None and not provider.loads:
        brings = f"; {provider.package} brings it" if provider.package else ""
        return {"error": f"the provider does not load: {provider.reason}{brings}"}
    row = step(run, "ort", folder=folder, precision=precision, provider="CUDAExecutionProvider")
    if precision == "int8" and "error" not in row:
        row["note"] = INT8_NOTE
    return row


def trt_rows(run: Run, folder: Path, flavour: str, precision: str) -> list[tuple[str, dict[str, Any]]]:
    """Run one engine call by call, and replayed as a CUDA graph."""
    title = f"{FLAVOURS[flavour]}, {precision.upper()}"
    plain = step(run, "trt", folder=folder, flavour=flavour, precision=precision)
    if "error" in plain:
        return [(title, plain)]
    graph = step(run, "trt", folder=folder, flavour=flavour, precision=precision, cuda_graphs=True)
    return [(title, plain), (f"{title}, CUDA graph", graph)]


def build_section(
    run: Run, folder: Path, precisions: Sequence[str], environment: dict[str, Any]
) -> list[tuple[str, str]]:
    """Build every engine; return (flavour, precision) of those there are."""
    built = []
    run.add("### Engines", "", "| library | precision | seconds | MB | |", "|---|---|---|---|---|")
    for flavour, module in FLAVOURS.items():
        info = environment.get("flavours", {}).get(flavour)
        if info is not None and info.version is None:
            run.add(f"| {module} | - | - | - | {cell(info.reason)} |")
            continue
        for precision in precisions:
            row = step(run, "build", folder=folder, flavour=flavour, precision=precision)
            if "error" in row:
                run.add(f"| {module} | {precision} | - | - | {cell(row['error'])} |")
                continue
            built.append((flavour, precision))
            run.add(f"| {module} | {precision} | {row['seconds']:.1f} | {row['size_mb']:.1f} | {cell(row['note'])} |")
    run.add("")
    return built


def trtexec_section(run: Run, folder: Path, engines: Sequence[tuple[str, str]]) -> None:
    """Time the same engines with NVIDIA's own tool."""
    run.add("### trtexec", "")
    programs = {"tensorrt": find_trtexec("trtexec"), "rtx": find_trtexec("tensorrt_rtx")}
    todo = [(flavour, precision) for flavour, precision in engines if programs[flavour]]
    if not todo:
        absent = "there is no engine" if not engines else "neither trtexec nor tensorrt_rtx is on PATH"
        run.add(f"Not run: {absent}.", "")
        return
    run.add("| engine | batch | latency, median ms | GPU compute, median ms | |", "|---|---|---|---|---|")
    for flavour, precision in todo:
        for batch in BATCHES:
            row = step(
                run,
                "trtexec",
                folder=folder,
                program=programs[flavour],
                flavour=flavour,
                precision=precision,
                batch=batch,
            )
            run.add(
                f"| {FLAVOURS[flavour]}, {precision} | {batch} | {row.get('latency_ms', '-')} "
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
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=run.options.timeout, check=False
        )
    except subprocess.TimeoutExpired:
        return {"error": f"took longer than {run.options.timeout:g} s"}
    found = re.search(r"^ANSWER (.*)$", done.stdout, re.MULTILINE)
    if found:
        answer: dict[str, Any] = json.loads(found[1])
        return answer
    if done.returncode < 0:
        return {"error": f"crashed with signal {-done.returncode}; last words: {last_line(done.stderr)}"}
    return {"error": last_line(done.stderr) or f"exit code {done.returncode}"}


def export(folder: str, model: str, weights: str, target: str, **_: Any) -> dict[str, Any]:
    """Export FP32, FP16, INT8 and INT8 with FP16, and keep the PyTorch module, inputs and its logits on the CPU."""
    import numpy as np
    import onnx
    import torch

    from calibration import calibrate, insert_qdq
    from exporter import ExportConfig, export_resnet, float16_from_float32
    from exporter.check_images import load_check_images
    from exporter.float16_qdq import float16_qdq_from_float32
    from exporter.graph import opset_of
    from exporter.target import MIN_FLOAT16_SCALE_OPSET, target_from_name
    from runtimes import OrtRuntime, TorchRuntime

    home = Path(folder)
    exported = export_resnet(model, ExportConfig(target_from_name(target)), weights=weights)
    images = load_check_images(exported.preprocessing)
    onnx.save_model(exported.onnx, home / FILES["fp32"])
    onnx.save_model(float16_from_float32(exported.onnx).model, home / FILES["fp16"])
    table = calibrate(exported.onnx, np.array_split(images, 4), open_runtime=OrtRuntime)
    quantized = insert_qdq(exported.onnx, table).model
    onnx.save_model(quantized, home / FILES["int8"])
    if opset_of(quantized) >= MIN_FLOAT16_SCALE_OPSET:
        onnx.save_model(float16_qdq_from_float32(quantized).model, home / FILES["int8-fp16"])
    torch.save(exported.module, home / "module.pt")
    with TorchRuntime(exported.module) as runtime:
        save_reference(home, images, next(iter(runtime.run({"input": images}).values())))
    weights_note = " (random weights: latency and SQNR mean something, agreement little)" * (weights == "random")
    return {
        "note": f"{model}, weights {weights}{weights_note}; {len(images)} photographs {list(images.shape[1:])}, "
        "which also calibrated the INT8 file.",
        "reference": "PyTorch FP32 on the CPU",
    }


def take_bundle(folder: str, bundle: str, **_: Any) -> dict[str, Any]:
    """Copy a bundle's models and golden answers."""
    import numpy as np

    from runtimes.manifest import check_files, load_manifest

    manifest = load_manifest(Path(bundle))
    check_files(Path(bundle), manifest)
    for file in FILES.values():
        if file in manifest.files:
            shutil.copy(Path(bundle) / file, folder)
    with np.load(Path(bundle) / "golden.npz") as golden:
        save_reference(Path(folder), golden["input"], golden["logits"])
    return {
        "note": f"Bundle `{bundle}`: {manifest.model.get('id')}, written by {dict(manifest.tool)}.",
        "reference": "the bundle's golden logits, PyTorch FP32 where it was exported",
    }


def on_gpu(folder: str, *, quick: bool) -> dict[str, Any]:
    """Run the PyTorch module on the GPU without TF32; its logits become the reference."""
    import torch

    from runtimes import TorchRuntime

    if not torch.cuda.is_available():
        return {"error": "torch.cuda.is_available() is False: " + torch_reason(torch)}
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    module = torch.load(Path(folder) / "module.pt", weights_only=False).cuda()
    with TorchRuntime(module) as runtime:
        row = compare_and_time(Path(folder), runtime, quick=quick)
        images = load_images(Path(folder))
        save_reference(Path(folder), images, next(iter(runtime.run({"input": images}).values())))
    return {**row, "note": "compared with PyTorch on the CPU or the bundle"}


def torch_reason(torch: Any) -> str:
    if torch.version.cuda is None:
        return "this torch was built without CUDA"
    try:
        torch.cuda.init()
    except Exception as err:  # torch raises RuntimeError, AssertionError and others here
        return str(err).splitlines()[0]
    return "no GPU is visible"


def ort(folder: str, provider: str, *, quick: bool, precision: str = "fp32") -> dict[str, Any]:
    """Run one file in ONNX Runtime; on CUDA without TF32, so that FP32 is FP32."""
    import onnxruntime

    if hasattr(onnxruntime, "preload_dlls") and provider != "CPUExecutionProvider":
        onnxruntime.preload_dlls()
    choice = (provider, {"use_tf32": "0"}) if provider == "CUDAExecutionProvider" else provider
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(Path(folder) / FILES[precision]), settings, providers=[choice])
    if session.get_providers()[0] != provider:
        return {"error": f"asked for {provider}, ONNX Runtime loaded {session.get_providers()}"}

    inputs, outputs = ([info.name for info in ends] for ends in (session.get_inputs(), session.get_outputs()))
    # OrtRuntime takes no provider options, so the session is wrapped here.
    runtime = Answers(inputs, outputs, lambda arrays: dict(zip(outputs, session.run(None, arrays), strict=True)))
    return compare_and_time(Path(folder), runtime, quick=quick)


def build(folder: str, flavour: str, precision: str, **_: Any) -> dict[str, Any]:
    """Build one engine with the project's builder."""
    from exporter.engine import build_engine

    start = time.perf_counter()
    plan = build_engine(Path(folder) / FILES[precision], flavour=flavour)
    seconds = time.perf_counter() - start
    engine_path(Path(folder), flavour, precision).write_bytes(plan)
    return {"seconds": seconds, "size_mb": len(plan) / 1e6, "note": ""}


def trt(folder: str, flavour: str, precision: str, *, quick: bool, cuda_graphs: bool = False) -> dict[str, Any]:
    """Run one engine with the project's TensorRT adapter."""
    import importlib.util

    if importlib.util.find_spec("runtimes.trt") is None:
        return {"error": "not available: this checkout has no runtimes/trt.py"}
    from runtimes.trt import TrtRuntime

    path = engine_path(Path(folder), flavour, precision)
    # No sidecar: the engine was built by this very run.
    with TrtRuntime(path, flavour=flavour, check_sidecar=False, cuda_graphs=cuda_graphs) as runtime:
        row = compare_and_time(Path(folder), runtime, quick=quick)
    return {**row, "note": "TF32 allowed, as TensorRT does by default" if precision == "fp32" else ""}


def trtexec(folder: str, program: str, flavour: str, precision: str, batch: int, **_: Any) -> dict[str, Any]:
    """Time one engine with trtexec and read its medians."""
    size = "x".join(str(axis) for axis in load_images(Path(folder)).shape[1:])
    engine = engine_path(Path(folder), flavour, precision)
    command = [program, f"--loadEngine={engine}", f"--shapes=input:{batch}x{size}"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    answer = trtexec_medians(done.stdout)
    if "latency_ms" not in answer:
        words = [line for line in (done.stdout + done.stderr).splitlines() if "[E]" in line]
        answer["error"] = words[-1] if words else f"exit code {done.returncode}, no median in its output"
    return answer


def trtexec_medians(output: str) -> dict[str, Any]:
    """Return the medians in milliseconds that trtexec printed."""
    answer: dict[str, Any] = {}
    for key, label in (("latency_ms", "Latency"), ("compute_ms", "GPU Compute Time")):
        found = re.search(rf"\] {label}: .*?median = ([\d.]+) ms", output)
        if found:
            answer[key] = float(found[1])
    return answer


WORKERS: dict[str, Callable[..., dict[str, Any]]] = {
    "export": export,
    "take_bundle": take_bundle,
    "torch": on_gpu,
    "ort": ort,
    "build": build,
    "trt": trt,
    "trtexec": trtexec,
}


class Answers:
    """As much of `runtimes.protocol.Runtime` as comparing needs, around a function."""

    def __init__(
        self, inputs: Sequence[str], outputs: Sequence[str], run: Callable[[dict[str, Any]], dict[str, Any]]
    ) -> None:
        self.input_specs = dict.fromkeys(inputs)
        self.output_specs = dict.fromkeys(outputs)
        self.run = run


def compare_and_time(folder: Path, runtime: Any, *, quick: bool) -> dict[str, Any]:
    """Compare a runtime with the saved logits and time it at every batch size."""
    import numpy as np

    from runtimes import compare
    from runtimes.latency import measure_latency

    images = load_images(folder)
    logits = np.load(folder / "logits.npy")

    pieces = np.array_split(images, max(1, len(images) // 8))
    recorded = iter(np.array_split(logits, len(pieces)))
    reference: Any = Answers(["input"], ["logits"], lambda _: {"logits": next(recorded)})
    parity = compare(reference, runtime, pieces)
    name = next(iter(runtime.input_specs))
    latency = {}
    for size in BATCHES:
        batch = np.ascontiguousarray(np.resize(images, (size, *images.shape[1:])))
        # Clocks rise, and TensorRT-RTX compiles kernels, during the first calls.
        timed = measure_latency(
            lambda batch=batch: runtime.run({name: batch}),
            warm_up=3 if quick else 50,
            min_runs=10,
            max_runs=100 if quick else 1000,
            budget_s=1.0 if quick else 5.0,
        )
        latency[str(size)] = f"{timed.p50_ms:.2f} ({timed.p10_ms:.2f} to {timed.p90_ms:.2f})"
    return {**parity.to_json(), "latency": latency}


def save_reference(folder: Path, images: Any, logits: Any) -> None:
    import numpy as np

    np.save(folder / "images.npy", images)
    np.save(folder / "logits.npy", logits)


def load_images(folder: Path) -> Any:
    import numpy as np

    return np.load(folder / "images.npy")


def engine_path(folder: Path, flavour: str, precision: str) -> Path:
    return folder / f"{FILES[precision].removesuffix('.onnx')}.{flavour}.engine"


def find_trtexec(program: str) -> str | None:
    """Return the program's path: on PATH, or where JetPack puts it."""
    return shutil.which(program) or shutil.which(program, path="/usr/src/tensorrt/bin")


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
