"""Weights and images that arithmetic breaks on: each is exported with a checked result, or refused by name.

    python tests/robustness/hostile_numbers.py [--only NAME,...]

Every case runs the main job (INT8, FP16, effort 1) on the digits network with some of its numbers changed. Exit code 0
means that what was written passed: every file of the bundle gives finite outputs on the golden inputs, and the FP32
file gives PyTorch's. Exit code 1 or 2 must name the tensor or say what to do. An internal error (70) is a failure.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from forked_runs import WEIGHTS, few_digits, import_everything, start, wait

State = dict[str, Any]


def scaled(factor: float) -> Callable[[State], None]:
    """Return a change that multiplies every convolution by `factor`."""

    def change(state: State) -> None:
        for name in state:
            if state[name].ndim == 4:
                state[name] = state[name] * factor

    return change


def put(name: str, value: float, *place: int) -> Callable[[State], None]:
    """Return a change that writes one value at `place` of a tensor, or all of it."""

    def change(state: State) -> None:
        state[name] = state[name].clone()
        state[name][place or ...] = value

    return change


def both(*changes: Callable[[State], None]) -> Callable[[State], None]:
    """Return all changes one after the other."""

    def change(state: State) -> None:
        for one in changes:
            one(state)

    return change


CASES: dict[str, tuple[Callable[[State], None], tuple[int, ...], str]] = {
    "NaN in a weight": (put("conv1.weight", float("nan"), 0, 0, 0, 0), (2,), "conv1.weight"),
    "Inf in a weight": (put("fc.weight", float("inf"), 0, 0), (2,), "fc.weight"),
    "NaN in a running variance": (put("bn1.running_var", float("nan"), 0), (2,), "bn1.running_var"),
    "negative running variance": (put("bn1.running_var", -1.0, 0), (2,), "bn1"),
    "running variance 0": (put("bn1.running_var", 0.0), (0, 1, 2), ""),
    "denormal weights": (put("layer1.0.conv1.weight", 1e-40), (0, 1), ""),
    "all-zero layer": (put("layer1.0.conv1.weight", 0.0), (0, 1), ""),
    "all-zero channel": (put("layer1.0.conv1.weight", 0.0, 3), (0,), ""),
    "constant channel": (
        both(put("layer1.0.conv1.weight", 0.0, 3), put("layer1.0.bn1.bias", 2.0, 3)),
        (0,),
        "",
    ),
    "dead ReLU": (put("layer1.0.bn1.bias", -1e4), (0,), ""),
    "bias beyond FP16": (put("layer1.0.bn1.bias", -1e6), (2,), "layer1.0.conv1.bias"),
    "weights times 1e-30": (scaled(1e-30), (0, 1, 2), ""),
    "weights times 1e30": (scaled(1e30), (0, 1, 2), ""),
    "one weight of 1e30": (put("layer2.0.conv2.weight", 1e30, 0, 0, 0, 0), (1, 2), ""),
    "one weight of 1e-30": (put("layer2.0.conv2.weight", 1e-30, 0, 0, 0, 0), (0,), ""),
    "all weights 0": (scaled(0.0), (0, 1, 2), ""),
    "classifier of zeros": (both(put("fc.weight", 0.0), put("fc.bias", 0.0)), (0, 1, 2), ""),
}
"""Name to the change, the exit codes that are right, and a word that the message must hold."""


def check_written(bundle: Path) -> list[str]:
    """Run every file of a bundle on its golden inputs; return what is wrong."""
    import numpy as np

    from runtimes.bundle.manifest import check_files, load_manifest
    from runtimes.io.npz import load_npz
    from runtimes.ort.adapter import OrtRuntime

    manifest = load_manifest(bundle)
    check_files(bundle, manifest)
    golden = load_npz(bundle / "golden.npz")
    problems = []
    for name in (file for file in manifest.files if file.endswith(".onnx")):
        with OrtRuntime(bundle / name, exact_qdq=True, num_threads=1) as runtime:
            logits = runtime.run({"input": golden["input"]})["logits"]
        if not np.isfinite(logits).all():
            problems.append(f"{name}: outputs are not finite")
        largest = max(float(np.abs(golden["logits"]).max()), 1e-30)
        if name == "model.onnx" and np.abs(logits - golden["logits"]).max() > 1e-4 * largest:
            problems.append(f"{name}: is not what PyTorch gives")
    return problems


def run_case(work: Path, calib: Path, change: Callable[[State], None]) -> tuple[int, str, list[str]]:
    """Export the changed network; return exit code, last line, and what is wrong with what was written."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    state = load_file(WEIGHTS)
    with safe_open(WEIGHTS, framework="pt") as file:
        header = dict(file.metadata() or {})
    change(state)
    save_file(state, work / "changed.safetensors", metadata=header)
    words = [
        "cifar_resnet20",
        "--weights",
        work / "changed.safetensors",
        "--int8",
        "--fp16",
        "--calib",
        calib,
        "--quiet",
    ]
    words += ["--num-calib", "32", "--calib-cache", "off", "--force", "-o", work / "bundle"]
    code = wait(start(words, work / "log"))
    told = [line for line in (work / "log").read_text(errors="replace").splitlines() if line.startswith("error")]
    return code, " ".join(told)[:300], check_written(work / "bundle") if code == 0 else []


def black_images(folder: Path) -> Path:
    """Write 40 black pictures; return their folder."""
    from PIL import Image

    folder.mkdir()
    for place in range(40):
        Image.new("RGB", (32, 32)).save(folder / f"{place}.png")
    return folder


def main() -> int:
    """Run every case; print exit code and message of each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", default="", help="names separated by commas")
    options = parser.parse_args()
    chosen = options.only.split(",") if options.only else [*CASES, "all images black"]
    import_everything()
    begin, failures = time.monotonic(), []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        calib = few_digits(work / "digits")
        for case in chosen:
            change, expected, word = CASES.get(case, (lambda state: None, (0, 2), ""))
            folder = calib if case in CASES else black_images(work / "black")
            code, told, problems = run_case(work, folder, change)
            if code not in expected or word not in told or (code and not told):
                problems.append(f"exit code {code}, expected {expected} and {word!r}: {told}")
            print(f"  {case}: exit code {code}{': ' + told if told else ''}")
            failures += [f"{case}: {problem}" for problem in problems]
    print(f"hostile numbers: {len(chosen)} cases, {len(failures)} failures, {time.monotonic() - begin:.0f} s")
    for failure in failures:
        print(f"  FAILED {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
