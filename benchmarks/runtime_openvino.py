"""ONNX Runtime and OpenVINO beside each other on this CPU, raw calls beside ours: the table of docs/openvino.md.

    python benchmarks/runtime_openvino.py --write            # on an idle machine; six minutes
    python benchmarks/runtime_openvino.py --quick            # does it work? its figures are noise

Networks have random weights, which compute as long as trained ones; INT8 is calibrated on four photographs.
All calls of a network take turns (`runtimes.metrics.interleaved_timing`), one picture, two threads. How near to FP32
OpenVINO is in either dialect is measured on the demo's network, whose weights are trained.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from runtime import _RSS, ROOT, installed, own_process, write_between

from runtimes import load
from runtimes.machine.environment import machine_info
from runtimes.machine.power_state import power_state, warnings_of
from runtimes.metrics.interleaved_timing import MIN_ROUNDS, Timing, compare_timings, time_in_turns
from runtimes.ort.int8_kernels import PRECISE_OPTION, why_int8_saturates

DOCUMENT = ROOT / "docs" / "openvino.md"
BEGIN, END = "<!-- benchmarks/runtime_openvino.py begins -->", "<!-- benchmarks/runtime_openvino.py ends -->"
PHOTOS = ROOT / "exporter" / "models" / "check_photos"
NETWORKS = ("resnet18", "resnet50", "timm:efficientnet_lite0")
TARGETS = ("tensorrt", "onnxruntime")
THREADS = 2


@dataclass(frozen=True)
class Case:
    """One file on one library: name in the table, the file, and how it is opened and called."""

    name: str
    path: Path
    provider: str
    exact: bool = False


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds; the figures are noise")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--bundles", type=Path, help="keep the bundles here, and take those that are there")
    parser.add_argument("--write", action="store_true", help="put the table into docs/openvino.md")
    arguments = parser.parse_args()
    rounds, seconds = (3, 0.05) if arguments.quick else (MIN_ROUNDS, 0.8)
    before = power_state()
    lines = [
        "| network | what | p50 ms | p99 ms | beside the raw call | beside ONNX Runtime's INT8 |",
        "|---|---|---|---|---|---|",
    ]
    verdicts: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for network in arguments.networks:
            bundles = export(network, arguments.bundles or Path(folder))
            *found, verdict = rows(network, bundles, rounds, seconds)
            lines += found
            verdicts.append(verdict)
            print("\n".join([*lines[-8:], verdict]), flush=True)
        verdicts.append(accuracy_line(Path(folder)))
        memory = memory_line(bundles["onnxruntime"] / "model.int8.onnx")
    machine = machine_info()
    versions = ", ".join(
        f"{n} {v}" for n, v in installed(("onnxruntime-gpu", "onnxruntime", "openvino", "numpy")).items()
    )
    text = "\n".join(
        [
            f"{machine.num_cores} cores of {machine.cpu} ({', '.join(machine.cpu_flags)}), {THREADS} threads, "
            f"{datetime.now(timezone.utc).date()}; {versions}. Targets: within 2 % of the raw call; OpenVINO's INT8 at "
            "most 0.7 of ONNX Runtime's with VNNI, 0.5 with AMX.",
            *(f"Mind: {warning}." for warning in warnings_of(before, power_state())),
            "",
            *lines,
            "",
            "ONNX Runtime's dialect beside TensorRT's, both in OpenVINO:",
            "",
            *(f"- {verdict}" for verdict in verdicts),
            "",
            memory,
        ]
    )
    print(text)
    if arguments.write:
        write_between(DOCUMENT, text, BEGIN, END)
    return 0


def export(network: str, folder: Path) -> dict[str, Path]:
    """Return target to bundle."""
    found = {}
    for target in TARGETS:
        found[target] = folder / f"{network.rpartition(':')[2]}-{target}"
        if not (found[target] / "manifest.json").is_file():
            words = [network, "--weights", "random", "--int8", "--effort", "0", "--calib", PHOTOS, "--target", target]
            words += ["--calib-cache", "off", "--force", "--quiet", "-o", found[target]]
            # In a process of its own: a script's folder comes first on its path, and calibration.py lies in this one.
            environment = {**os.environ, "PYTHONPATH": str(ROOT)}
            subprocess.run([sys.executable, "-m", "resnet_export", *map(str, words)], check=True, env=environment)
    return found


def rows(network: str, bundles: dict[str, Path], rounds: int, seconds: float) -> Iterator[str]:
    """Time every file on every library, ours and raw, in turns; the last that is yielded compares the dialects."""
    cases = [
        Case("FP32, ONNX Runtime", bundles["onnxruntime"] / "model.onnx", "cpu"),
        Case("FP32, OpenVINO", bundles["onnxruntime"] / "model.onnx", "openvino"),
        Case("INT8 in ONNX Runtime's dialect, ONNX Runtime", bundles["onnxruntime"] / "model.int8.onnx", "cpu"),
        Case("INT8 in ONNX Runtime's dialect, OpenVINO", bundles["onnxruntime"] / "model.int8.onnx", "openvino"),
        Case("INT8 in TensorRT's dialect, OpenVINO", bundles["tensorrt"] / "model.int8.onnx", "openvino"),
    ]
    with ExitStack() as stack:
        calls: dict[str, Callable[[], object]] = {}
        for case in cases:
            model = stack.enter_context(load(case.path, provider=case.provider, threads=THREADS))
            ((name, spec),) = model.input_specs.items()
            image = np.random.default_rng(0).normal(size=(1, *(n or 1 for n in spec.shape[1:]))).astype(np.float32)
            calls[case.name] = partial(model.run, {name: image})
            calls[f"{case.name}, raw"] = raw(case, name, image)
        timings = time_in_turns(calls, rounds=rounds, seconds=seconds, warm_up=5)
    base = timings[cases[2].name]
    for case in cases:
        ours, theirs = timings[case.name], timings[f"{case.name}, raw"]
        yield line(network, case.name, ours, theirs, base)
    compared = compare_timings(timings[cases[3].name], timings[cases[4].name])
    yield f"{network}: {compared.ratio:.3f} of the time ({compared.smallest:.3f} to {compared.largest:.3f})"


def accuracy_line(folder: Path) -> str:
    """Return how near to FP32 OpenVINO is with the demo's network in each dialect."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    digits = ROOT / "examples" / "digits"
    subprocess.run([sys.executable, digits / "write_images.py", folder / "digits"], check=True, env=environment)
    told = []
    for target in TARGETS:
        words = ["cifar_resnet20", "--weights", digits / "resnet20_digits.safetensors", "--int8", "--target", target]
        words += ["--calib", folder / "digits" / "calib", "--val", folder / "digits" / "val", "--calib-cache", "off"]
        words += ["--measure-on", "openvino", "--quiet", "-o", folder / f"demo-{target}"]
        subprocess.run([sys.executable, "-m", "resnet_export", *map(str, words)], check=True, env=environment)
        (row,) = json.loads((folder / f"demo-{target}" / "report.json").read_text())["other_runtimes"]
        told.append(f"{target} {row['parity']['sqnr_db']:.1f} dB, {row['parity']['agreement']:.2%}")
    return f"demo's network, SQNR and agreement with FP32 on 360 images: {'; '.join(told)}"


def line(network: str, name: str, ours: Timing, theirs: Timing, base: Timing) -> str:
    compared = compare_timings(ours, theirs)
    beside = "" if ours is base or not name.startswith("INT8") else f"{compare_timings(ours, base).ratio:.2f}"
    return (
        f"| {network} | {name} | {ours.p50_ms:.2f} | {ours.p99_ms:.2f} | {theirs.p50_ms:.2f} ms: {compared.ratio:.3f} "
        f"({compared.smallest:.3f} to {compared.largest:.3f}) | {beside} |"
    )


def raw(case: Case, name: str, image: np.ndarray) -> Callable[[], object]:
    """Return the library's own call, with the options that `load` gives it."""
    if case.provider == "cpu":
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        options.enable_mem_pattern = False
        if why_int8_saturates():
            options.add_session_config_entry(*PRECISE_OPTION)
        session = onnxruntime.InferenceSession(str(case.path), options, providers=["CPUExecutionProvider"])
        return partial(session.run, None, {name: image})
    return partial(openvino_request(case.path).infer, {name: image}, share_inputs=True)


def openvino_request(path: Path) -> Any:
    import openvino

    from runtimes.openvino.openvino_library import properties_for

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(str(path)), "CPU", properties_for(num_threads=THREADS, given={}))
    return compiled.create_infer_request()


_RAW = """
import numpy as np, openvino
core = openvino.Core()
compiled = core.compile_model(core.read_model({path!r}), "CPU", {properties!r})
request = compiled.create_infer_request()
(port,) = compiled.inputs
shape = [1 if n.is_dynamic else n.get_length() for n in port.get_partial_shape()]
request.infer({{port: np.zeros(shape, np.float32)}}, share_inputs=True)
"""
_OURS = """
import numpy as np
from runtimes import load
opened = load({path!r}, provider="openvino", threads=2)
((name, spec),) = opened.input_specs.items()
opened.run({{name: np.zeros([n or 1 for n in spec.shape], np.float32)}})
"""


def memory_line(path: Path) -> str:
    """Return resident memory of a process of its own, ours beside raw."""
    from runtimes.openvino.openvino_library import properties_for

    properties = properties_for(num_threads=THREADS, given={})
    theirs = own_process(_RAW.format(path=str(path), properties=properties) + _RSS)
    ours = own_process(_OURS.format(path=str(path)) + _RSS)
    return (
        f"Resident memory of {path.parent.name} in OpenVINO after one run: {ours:.0f} MiB beside the raw "
        f"{theirs:.0f} MiB, {ours / theirs - 1:+.1%} (target: at most 5 % more)."
    )


if __name__ == "__main__":
    sys.exit(main())
