"""`runtimes.load` on a GPU: its answers beside PyTorch's on the same device, its time beside the raw library's.

    python benchmarks/gpu_runtime.py [--model resnet50] [--batch 1,8,32] [--provider cuda]
    python benchmarks/gpu_runtime.py --provider cpu --model cifar_resnet20     # does the script work?

FP32 (TF32 off on both sides), FP16 and INT8 of one network with random weights, calibrated on noise: what is compared
is arithmetic, not accuracy. Timed in turns: `Model.run`, a raw session with I/O binding to device memory, PyTorch, and
`torch.compile` where it works. Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

HERE = Path(__file__).resolve().parent
# Python puts this script's folder first, where `calibration` would be the benchmark and not the package.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != HERE]

PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--batch", default="1,8,32")
    parser.add_argument("--provider", choices=PROVIDERS, default="cuda")
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = torch.device(options.provider)
    with tempfile.TemporaryDirectory() as folder:
        module, files, inputs = networks(options.model, Path(folder))
        module = module.to(device)
        device_name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
        versions = f"torch {torch.__version__}, onnxruntime {onnxruntime.__version__}"
        print(f"{options.model} on {device_name}, {datetime.now(timezone.utc).date()}, {versions}\n")
        print(parity(module, files, inputs, options.provider))
        print(times(module, files, inputs, options))
    return 0


def networks(name: str, folder: Path) -> tuple[torch.nn.Module, dict[str, Path], np.ndarray]:
    """Return the module, precision to file, and 64 inputs."""
    from calibration import calibrate, insert_qdq
    from exporter import export_resnet, float16_from_float32
    from runtimes import OrtRuntime

    exported = export_resnet(name, weights="random")
    height, width = exported.preprocessing.input_size
    inputs = np.random.default_rng(0).normal(size=(64, 3, height, width)).astype(np.float32)
    table = calibrate(exported.onnx, np.array_split(inputs, 8), open_runtime=OrtRuntime)
    models = {
        "fp32": exported.onnx,
        "fp16": float16_from_float32(exported.onnx).model,
        "int8": insert_qdq(exported.onnx, table).model,
    }
    files = {}
    for precision, model in models.items():
        files[precision] = folder / f"model.{precision}.onnx"
        onnx.save(model, files[precision])
    return exported.module.eval(), files, inputs


def parity(module: torch.nn.Module, files: dict[str, Path], inputs: np.ndarray, provider: str) -> str:
    from runtimes import TorchRuntime, compare, load

    lines = [
        "| beside PyTorch on the same device | agreement | SQNR | max \\|diff\\| | nodes |",
        "|---|---|---|---|---|",
    ]
    batches = np.array_split(inputs, 8)
    for precision, path in files.items():
        with load(path, provider=provider) as model:
            report = compare(TorchRuntime(module), model, batches)
            nodes = dict(model.describe().nodes_per_provider)
        sqnr = "equal bits" if report.sqnr_db is None else f"{report.sqnr_db:.1f} dB"
        lines.append(f"| {precision} | {report.agreement:.1%} | {sqnr} | {report.max_abs_diff:.2g} | {nodes} |")
    return "\n".join([*lines, ""])


def times(module: torch.nn.Module, files: dict[str, Path], inputs: np.ndarray, options: argparse.Namespace) -> str:
    from runtimes import load
    from runtimes.metrics.interleaved_timing import compare_timings, time_in_turns

    lines = ["| fp32, batch | way | p50 ms | beside raw with I/O binding |", "|---|---|---|---|"]
    for batch in map(int, options.batch.split(",")):
        images = np.resize(inputs, (batch, *inputs.shape[1:]))
        with load(files["fp32"], provider=options.provider) as model:
            calls: dict[str, Callable[[], object]] = {
                "raw, I/O binding, device memory": bound_session(files["fp32"], images, options.provider),
                "`Model.run`, host to host": lambda: model.run({"input": images}),  # noqa: B023 - called in this turn
                "PyTorch, device memory": torch_call(module, images),
            }
            compiled = compiled_call(module, images)
            if compiled is not None:
                calls["torch.compile, device memory"] = compiled
            timings = time_in_turns(calls, seconds=options.seconds, warm_up=5)
        first = next(iter(timings.values()))
        for way, timing in timings.items():
            against = "" if timing is first else str(compare_timings(timing, first))
            lines.append(f"| {batch} | {way} | {timing.p50_ms:.3f} | {against} |")
    return "\n".join(lines)


def bound_session(path: Path, images: np.ndarray, provider: str, *, cuda_graph: bool = False) -> Callable[[], object]:
    options = [{"use_tf32": "0"} if provider == "cuda" else {}]
    if cuda_graph:
        options[0]["enable_cuda_graph"] = "1"  # captured by the first run, replayed while the bindings stay
    session = onnxruntime.InferenceSession(str(path), providers=[PROVIDERS[provider]], provider_options=options)
    if session.get_providers()[0] != PROVIDERS[provider]:
        raise SystemExit(f"ONNX Runtime did not load {PROVIDERS[provider]}")
    binding = session.io_binding()
    binding.bind_ortvalue_input("input", onnxruntime.OrtValue.ortvalue_from_numpy(images, provider, 0))
    binding.bind_output("logits", provider, 0)

    def call() -> None:
        session.run_with_iobinding(binding)
        binding.synchronize_outputs()

    return call


def torch_call(module: Any, images: np.ndarray) -> Callable[[], object]:
    device = next(module.parameters()).device
    given = torch.from_numpy(images).to(device)

    def call() -> None:
        with torch.inference_mode():
            module(given)
        if device.type == "cuda":
            torch.cuda.synchronize()

    return call


def compiled_call(module: torch.nn.Module, images: np.ndarray) -> Callable[[], object] | None:
    call = torch_call(torch.compile(module), images)
    try:
        call()
    except Exception as err:  # a compiler may be missing in as many ways as there are backends; the others still count
        print(f"torch.compile does not work here: {type(err).__name__}: {str(err).splitlines()[0]}", file=sys.stderr)
        return None
    return call


if __name__ == "__main__":
    sys.exit(main())
