"""Seconds of the whole main job beside an export and a quantization without any check, in one run.

    python benchmarks/whole_job.py [--model resnet50] [--num-images 64] [--repeats 3]

    ours   resnet-export MODEL --weights random --int8 --calib PHOTOS, cache off: export, folding, INT8, every check
    peer   torch.onnx.export, then ONNX Runtime's quantize_static (MinMax, Q/DQ, per channel) over the same pictures

Both start from nothing: a process each, imports included; they take turns. Where the seconds go is printed beside.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from importlib import metadata
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent

PEER = """
import sys, time
start = time.perf_counter()
import numpy, torch, torchvision
from pathlib import Path
from PIL import Image
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
model, photos, folder = sys.argv[1], sorted(Path(sys.argv[2]).glob("*.png")), Path(sys.argv[3])
imported = time.perf_counter()
torch.manual_seed(0)
network = getattr(torchvision.models, model)().eval()
torch.onnx.export(network, (torch.zeros(1, 3, 224, 224),), folder / "model.onnx", input_names=["input"], dynamo=True,
                  verbose=False)
exported = time.perf_counter()
prepare = torchvision.transforms._presets.ImageClassification(crop_size=224)
class Reader(CalibrationDataReader):
    def __init__(self):
        self.images = (prepare(Image.open(path).convert("RGB")).numpy()[numpy.newaxis] for path in photos)
    def get_next(self):
        image = next(self.images, None)
        return None if image is None else {"input": image}
quantize_static(str(folder / "model.onnx"), str(folder / "int8.onnx"), Reader(), quant_format=QuantFormat.QDQ,
                per_channel=True, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax)
done = time.perf_counter()
print(f"imports {imported - start:.1f}, export {exported - imported:.1f}, quantization {done - exported:.1f}")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="resnet50")
    parser.add_argument("--num-images", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--effort", default="1")
    options = parser.parse_args()
    seconds: dict[str, list[float]] = {"peer": [], "ours": []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "photos", options.num_images)
        for turn in range(options.repeats):
            for row in seconds:
                seconds[row].append(run(row, options, folder, turn))
    print_table(options, seconds)


def write_photos(folder: Path, count: int) -> None:
    """Write crops of scikit-image's photographs."""
    import skimage.data
    from PIL import Image

    folder.mkdir()
    photos = [getattr(skimage.data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket", "retina")]
    generator = np.random.default_rng(0)
    for number in range(count):
        photo = photos[number % len(photos)]
        top, left = (int(generator.integers(0, side // 2)) for side in photo.shape[:2])
        crop = photo[top : top + photo.shape[0] // 2, left : left + photo.shape[1] // 2]
        Image.fromarray(crop[:500, :500]).save(folder / f"{number:03}.png")


def run(row: str, options: argparse.Namespace, folder: Path, turn: int) -> float:
    out = folder / f"{row}{turn}"
    out.mkdir()
    if row == "peer":
        command = [sys.executable, "-c", PEER, options.model, str(folder / "photos"), str(out)]
    else:
        command = [sys.executable, "-m", "resnet_export", options.model, "--weights", "random", "--int8"]
        command += ["--calib", str(folder / "photos"), "--output", str(out / "bundle"), "--effort", options.effort]
        command += ["--calib-cache", "off"]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{row} failed with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    print(f"{row}: {taken:.1f} s; {done.stdout.splitlines()[-1] if row == 'peer' else ''}", file=sys.stderr)
    return taken


def print_table(options: argparse.Namespace, seconds: dict[str, list[float]]) -> None:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "onnxruntime-gpu", "onnx"))
    print(f"{options.model} at 224, {options.num_images} photographs, {os.cpu_count()} cores, {platform.machine()}")
    print(f"{versions}, Python {platform.python_version()}, {date.today()}; median of {options.repeats}, taking turns")
    print(f"load of the machine over the last 5 minutes: {os.getloadavg()[1]:.1f}\n")
    ratio = statistics.median(ours / peer for ours, peer in zip(seconds["ours"], seconds["peer"], strict=True))
    print("| | seconds | ratio |")
    print("|---|---|---|")
    peer, ours = (f"{statistics.median(seconds[row]):.1f}" for row in ("peer", "ours"))
    print(f"| torch.onnx.export and quantize_static, nothing checked | {peer} | 1 |")
    print(f"| resnet-export --effort {options.effort}, every check | {ours} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
