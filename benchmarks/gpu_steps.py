"""The steps of `benchmarks/gpu.py`, each run in a process of its own: what crashes or hangs there is one row.

Every function takes `folder`, where files are kept between steps, and returns what can be written as JSON.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FILES = {
    "fp32": "model.onnx",
    "fp16": "model.fp16.onnx",
    "int8": "model.int8.onnx",
    "int8-fp16": "model.int8.fp16.onnx",
    "int8-pads": "model.int8.pads.onnx",  # with zero points: what do the Pads cost that they take?
}
FLAVOURS = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
BATCHES = (1, 8)
INT8_NOTE = "computed in float: quantize, dequantize, float convolution"


def export(folder: str, model: str, weights: str, target: str, **_: Any) -> dict[str, Any]:
    """Export FP32, FP16, INT8 and INT8 with FP16, and keep the PyTorch module, inputs and its logits on the CPU."""
    import numpy as np
    import onnx
    import torch

    from calibration import calibrate, insert_qdq
    from calibration.methods.dialect import ZeroPoints
    from calibration.qdq.offsets import take_offsets
    from exporter import ExportConfig, export_resnet, float16_from_float32
    from exporter.graph.onnx_graph import opset_of
    from exporter.models.check_images import load_check_images
    from exporter.passes.float16_qdq import float16_qdq_from_float32
    from exporter.target import MIN_FLOAT16_SCALE_OPSET, TARGETS
    from runtimes import OrtRuntime, TorchRuntime

    home = Path(folder)
    exported = export_resnet(model, ExportConfig(TARGETS.named(target)), weights=weights)
    images = load_check_images(exported.preprocessing)
    onnx.save_model(exported.onnx, home / FILES["fp32"])
    onnx.save_model(float16_from_float32(exported.onnx).model, home / FILES["fp16"])
    table = calibrate(exported.onnx, np.array_split(images, 4), open_runtime=OrtRuntime)
    quantized = insert_qdq(exported.onnx, table).model
    onnx.save_model(quantized, home / FILES["int8"])
    if opset_of(quantized) >= MIN_FLOAT16_SCALE_OPSET:
        onnx.save_model(float16_qdq_from_float32(quantized).model, home / FILES["int8-fp16"])
    pads = calibrate(exported.onnx, np.array_split(images, 4), open_runtime=OrtRuntime, zero_points=ZeroPoints.PADS)
    shifted = take_offsets(insert_qdq(exported.onnx, pads).model, exported.onnx)
    onnx.save_model(shifted, home / FILES["int8-pads"])
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

    from runtimes.bundle.manifest import check_files, load_manifest

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


def on_gpu(folder: str, *, quick: bool, device: str = "cuda") -> dict[str, Any]:
    """Run the PyTorch module on the GPU without TF32; its logits become the reference. A rehearsal says "cpu"."""
    import torch

    from runtimes import TorchRuntime

    if device == "cuda" and not torch.cuda.is_available():
        return {"error": "torch.cuda.is_available() is False: " + torch_reason(torch)}
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    module = torch.load(Path(folder) / "module.pt", weights_only=False).to(device)
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

    from runtimes import OrtRuntime

    if hasattr(onnxruntime, "preload_dlls") and provider != "CPUExecutionProvider":
        onnxruntime.preload_dlls()
    options = [{"use_tf32": "0"}] if provider == "CUDAExecutionProvider" else None
    with OrtRuntime(Path(folder) / FILES[precision], providers=(provider,), provider_options=options) as runtime:
        return compare_and_time(Path(folder), runtime, quick=quick)


def overhead(folder: str, precision: str, device: str, *, quick: bool, **_: Any) -> dict[str, Any]:
    """Time `Model.run` beside a raw session in turns: `run`, I/O binding to device memory, and its CUDA graph."""
    import numpy as np
    import onnxruntime

    from benchmarks.gpu_runtime import PROVIDERS, bound_session
    from runtimes import load
    from runtimes.metrics.interleaved_timing import compare_timings, time_in_turns

    if device == "cuda" and hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    path, rows = Path(folder) / FILES[precision], []
    options = [{"use_tf32": "0"} if device == "cuda" else {}]
    for batch in BATCHES:
        given = load_images(Path(folder))
        images = np.resize(given, (batch, *given.shape[1:]))
        raw = onnxruntime.InferenceSession(str(path), providers=[PROVIDERS[device]], provider_options=options)
        with load(path, provider=device) as model:
            calls: dict[str, Callable[[], object]] = {
                "raw session, host to host": lambda: raw.run(None, {"input": images}),  # noqa: B023 - in this turn
                "`Model.run`, host to host": lambda: model.run({"input": images}),  # noqa: B023
                "raw, I/O binding, device memory": bound_session(path, images, device),
            }
            if device == "cuda":
                calls["raw, I/O binding, CUDA graph"] = bound_session(path, images, device, cuda_graph=True)
            timings = time_in_turns(calls, seconds=0.3 if quick else 1.0, warm_up=5)
        first = next(iter(timings.values()))
        for way, timing in timings.items():
            against = "" if timing is first else str(compare_timings(timing, first))
            rows.append([str(batch), way, f"{timing.p50_ms:.3f}", against])
    return {"rows": rows}


def calibration(folder: str, device: str = "cuda", **_: Any) -> dict[str, Any]:
    """Calibrate on the CPU and on CUDA; tell how far the scales are apart."""
    import numpy as np
    import onnx

    from calibration import calibrate
    from resnet_export.export_job.calibrate import calibration_runtime

    model, images = onnx.load(Path(folder) / "model.onnx"), load_images(Path(folder))
    pieces = np.array_split(images, max(1, len(images) // 8))
    tables, seconds = [], []
    for provider in ("cpu", device):
        open_runtime = calibration_runtime(provider)
        start = time.perf_counter()
        tables.append(calibrate(model, iter(pieces), open_runtime=open_runtime).ranges)
        seconds.append(time.perf_counter() - start)
    ratios = {name: tables[1][name].scale / kept.scale for name, kept in tables[0].items()}
    worst = max(ratios, key=lambda name: abs(ratios[name] - 1))
    return {"largest": abs(ratios[worst] - 1), "tensor": worst, "seconds": seconds, "num_images": len(images)}


def build(folder: str, flavor: str, precision: str, **_: Any) -> dict[str, Any]:
    """Build one engine with the project's builder."""
    from exporter.engines.build import build_engine

    start = time.perf_counter()
    plan = build_engine(Path(folder) / FILES[precision], flavor=flavor)
    seconds = time.perf_counter() - start
    engine_path(Path(folder), flavor, precision).write_bytes(plan)
    return {"seconds": seconds, "size_mb": len(plan) / 1e6, "note": ""}


def trt(folder: str, flavor: str, precision: str, *, quick: bool, cuda_graphs: bool = False) -> dict[str, Any]:
    """Run one engine with the project's TensorRT adapter."""
    from runtimes.trt.adapter import TrtRuntime

    path = engine_path(Path(folder), flavor, precision)
    # No sidecar: the engine was built by this very run.
    with TrtRuntime(path, flavor=flavor, check_sidecar=False, cuda_graphs=cuda_graphs) as runtime:
        row = compare_and_time(Path(folder), runtime, quick=quick)
    return {**row, "note": "TF32 allowed, as TensorRT does by default" if precision == "fp32" else ""}


def trtexec(folder: str, program: str, flavor: str, precision: str, batch: int, **_: Any) -> dict[str, Any]:
    """Time one engine with trtexec and read its medians."""
    size = "x".join(str(axis) for axis in load_images(Path(folder)).shape[1:])
    engine = engine_path(Path(folder), flavor, precision)
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
    "overhead": overhead,
    "calibration": calibration,
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
    from runtimes.metrics.latency import measure_latency

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


def engine_path(folder: Path, flavor: str, precision: str) -> Path:
    return folder / f"{FILES[precision].removesuffix('.onnx')}.{flavor}.engine"


def find_trtexec(program: str) -> str | None:
    """Return the program's path: on PATH, or where JetPack puts it."""
    return shutil.which(program) or shutil.which(program, path="/usr/src/tensorrt/bin")
