"""The page that `resnet-export doctor` prints."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.text import Text

from resnet_export.doctor_job.abilities import BUILDERS, Ability, can_build, judge_abilities
from resnet_export.doctor_job.conflicts import find_conflicts
from resnet_export.doctor_job.facts import Facts
from resnet_export.doctor_job.runtimes import RuntimeState, judge_runtimes
from runtimes.machine.environment import RTX_PLUGIN, JetPackInfo, LibraryVersion, TensorRTInfo, rtx_serves
from runtimes.machine.provider_probe import OnnxRuntimeInfo


def print_report(facts: Facts, console: Console) -> None:
    """Print facts, then conclusions."""
    _print_section(console, "Machine", _machine_rows(facts))
    _print_section(console, "GPU", _gpu_rows(facts))
    _print_section(console, "Libraries", [(item.name, _library_text(item)) for item in facts.libraries])
    _print_section(console, "ONNX Runtime, what really loads", _provider_rows(facts.onnxruntime))
    _print_section(console, "TensorRT", [(item.module, _flavor_text(facts, item)) for item in facts.tensorrt])
    conflicts = find_conflicts(facts)
    if conflicts:
        rows = [("[yellow]![/yellow]", f"{escape(item.what)}\n{escape(item.remedy)}") for item in conflicts]
        _print_section(console, "Conflicts", rows)
    _print_section(console, "Runtimes (--provider)", [_runtime_row(state) for state in judge_runtimes(facts)])
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


_OPENS = {
    "tensorrt": "its own engines, and version-compatible ones of its major version and the one before",
    "tensorrt_lean": "version-compatible engines (build --version-compat) of its major version and the one before",
    "tensorrt_dispatch": "version-compatible engines with the lean runtime that they carry",
    "tensorrt_rtx": "engines of TensorRT-RTX (build --rtx)",
    RTX_PLUGIN: "ONNX files, as ONNX Runtime's provider ort-tensorrt-rtx",
}
"""Engines that each TensorRT library opens. Source: NVIDIA TensorRT support matrix 11.4.1, version compatibility."""


def _flavor_text(facts: Facts, item: TensorRTInfo) -> str:
    if item.version is None:
        return f"[dim]{escape(item.reason)}[/dim]"
    serves = item.module != "tensorrt_rtx" or any(rtx_serves(item, gpu.compute_capability) for gpu in facts.gpu.devices)
    runs = facts.gpu.is_usable and serves
    needs = "no GPU that it serves" if facts.gpu.is_usable else "no usable GPU"
    running = "runs here" if runs else f"cannot run here ({needs})"
    building = ""
    if item.module in BUILDERS:
        building = "builds engines here, " if can_build(facts, item.module) else f"cannot build here ({needs}), "
    return escape(f"{item.version}: {building}{running}; opens {_OPENS[item.module]}")


def _runtime_row(state: RuntimeState) -> tuple[str, str]:
    mark = "[green]yes[/green]" if state.works else "[red]no [/red]"
    return f"{mark} {escape(state.name)}", escape(f"{state.title}: {state.detail}" if state.title else state.detail)


def _ability_row(ability: Ability) -> tuple[str, str]:
    mark = "[green]yes[/green]" if ability.possible else "[red]no [/red]"
    command = f"\n→ {ability.command}" if ability.command else ""
    return f"{mark} {escape(ability.name)}", escape(ability.detail + command)
