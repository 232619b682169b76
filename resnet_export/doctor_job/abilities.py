"""Tell what can be done on a machine, and what to type where something cannot."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from urllib.request import url2pathname

from exporter.known_bad import MIN_PYTHON
from resnet_export.doctor_job.facts import CPU, CUDA, Facts, dotted
from runtimes.machine.environment import EXPORT_LIBRARIES, rtx_serves
from runtimes.machine.version_numbers import version_numbers

BUILDERS = ("tensorrt", "tensorrt_rtx")
"""TensorRT's libraries that build engines; the others only run them."""


@dataclass(frozen=True, slots=True)
class Ability:
    """Whether something works here, with what or why not, and the command, if any, that makes it possible."""

    name: str
    possible: bool
    detail: str
    command: str


def judge_abilities(facts: Facts) -> tuple[Ability, ...]:
    """Return what works on this machine, and what to type where something does not."""
    export = _export_ability(facts)
    return (
        export,
        Ability("FP16 model", export.possible, "onnx" if export.possible else export.detail, export.command),
        _int8_ability(facts, export),
        _build_ability(facts),
        _run_cpu_ability(facts),
        _run_gpu_ability(facts),
    )


def _export_ability(facts: Facts) -> Ability:
    name = "export to ONNX"
    missing = [library for library in EXPORT_LIBRARIES if not facts.version(library)]
    if facts.onnxruntime.version is None:
        missing.append("onnxruntime")
    command = _install("export")
    if version_numbers(facts.machine.python)[:2] < MIN_PYTHON:
        detail = f"Python {facts.machine.python}; the main job needs {dotted(MIN_PYTHON)} or newer"
        return Ability(name, False, detail, f"with Python {dotted(MIN_PYTHON)} or newer: {command}")
    if missing:
        return Ability(name, False, f"missing: {', '.join(missing)}", command)
    if not facts.onnxruntime.loads(CPU):
        return Ability(name, False, _provider_reason(facts, CPU), command)
    return Ability(name, True, f"torch {facts.version('torch')}, onnx {facts.version('onnx')}", "")


def _int8_ability(facts: Facts, export: Ability) -> Ability:
    """INT8 calibrates on ONNX Runtime's CPU provider, on which the export is checked too: one stands with the other."""
    detail = f"calibrates on ONNX Runtime {facts.onnxruntime.version}, CPU" if export.possible else export.detail
    return Ability("INT8 model", export.possible, detail, export.command)


def _build_ability(facts: Facts) -> Ability:
    """TensorRT builds on the GPU it builds for; TensorRT-RTX builds without one."""
    ways = [text for module in BUILDERS if (text := can_build(facts, module))]
    if ways:
        return Ability("build engines", True, "; ".join(ways), "")
    reasons = [f"{name}: {facts.flavor(name).reason or facts.gpu.reason or 'no usable GPU'}" for name in BUILDERS]
    command = (
        tensorrt_command(facts) if facts.gpu.is_usable or facts.is_jetson else _if_has_wheels(facts, _install("rtx"))
    )
    return Ability("build engines", False, "; ".join(reasons), command)


def can_build(facts: Facts, module: str) -> str:
    """Return with what and for what a flavor builds here, or ""."""
    item = facts.flavor(module)
    if module not in BUILDERS or item.version is None or (module == "tensorrt" and not facts.gpu.is_usable):
        return ""
    if module == "tensorrt":
        return f"TensorRT {item.version} for the GPU here"
    targets = f" for SM {', '.join(item.compute_capabilities)}" if item.compute_capabilities else ""
    return f"TensorRT-RTX {item.version}{targets}"


def _run_cpu_ability(facts: Facts) -> Ability:
    if facts.onnxruntime.loads(CPU):
        return Ability("run on the CPU", True, f"ONNX Runtime {facts.onnxruntime.version}", "")
    return Ability("run on the CPU", False, _provider_reason(facts, CPU), "pip install onnxruntime")


def _run_gpu_ability(facts: Facts) -> Ability:
    name = "run on a GPU"
    if not facts.gpu.is_usable:
        detail = facts.gpu.reason or "no GPU"
        later = "" if facts.onnxruntime.loads(CUDA) or facts.is_jetson else _cuda_command(facts)
        return Ability(name, False, detail, f"on a machine with a GPU and driver: {later}" if later else "")
    ways = []
    rtx = facts.flavor("tensorrt_rtx")
    if facts.flavor("tensorrt").version:
        ways.append(f"TensorRT {facts.flavor('tensorrt').version}")
    if rtx.version and any(rtx_serves(rtx, gpu.compute_capability) for gpu in facts.gpu.devices):
        ways.append(f"TensorRT-RTX {rtx.version}")
    if facts.onnxruntime.loads(CUDA):
        ways.append(f"ONNX Runtime {facts.onnxruntime.version}, CUDA")
    if ways:
        return Ability(name, True, "; ".join(ways), "")
    command = tensorrt_command(facts) if facts.is_jetson else _cuda_command(facts)
    return Ability(name, False, f"no library that runs on it; {CUDA}: {_provider_reason(facts, CUDA)}", command)


def _provider_reason(facts: Facts, name: str) -> str:
    if facts.onnxruntime.version is None:
        return f"onnxruntime: {facts.onnxruntime.reason}"
    found = facts.onnxruntime.provider(name)
    return "not compiled in" if found is None else found.reason


def _if_has_wheels(facts: Facts, command: str) -> str:
    """Return the command where PyPI has wheels of NVIDIA's libraries and of onnxruntime-gpu, else "": x86-64 alone.

    Source: `pip install --platform manylinux_2_39_aarch64` finds none of tensorrt, tensorrt-rtx, onnxruntime-gpu
    (2026-11-29).
    """
    return command if facts.machine.architecture.lower() in ("x86_64", "amd64") else ""


def _cuda_command(facts: Facts) -> str:
    """Return what makes ONNX Runtime's CUDA provider load, as far as pip can; "" where it cannot."""
    command = 'pip install "onnxruntime-gpu[cuda,cudnn]"'
    if (found := facts.onnxruntime.provider(CUDA)) is not None and found.package:
        command = f"pip install {found.package}"
    elif facts.version("onnxruntime"):
        command = f"pip uninstall -y onnxruntime && {command}"
    return _if_has_wheels(facts, command)


def tensorrt_command(facts: Facts) -> str:
    """Return how TensorRT gets here: from JetPack on a Jetson, from pip elsewhere."""
    if facts.is_jetson:
        return "sudo apt install python3-libnvinfer; python3 -m venv --system-site-packages ENVIRONMENT"
    return _if_has_wheels(facts, _install("tensorrt"))


def _install(extra: str) -> str:
    """Return the command that installs an extra of this project from where it came."""
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").is_file():
        return f'pip install -e "{checkout}[{extra}]"'
    return f'pip install "{_origin() or "resnet-export"}[{extra}]"'


def _origin() -> str:
    """Return the folder that this project was installed from, or "" where pip did not record one."""
    try:
        record = json.loads(metadata.distribution("resnet-export").read_text("direct_url.json") or "{}")
    except (metadata.PackageNotFoundError, ValueError):
        return ""
    url = str(record.get("url", ""))
    return url2pathname(url.removeprefix("file://")) if "dir_info" in record else ""
