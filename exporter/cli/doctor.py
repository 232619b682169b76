"""`resnet-export doctor`: what this machine has, what is in conflict, and what you can do here.

Facts come from `runtimes.environment`, which loads for real what can be loaded; this module draws the conclusions
and prints them. It imports no framework and uses no network. Exit code 0 whatever it finds; 2 for wrong use.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.request import url2pathname

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from exporter.cli.licenses import bill_of_materials, installed_components, print_licenses
from runtimes.environment import (
    TENSORRT_MODULES,
    GpuInfo,
    JetPackInfo,
    LibraryVersion,
    MachineInfo,
    TensorRTInfo,
    gpu_info,
    jetpack_version,
    library_versions,
    machine_info,
    tensorrt_info,
)
from runtimes.provider_probe import OnnxRuntimeInfo, loadable_providers

SCHEMA_VERSION = 1
_MIN_PYTHON = (3, 11)
"""What onnxruntime-gpu 1.31, and with it the main job, needs. Source: its metadata, Requires-Python."""

_EXPORT_LIBRARIES = ("torch", "torchvision", "onnx", "onnxscript", "safetensors")
_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that was looked at."""

    machine: MachineInfo
    gpu: GpuInfo
    jetpack: JetPackInfo
    libraries: tuple[LibraryVersion, ...]
    onnxruntime: OnnxRuntimeInfo
    tensorrt: tuple[TensorRTInfo, ...]

    def version(self, library: str) -> str | None:
        """Return the version of an installed library, or None."""
        return next((item.version for item in self.libraries if item.name == library), None)

    def flavour(self, module: str) -> TensorRTInfo:
        """Return what was found out about one of `TENSORRT_MODULES`."""
        return next(item for item in self.tensorrt if item.module == module)

    @property
    def is_jetson(self) -> bool:
        """Whether this is a Jetson."""
        return self.jetpack.l4t is not None or self.jetpack.board is not None


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two things that do not go together, and what to do about it."""

    what: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Ability:
    """One thing that you can or cannot do here.

    Attributes:
        name: What it is about.
        possible: Whether it works here.
        detail: With what, or why not.
        command: What to type to make it possible, or "" (it is possible, or no installation helps).
    """

    name: str
    possible: bool
    detail: str
    command: str


def run_doctor(argv: Sequence[str]) -> int:
    """Look at the machine and print what was found; return 0.

    Args:
        argv: The words after `doctor`.

    Raises:
        SystemExit: With code 2 for wrong use, 0 for `--help`.
    """
    parser = argparse.ArgumentParser(
        prog="resnet-export doctor",
        description="Tell what this machine has, what is in conflict, and what you can do here.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument(
        "--licenses",
        action="store_true",
        help="list the packages that are installed for this tool, with their licences; with --json as CycloneDX",
    )
    options = parser.parse_args(argv)
    if options.licenses:
        components = installed_components()
        if options.json:
            print(json.dumps(bill_of_materials(components), indent=2))
        else:
            print_licenses(components)
        return 0
    facts = gather_facts()
    if options.json:
        print(json.dumps(report(facts), indent=2))
    else:
        _print_report(facts, Console(highlight=False))
    return 0


def gather_facts() -> Facts:
    """Run every probe, those in children at the same time."""
    with ThreadPoolExecutor() as pool:
        flavours = pool.map(tensorrt_info, TENSORRT_MODULES)
        libraries, providers, gpu = (
            pool.submit(library_versions),
            pool.submit(loadable_providers),
            pool.submit(gpu_info),
        )
        return Facts(
            machine=machine_info(),
            gpu=gpu.result(),
            jetpack=jetpack_version(),
            libraries=libraries.result(),
            onnxruntime=providers.result(),
            tensorrt=tuple(flavours),
        )


def report(facts: Facts) -> dict[str, Any]:
    """Return facts and conclusions as `--json` prints them."""
    return {
        "schema_version": SCHEMA_VERSION,
        **asdict(facts),
        "conflicts": [asdict(conflict) for conflict in find_conflicts(facts)],
        "abilities": [asdict(ability) for ability in judge_abilities(facts)],
    }


# Conflicts


def find_conflicts(facts: Facts) -> tuple[Conflict, ...]:
    """Return what is known not to go together on this machine."""
    checks: tuple[Callable[[Facts], Conflict | None], ...] = (
        _two_onnxruntimes,
        _old_python,
        _old_driver,
        _tensorrt_provider_version,
        _torch_without_curand,
        _rtx_without_this_gpu,
    )
    return tuple(conflict for check in checks if (conflict := check(facts)) is not None)


def _two_onnxruntimes(facts: Facts) -> Conflict | None:
    if not (facts.version("onnxruntime") and facts.version("onnxruntime-gpu")):
        return None
    return Conflict(
        "onnxruntime and onnxruntime-gpu are both installed; they share one folder, and the last one installed wins",
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
    )


def _old_python(facts: Facts) -> Conflict | None:
    if _version_tuple(facts.machine.python)[:2] >= _MIN_PYTHON:
        return None
    return Conflict(
        f"Python {facts.machine.python}: onnxruntime-gpu 1.31 and the main job need {_dotted(_MIN_PYTHON)}; "
        "reading bundles, building and running engines do not",
        f"export on a machine with Python {_dotted(_MIN_PYTHON)} or newer and copy the bundle",
    )


def _old_driver(facts: Facts) -> Conflict | None:
    wanted, offered = facts.onnxruntime.cuda_version, facts.gpu.cuda_version
    if wanted is None or offered is None or _version_tuple(offered)[0] >= _version_tuple(wanted)[0]:
        return None
    return Conflict(
        f"the driver runs CUDA up to {offered}; onnxruntime-gpu {facts.onnxruntime.version} was built for {wanted}",
        f"install a driver for CUDA {_version_tuple(wanted)[0]}, or an onnxruntime-gpu built for CUDA {offered}",
    )


def _tensorrt_provider_version(facts: Facts) -> Conflict | None:
    """ONNX Runtime's TensorRT provider is bound to one major version: onnxruntime-gpu 1.31 to libnvinfer.so.10."""
    provider = next((item for item in facts.onnxruntime.providers if item.name == _TENSORRT), None)
    library = provider.missing_library if provider else None
    installed = facts.flavour("tensorrt").version or facts.version("tensorrt")
    if provider is None or library is None or not library.startswith("libnvinfer.so.") or installed is None:
        return None
    wanted = library.rpartition(".")[2]
    if _version_tuple(installed)[0] == int(wanted):
        return None
    return Conflict(
        f"ONNX Runtime's TensorRT provider wants TensorRT {wanted} ({library}); TensorRT {installed} does not serve it",
        f"run engines with TensorRT {installed} itself, or: pip install {provider.package}",
    )


def _torch_without_curand(facts: Facts) -> Conflict | None:
    provider = next((item for item in facts.onnxruntime.providers if item.name == _CUDA), None)
    library = provider.missing_library if provider else None
    if provider is None or library is None or not library.startswith("libcurand") or not facts.version("torch"):
        return None
    return Conflict(
        f"torch {facts.version('torch')} does not bring {library}, which ONNX Runtime's CUDA provider needs",
        f"pip install {provider.package}",
    )


def _rtx_without_this_gpu(facts: Facts) -> Conflict | None:
    rtx = facts.flavour("tensorrt_rtx")
    foreign = [gpu for gpu in facts.gpu.devices if not _rtx_serves(rtx, gpu.compute_capability)]
    if rtx.version is None or not foreign:
        return None
    names = ", ".join(f"{gpu.name} (SM {gpu.compute_capability})" for gpu in foreign)
    return Conflict(
        f"TensorRT-RTX {rtx.version} cannot build for {names}; it has SM {', '.join(rtx.compute_capabilities)}",
        "use TensorRT on this GPU: " + _tensorrt_command(facts),
    )


def _rtx_serves(rtx: TensorRTInfo, capability: str | None) -> bool:
    """Tell whether engines of TensorRT-RTX can run on a GPU; a library or GPU that does not say is trusted."""
    return not rtx.compute_capabilities or capability is None or capability in rtx.compute_capabilities


# What you can do here


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
    missing = [library for library in _EXPORT_LIBRARIES if not facts.version(library)]
    if facts.onnxruntime.version is None:
        missing.append("onnxruntime")
    command = _install("export")
    if _version_tuple(facts.machine.python)[:2] < _MIN_PYTHON:
        detail = f"Python {facts.machine.python}; the main job needs {_dotted(_MIN_PYTHON)} or newer"
        return Ability(name, False, detail, f"with Python {_dotted(_MIN_PYTHON)} or newer: {command}")
    if missing:
        return Ability(name, False, f"missing: {', '.join(missing)}", command)
    if not facts.onnxruntime.loads(_CPU):
        return Ability(name, False, _provider_reason(facts, _CPU), command)
    return Ability(name, True, f"torch {facts.version('torch')}, onnx {facts.version('onnx')}", "")


def _int8_ability(facts: Facts, export: Ability) -> Ability:
    """INT8 calibrates on ONNX Runtime's CPU provider, on which the export is checked too: one stands with the other."""
    detail = f"calibrates on ONNX Runtime {facts.onnxruntime.version}, CPU" if export.possible else export.detail
    return Ability("INT8 model", export.possible, detail, export.command)


def _build_ability(facts: Facts) -> Ability:
    """TensorRT builds on the GPU it builds for; TensorRT-RTX builds without one."""
    ways = [text for module in TENSORRT_MODULES if (text := _can_build(facts, module))]
    if ways:
        return Ability("build engines", True, "; ".join(ways), "")
    reasons = [f"{item.module}: {_flavour_reason(facts, item)}" for item in facts.tensorrt]
    command = _tensorrt_command(facts) if facts.gpu.is_usable or facts.is_jetson else _install("rtx")
    return Ability("build engines", False, "; ".join(reasons), command)


def _can_build(facts: Facts, module: str) -> str:
    """Return with what and for what a flavour builds here, or ""."""
    item = facts.flavour(module)
    if item.version is None or (module == "tensorrt" and not facts.gpu.is_usable):
        return ""
    if module == "tensorrt":
        return f"TensorRT {item.version} for the GPU here"
    targets = f" for SM {', '.join(item.compute_capabilities)}" if item.compute_capabilities else ""
    return f"TensorRT-RTX {item.version}{targets}"


def _flavour_reason(facts: Facts, item: TensorRTInfo) -> str:
    return item.reason or facts.gpu.reason or "no usable GPU"


def _run_cpu_ability(facts: Facts) -> Ability:
    if facts.onnxruntime.loads(_CPU):
        return Ability("run on the CPU", True, f"ONNX Runtime {facts.onnxruntime.version}", "")
    return Ability("run on the CPU", False, _provider_reason(facts, _CPU), "pip install onnxruntime")


def _run_gpu_ability(facts: Facts) -> Ability:
    name = "run on a GPU"
    if not facts.gpu.is_usable:
        detail = facts.gpu.reason or "no GPU"
        later = "" if facts.onnxruntime.loads(_CUDA) else _cuda_command(facts)
        return Ability(name, False, detail, f"on a machine with a GPU and driver: {later}" if later else "")
    ways = []
    rtx = facts.flavour("tensorrt_rtx")
    if facts.flavour("tensorrt").version:
        ways.append(f"TensorRT {facts.flavour('tensorrt').version}")
    if rtx.version and any(_rtx_serves(rtx, gpu.compute_capability) for gpu in facts.gpu.devices):
        ways.append(f"TensorRT-RTX {rtx.version}")
    if facts.onnxruntime.loads(_CUDA):
        ways.append(f"ONNX Runtime {facts.onnxruntime.version}, CUDA")
    if ways:
        return Ability(name, True, "; ".join(ways), "")
    command = _tensorrt_command(facts) if facts.is_jetson else _cuda_command(facts)
    return Ability(name, False, f"no library that runs on it; {_CUDA}: {_provider_reason(facts, _CUDA)}", command)


def _provider_reason(facts: Facts, name: str) -> str:
    if facts.onnxruntime.version is None:
        return f"onnxruntime: {facts.onnxruntime.reason}"
    found = next((item for item in facts.onnxruntime.providers if item.name == name), None)
    return "not compiled in" if found is None else found.reason


def _cuda_command(facts: Facts) -> str:
    """Return what makes ONNX Runtime's CUDA provider load, as far as pip can."""
    found = next((item for item in facts.onnxruntime.providers if item.name == _CUDA), None)
    if found is not None and found.package:
        return f"pip install {found.package}"
    if facts.version("onnxruntime"):
        return 'pip uninstall -y onnxruntime && pip install "onnxruntime-gpu[cuda,cudnn]"'
    return 'pip install "onnxruntime-gpu[cuda,cudnn]"'


def _tensorrt_command(facts: Facts) -> str:
    """Return how TensorRT gets here: from JetPack on a Jetson, from pip elsewhere."""
    if facts.is_jetson:
        return "sudo apt install python3-libnvinfer; python3 -m venv --system-site-packages ENVIRONMENT"
    return _install("tensorrt")


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


def _version_tuple(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version, (0,) where there is none."""
    numbers = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers) or (0,)


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(str(number) for number in version)


# Printing


def _print_report(facts: Facts, console: Console) -> None:
    _print_section(console, "Machine", _machine_rows(facts))
    _print_section(console, "GPU", _gpu_rows(facts))
    _print_section(console, "Libraries", [(item.name, _library_text(item)) for item in facts.libraries])
    _print_section(console, "ONNX Runtime, what really loads", _provider_rows(facts.onnxruntime))
    _print_section(console, "TensorRT", [(item.module, _flavour_text(facts, item)) for item in facts.tensorrt])
    conflicts = find_conflicts(facts)
    if conflicts:
        rows = [("[yellow]![/yellow]", f"{escape(item.what)}\n{escape(item.remedy)}") for item in conflicts]
        _print_section(console, "Conflicts", rows)
    _print_section(console, "What you can do here", [_ability_row(item) for item in judge_abilities(facts)])


def _print_section(console: Console, title: str, rows: Sequence[tuple[str, str]]) -> None:
    console.print(f"[bold]{title}[/bold]")
    width = max(Text.from_markup(label).cell_len for label, _ in rows)
    for label, text in rows:
        padding = " " * (width - Text.from_markup(label).cell_len)
        indented = text.replace("\n", "\n" + " " * (width + 4))
        console.print(f"  {label}{padding}  {indented}", soft_wrap=True)  # a command stays one line, to be copied
    console.print()


def _machine_rows(facts: Facts) -> list[tuple[str, str]]:
    machine = facts.machine
    memory = "unknown" if machine.memory_bytes is None else f"{machine.memory_bytes / 2**30:.1f} GiB"
    rows = [
        ("system", f"{machine.os}, {machine.kernel}, {machine.architecture}"),
        ("CPU", f"{machine.cpu}, {machine.num_cores} cores; {' '.join(machine.cpu_flags) or 'no AVX2, no NEON'}"),
        ("memory", memory),
        ("Python", f"{machine.python}, {machine.executable}"),
        ("JetPack", _jetpack_text(facts.jetpack)),
    ]
    return [(label, escape(text)) for label, text in rows]


def _jetpack_text(jetpack: JetPackInfo) -> str:
    if jetpack.release is None:
        return jetpack.reason
    release = jetpack.release
    brings = f"Python {release.python}, CUDA {release.cuda}, TensorRT {release.tensorrt}"
    return f"{release.version} (L4T {jetpack.l4t}) on {jetpack.board or 'unknown board'}; brings {brings}"


def _gpu_rows(facts: Facts) -> list[tuple[str, str]]:
    gpu = facts.gpu
    rows = []
    for device in gpu.devices:
        memory = "memory unknown" if device.memory_mib is None else f"{device.memory_mib} MiB"
        rows.append((f"GPU {device.index}", f"{device.name}, SM {device.compute_capability or 'unknown'}, {memory}"))
    if gpu.driver_version or gpu.cuda_version:
        cuda = f"runs CUDA up to {gpu.cuda_version}" if gpu.cuda_version else "CUDA version unknown"
        rows.append(("driver", f"{gpu.driver_version or 'version unknown'}, {cuda}"))
    if gpu.reason:
        rows.append(("none" if not gpu.devices else "not usable", gpu.reason))
    return [(label, escape(text)) for label, text in rows]


def _library_text(item: LibraryVersion) -> str:
    if item.version is None:
        return f"[dim]{escape(item.reason)}[/dim]"
    return escape(f"{item.version} ({item.reason})" if item.reason else item.version)


def _provider_rows(found: OnnxRuntimeInfo) -> list[tuple[str, str]]:
    if found.version is None:
        return [("-", escape(found.reason))]
    rows = []
    for provider in found.providers:
        if provider.loads:
            text = "[green]loads[/green]" + (f" after {escape(provider.setup)}" if provider.setup else "")
        else:
            brings = f"; {provider.package} brings it" if provider.package else ""
            text = f"[red]does not load[/red]: {escape(provider.reason + brings)}"
        rows.append((provider.name.removesuffix("ExecutionProvider"), text))
    return rows


def _flavour_text(facts: Facts, item: TensorRTInfo) -> str:
    if item.version is None:
        return f"[dim]{escape(item.reason)}[/dim]"
    serves = item.module == "tensorrt" or any(_rtx_serves(item, gpu.compute_capability) for gpu in facts.gpu.devices)
    runs = facts.gpu.is_usable and serves
    needs = "no GPU that it serves" if facts.gpu.is_usable else "no usable GPU"
    builds = _can_build(facts, item.module)
    building = "builds engines here" if builds else f"cannot build here ({needs})"
    return escape(f"{item.version}: {building}, {'runs them here' if runs else f'cannot run them here ({needs})'}")


def _ability_row(ability: Ability) -> tuple[str, str]:
    mark = "[green]yes[/green]" if ability.possible else "[red]no [/red]"
    command = f"\n→ {ability.command}" if ability.command else ""
    return f"{mark} {escape(ability.name)}", escape(ability.detail + command)
