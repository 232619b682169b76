"""What `runtimes.load` costs beside the raw library, in one run: the table of docs/runtimes.md.

    python benchmarks/runtime.py --write      # on an idle machine; ten minutes
    python benchmarks/runtime.py --quick      # does it work? its figures are noise

OpenVINO beside ONNX Runtime: benchmarks/runtime_openvino.py.

Raw and ours have the same session options and take turns (`interleaved_timing`); memory and import time are those of
processes of their own. Networks: ResNet-50 and ResNet-18 with random weights, which compute as long as trained ones,
and the digits network. The JPEG is a photograph of scikit-image enlarged to 12 megapixels, quality 92.
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
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from PIL import Image

from exporter import export_resnet
from runtimes import load
from runtimes.inference.model import Model
from runtimes.machine.environment import machine_info
from runtimes.machine.power_state import power_state, warnings_of
from runtimes.metrics.interleaved_timing import MIN_ROUNDS, compare_timings, time_in_turns
from runtimes.ort.int8_kernels import PRECISE_OPTION, why_int8_saturates
from runtimes.preprocessing.model_input import Preparation
from runtimes.preprocessing.transform import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing

ROOT = Path(__file__).parents[1]
DOCUMENT = ROOT / "docs" / "runtimes.md"
BEGIN, END = "<!-- benchmarks/runtime.py begins -->", "<!-- benchmarks/runtime.py ends -->"
DIGITS = ROOT / "examples" / "digits" / "resnet20_digits.safetensors"
PREPROCESSING = Preprocessing(256, (224, 224), Interpolation.BILINEAR, IMAGENET_MEAN, IMAGENET_STD)
BIG, SMALL = ("resnet50", "resnet18"), "cifar_resnet20"


@dataclass(frozen=True)
class Line:
    """One line of the table: what, the figure, the target in words, and whether it is met (None: no target)."""

    what: str
    figure: str
    target: str = ""
    met: bool | None = None


@dataclass(frozen=True)
class Effort:
    """How long everything is measured."""

    rounds: int
    seconds: float
    processes: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds; the figures are noise")
    parser.add_argument("--write", action="store_true", help="put the table into docs/runtimes.md")
    arguments = parser.parse_args()
    effort = Effort(3, 0.05, 1) if arguments.quick else Effort(MIN_ROUNDS, 2.0, 5)
    before = power_state()
    with tempfile.TemporaryDirectory() as folder:
        files = export_networks(Path(folder))
        lines = [
            *run_lines(files, effort),
            *import_lines(effort),
            *memory_lines(files["resnet50"], effort),
            *preprocessing_lines(Path(folder), effort),
            *thread_lines(files, effort),
            *batcher_lines(files, effort),
        ]
    text = table(lines, warnings_of(before, power_state()))
    print(text)
    if arguments.write:
        write_between(DOCUMENT, text)
    return 0


def export_networks(folder: Path) -> dict[str, Path]:
    files = {}
    for name in (*BIG, SMALL):
        weights = str(DIGITS) if name == SMALL else "random"
        files[name] = folder / f"{name}.onnx"
        onnx.save(export_resnet(name, weights=weights).onnx, files[name])
    return files


def image_of(model: Model, rows: int = 1) -> dict[str, np.ndarray]:
    ((name, spec),) = model.input_specs.items()
    shape = (rows, *(size or 1 for size in spec.shape[1:]))
    return {name: np.random.default_rng(0).normal(size=shape).astype(np.float32)}


def raw_session(path: Path) -> onnxruntime.InferenceSession:
    """Return a session with the options that `OrtRuntime` gives its own."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False
    if why_int8_saturates():
        options.add_session_config_entry(*PRECISE_OPTION)
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run_lines(files: dict[str, Path], effort: Effort) -> list[Line]:
    lines = []
    for name, path in files.items():
        with load(path, provider="cpu") as model:
            inputs = image_of(model)
            calls: dict[str, Callable[[], object]] = {
                "raw": partial(raw_session(path).run, None, inputs),
                "ours": partial(model.run, inputs),
            }
            timings = time_in_turns(calls, rounds=effort.rounds, seconds=effort.seconds, warm_up=5)
        raw, ours = timings["raw"], timings["ours"]
        compared = compare_timings(ours, raw)
        more_us = (ours.p50_ms - raw.p50_ms) * 1000
        figure = (
            f"{ours.p50_ms:.3f} ms beside {raw.p50_ms:.3f} ms: ratio {compared.ratio:.3f} "
            f"({compared.smallest:.3f} to {compared.largest:.3f}), {more_us:+.0f} µs; {compared}"
        )
        met, target = (
            (more_us <= 30, "at most 30 µs more") if name == SMALL else (compared.ratio <= 1.02, "at most 1.02")
        )
        lines.append(Line(f"`run` beside `InferenceSession.run`, {name}, one image", figure, target, met))
    return lines


def own_process(script: str) -> float:
    """Return the number that a Python of its own prints."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout)


def import_lines(effort: Effort) -> list[Line]:
    lines = []
    for statement, target in (("import runtimes", 150), ("from runtimes import load", None)):
        script = f"import numpy, time; a = time.perf_counter()\n{statement}\nprint((time.perf_counter() - a) * 1000)"
        ms = statistics.median(own_process(script) for _ in range(effort.processes))
        met = None if target is None else ms <= target
        lines.append(Line(f"`{statement}` beyond NumPy", f"{ms:.1f} ms", f"at most {target} ms" if target else "", met))
    return lines


_RSS = """
import re
print(int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024)
"""
_RAW = """
import numpy as np, onnxruntime
options = onnxruntime.SessionOptions()
options.enable_mem_pattern = False
opened = onnxruntime.InferenceSession({path!r}, options, providers=["CPUExecutionProvider"])
opened.run(None, {{"input": np.zeros((1, 3, 224, 224), np.float32)}})
"""
_OURS = """
import numpy as np
from runtimes import load
opened = load({path!r}, provider="cpu")
opened.run({{"input": np.zeros((1, 3, 224, 224), np.float32)}})
"""


def memory_lines(path: Path, effort: Effort) -> list[Line]:
    raw, ours = (
        statistics.median(own_process(script.format(path=str(path)) + _RSS) for _ in range(effort.processes))
        for script in (_RAW, _OURS)
    )
    figure = f"{ours:.0f} MiB beside {raw:.0f} MiB: {ours / raw - 1:+.1%}"
    return [Line("resident memory of ResNet-50 after one run", figure, "at most 5 % more", ours / raw <= 1.05)]


def preprocessing_lines(folder: Path, effort: Effort) -> list[Line]:
    import skimage.data
    from torchvision.models import ResNet50_Weights

    path = folder / "12-megapixels.jpg"
    Image.fromarray(skimage.data.retina()).resize((4000, 3000), Image.Resampling.BICUBIC).save(path, quality=92)
    transforms = ResNet50_Weights.IMAGENET1K_V1.transforms()

    def torchvision() -> Any:
        with path.open("rb") as file:
            return transforms(Image.open(file).convert("RGB"))

    ways = {"Pillow, bit for bit torchvision's pixels": Preparation(PREPROCESSING)}
    ways["Pillow, draft=True"] = Preparation(PREPROCESSING, draft=True)
    try:
        ways['backend="opencv"'] = Preparation(PREPROCESSING, backend="opencv")
    except ImportError as err:
        print(f"without OpenCV: {err}", file=sys.stderr)
    calls: dict[str, Callable[[], object]] = {"torchvision": torchvision}
    calls |= {name: lambda way=way: way.batch([way.pixels(path)]) for name, way in ways.items()}
    timings = time_in_turns(calls, rounds=effort.rounds, seconds=effort.seconds, warm_up=1)
    exact = ways["Pillow, bit for bit torchvision's pixels"].pixels(path).astype(int)
    lines = []
    for name, way in ways.items():
        compared = compare_timings(timings[name], timings["torchvision"])
        difference = np.abs(way.pixels(path) - exact)
        figure = (
            f"{timings[name].p50_ms:.1f} ms beside {timings['torchvision'].p50_ms:.1f} ms: ratio {compared.ratio:.2f}; "
            f"pixels off by {difference.mean():.2f} of 255 on average, {difference.max()} at most"
        )
        lines.append(Line(f"12-megapixel JPEG beside torchvision: {name}", figure, "at most 1", compared.ratio <= 1))
    return lines


def images_per_second(work: Callable[[], int], seconds: float) -> float:
    """Call `work`, which returns how many images it did, for so long."""
    work()
    start, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - start) < seconds:
        count += work()
    return count / passed


def run_rows(model: Model, inputs: dict[str, np.ndarray]) -> int:
    model.run(inputs)
    return len(next(iter(inputs.values())))


def run_in_threads(pool: ThreadPoolExecutor, one: Callable[[], int]) -> int:
    return sum(pool.map(lambda _: one(), range(32)))


def thread_lines(files: dict[str, Path], effort: Effort) -> list[Line]:
    lines = []
    for name in ("resnet18", SMALL):
        with load(files[name], provider="cpu") as model, ThreadPoolExecutor(8) as pool:
            inputs = image_of(model)

            one = partial(run_rows, model, inputs)
            eight = partial(run_in_threads, pool, one)
            pairs = [
                (images_per_second(one, effort.seconds), images_per_second(eight, effort.seconds))
                for _ in range(effort.rounds)
            ]
        alone, together = (statistics.median(values) for values in zip(*pairs, strict=True))
        figure = f"{together:.1f} beside {alone:.1f} images/s: {together / alone:.2f}"
        lines.append(Line(f"8 threads beside 1, {name}", figure, "at least 1", together >= alone))
    return lines


def batcher_lines(files: dict[str, Path], effort: Effort) -> list[Line]:
    lines = []
    for name in ("resnet18", SMALL):
        with load(files[name], provider="cpu") as model:
            static = {size: static_rate(model, size, effort) for size in (1, 2, 4, 8, 16, 32)}
            best = max(static, key=lambda size: static[size])
            pairs = [
                (static_rate(model, best, effort), batcher_rate(model, best, effort)) for _ in range(effort.rounds)
            ]
        alone, batched = (statistics.median(values) for values in zip(*pairs, strict=True))
        figure = f"{batched:.1f} beside {alone:.1f} images/s at its best batch {best}: {batched / alone:.2f}"
        lines.append(
            Line(
                f"batcher under saturation beside static batches, {name}",
                figure,
                "at least 0.9",
                batched >= 0.9 * alone,
            )
        )
    return lines


def static_rate(model: Model, size: int, effort: Effort) -> float:
    return images_per_second(partial(run_rows, model, image_of(model, size)), effort.seconds)


def batcher_rate(model: Model, size: int, effort: Effort) -> float:
    """Keep four batches' worth of single images waiting, all the time."""
    inputs = image_of(model)
    with model.batcher(max_batch=size, max_wait_ms=2, max_queue=4 * size) as batcher:
        waiting: list[Future[Any]] = [batcher.submit(inputs) for _ in range(4 * size)]

        def work() -> int:
            for future in waiting[:size]:
                future.result()
            waiting[:size] = []
            waiting.extend(batcher.submit(inputs) for _ in range(size))
            return size

        return images_per_second(work, effort.seconds)


def table(lines: list[Line], warnings: tuple[str, ...]) -> str:
    machine = machine_info()
    names = ("onnxruntime-gpu", "onnxruntime", "numpy", "pillow", "torchvision", "opencv-python-headless")
    versions = ", ".join(f"{name} {version}" for name, version in installed(names).items())
    words = {True: "met", False: "**missed**", None: ""}
    rows = [f"| {line.what} | {line.figure} | {line.target} | {words[line.met]} |" for line in lines]
    return "\n".join(
        [
            f"{machine.num_cores} cores of {machine.cpu} ({', '.join(machine.cpu_flags)}), "
            f"{datetime.now(timezone.utc).date()}; {versions}.",
            *(f"Mind: {warning}." for warning in warnings),
            "",
            "| | measured | target | |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def installed(names: tuple[str, ...]) -> dict[str, str]:
    """Return distribution name to version of those that are installed, and Python's."""
    versions = {"Python": platform.python_version()}
    for name in names:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def write_between(document: Path, text: str, first: str = BEGIN, last: str = END) -> None:
    content = document.read_text(encoding="utf-8")
    before, begin, rest = content.partition(first)
    _, end, after = rest.partition(last)
    if not begin or not end:
        raise SystemExit(f"{document} lacks {first} or {last}; nothing was written")
    document.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
