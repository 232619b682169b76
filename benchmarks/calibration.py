"""Seconds and peak memory of INT8 calibration, beside a plain forward pass and ONNX Runtime's own quantizer.

    python benchmarks/calibration.py [--model resnet50] [--num-images 64] [--repeats 3] [--skip-peers]

Every row is a process of its own, so that peak memory is its own; the rows take turns, so that a machine whose speed
drifts slows all of them. All get the same FP32 ONNX file and the same preprocessed photographs. The forward pass is
timed without opening the session; the quantizers are timed from the FP32 file to the Q/DQ file, everything included.

Effort 2 has a row where there are images to judge it: 16 more than refinement takes, which
are 64 or, of a ResNet-50, 32.

Wall-clock seconds mean nothing on a busy machine, so its load is printed, and beside the seconds the CPU seconds of the
process (user and system, all threads), which other processes disturb less.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date
from importlib import metadata
from pathlib import Path

import numpy as np

# Python puts this script's folder first, where `calibration` would be this file and not the package.
HERE = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != HERE]

INPUT_SIZE = 224


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--num-images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each row; the median is printed")
    parser.add_argument("--skip-peers", action="store_true", help="forward pass and ours only")
    parser.add_argument("--worker", nargs=2, metavar=("ROW", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        row, folder = options.worker
        print(json.dumps(measure(WORKERS[row], Path(folder))))
        return
    rows = [row for row in WORKERS if not (options.skip_peers and row.startswith("onnxruntime"))]
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(Path(folder), options.model, options.num_images)
        if options.num_images < least_images_of_effort_2(Path(folder)):
            rows.remove(EFFORT_2)
        results: dict[str, list[dict[str, float]]] = {row: [] for row in rows}
        for _ in range(options.repeats):
            for row in rows:
                print(f"running {row} ...", file=sys.stderr)
                results[row].append(run_worker(row, folder))
    print_table(options.model, options.num_images, options.repeats, results)


def least_images_of_effort_2(folder: Path) -> int:
    """Return how many images it takes until effort 2 does more than the default."""
    import onnx

    from calibration.pipeline.judge import MIN_JUDGES
    from calibration.pipeline.refinement_sample import images_per_layer

    return MIN_JUDGES + max(images_per_layer(onnx.load(folder / "model.onnx")).values())


def run_worker(row: str, folder: str) -> dict[str, float]:
    command = [sys.executable, __file__, "--worker", row, folder]
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result


def measure(work: Callable[[Path], tuple[float, float]], folder: Path) -> dict[str, float]:
    seconds, cpu_seconds = work(folder)
    # Not ru_maxrss: Linux hands that on over fork and exec, so a child would report its parent's peak.
    status = Path("/proc/self/status").read_text()
    peak_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_gb": peak_kib * 1024 / 1e9}


def write_inputs(folder: Path, model: str, num_images: int) -> None:
    """Write the FP32 ONNX file and the preprocessed photographs [num_images, 3, 224, 224]."""
    import onnx
    import skimage.data
    from PIL import Image

    from exporter import export_resnet
    from runtimes import preprocess

    exported = export_resnet(model, weights="random")
    onnx.save_model(exported.onnx, folder / "model.onnx")
    names = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina")
    photos = [Image.fromarray(getattr(skimage.data, name)()) for name in names]
    generator = np.random.default_rng(0)
    images = []
    for number in range(num_images):
        photo = photos[number % len(photos)]
        width, height = photo.size
        left, top = generator.integers(0, width // 2), generator.integers(0, height // 2)
        crop = photo.crop((left, top, left + width // 2, top + height // 2))
        images.append(preprocess(exported.loaded.preprocessing, crop))
    np.save(folder / "images.npy", np.stack(images))


def batches(folder: Path) -> Iterator[np.ndarray]:
    """Yield two images at a time, read and not mapped: pages of a mapped file would count as the row's memory."""
    with (folder / "images.npy").open("rb") as file:
        np.lib.format.read_magic(file)
        (count, *shape), _, dtype = np.lib.format.read_array_header_1_0(file)
        for _ in range(0, count, 2):
            yield np.fromfile(file, dtype, 2 * math.prod(shape)).reshape(-1, *shape)


def clock() -> tuple[float, float]:
    """Return wall-clock and CPU seconds from some fixed point."""
    return time.perf_counter(), time.process_time()


def since(start: tuple[float, float]) -> tuple[float, float]:
    wall, cpu = clock()
    return wall - start[0], cpu - start[1]


def forward(folder: Path) -> tuple[float, float]:
    from runtimes import OrtRuntime

    with OrtRuntime(folder / "model.onnx") as runtime:
        runtime.run({"input": next(batches(folder))})  # the first call also allocates
        start = clock()
        for images in batches(folder):
            runtime.run({"input": images})
        return since(start)


def ours(method: str) -> Callable[[Path], tuple[float, float]]:
    def work(folder: Path) -> tuple[float, float]:
        import onnx

        from calibration import calibrate, insert_qdq
        from calibration.methods.method import method_from_name
        from runtimes import OrtRuntime

        start = clock()
        model = onnx.load(folder / "model.onnx")
        table = calibrate(model, batches(folder), open_runtime=OrtRuntime, method=method_from_name(method))
        onnx.save_model(insert_qdq(model, table).model, folder / f"ours.{method}.onnx")
        return since(start)

    return work


def ours_refined(effort: int) -> Callable[[Path], tuple[float, float]]:
    """Channels scaled, biases corrected and weights rounded layer by layer."""

    def work(folder: Path) -> tuple[float, float]:
        from functools import partial

        import onnx

        from calibration import quantize
        from calibration.methods.effort import EFFORTS
        from runtimes import OrtRuntime

        start = clock()
        model = onnx.load(folder / "model.onnx")
        exact = partial(OrtRuntime, exact_qdq=True)
        result = quantize(model, batches(folder), open_runtime=OrtRuntime, open_exact=exact, effort=EFFORTS[effort])
        onnx.save_model(result.quantized.model, folder / f"ours.{effort}.onnx")
        return since(start)

    return work


def onnxruntime_static(method: str) -> Callable[[Path], tuple[float, float]]:
    """ONNX Runtime's quantizer with the options that TensorRT accepts."""

    def work(folder: Path) -> tuple[float, float]:
        import onnx
        from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType
        from onnxruntime.quantization import quantize_static as quantize

        class Reader(CalibrationDataReader):
            def __init__(self) -> None:
                self.images = (image[np.newaxis] for pair in batches(folder) for image in pair)

            def get_next(self) -> dict[str, np.ndarray] | None:
                image = next(self.images, None)
                return None if image is None else {"input": image}

        start = clock()
        op_types = sorted({node.op_type for node in onnx.load(folder / "model.onnx").graph.node})
        quantize(
            str(folder / "model.onnx"),
            str(folder / f"onnxruntime.{method}.onnx"),
            Reader(),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "Gemm", "Add"],
            calibrate_method=CalibrationMethod[method],
            extra_options={
                "QuantizeBias": False,
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "OpTypesToExcludeOutputQuantization": op_types,
            },
        )
        return since(start)

    return work


EFFORT_2 = "resnet-export, effort 2, mse"

WORKERS: dict[str, Callable[[Path], tuple[float, float]]] = {
    "forward pass (FP32)": forward,
    "resnet-export, effort 0, max": ours("max"),
    "resnet-export, effort 0, mse": ours("mse"),
    "resnet-export, effort 0, entropy": ours("entropy"),
    "resnet-export, effort 1, mse (default)": ours_refined(1),
    EFFORT_2: ours_refined(2),
    "onnxruntime MinMax": onnxruntime_static("MinMax"),
    "onnxruntime Entropy": onnxruntime_static("Entropy"),
}


def print_table(model: str, num_images: int, repeats: int, results: dict[str, list[dict[str, float]]]) -> None:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("onnxruntime-gpu", "onnx", "numpy"))
    print(f"{model} at {INPUT_SIZE}, {num_images} photographs, {os.cpu_count()} cores of {processor()}, {date.today()}")
    print(f"{versions}, Python {platform.python_version()}; median of {repeats} runs, rows taking turns")
    load = os.getloadavg()[1]
    print(
        f"load of the machine over the last 5 minutes: {load:.1f}; this benchmark alone is at most {os.cpu_count()}\n"
    )
    print("| | seconds | x forward pass | CPU seconds | x forward pass | peak memory |")
    print("|---|---|---|---|---|---|")
    base = results["forward pass (FP32)"]
    for row, runs in results.items():
        cells = []
        for key in ("seconds", "cpu_seconds"):
            cells.append(f"{statistics.median(run[key] for run in runs):.1f}")
            ratios = (run[key] / forward[key] for run, forward in zip(runs, base, strict=True))
            cells.append(f"{statistics.median(ratios):.2f}")
        peak = statistics.median(run["peak_gb"] for run in runs)
        print(f"| {row} | {' | '.join(cells)} | {peak:.2f} GB |")


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
