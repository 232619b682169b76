"""Read the power state that decides a benchmark beside the code: clocks, governors, power modes, throttling.

Every probe returns what it found or leaves it out; none raises. Source: Linux, Documentation/admin-guide/pm/cpufreq.rst
and the x86 thermal throttle counters in sysfs; NVIDIA, nvidia-smi(1) and Jetson Linux Developer Guide, nvpmodel.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from runtimes.io.json_fields import JsonFields
from runtimes.machine.probe_process import run_command

_CPU = Path("/sys/devices/system/cpu")
_SMI_FIELDS = (
    "clocks.sm",
    "clocks.mem",
    "clocks.max.sm",
    "power.limit",
    "temperature.gpu",
    "clocks_throttle_reasons.active",
)


@dataclass(frozen=True, slots=True)
class PowerState(JsonFields):
    """Clocks and power at one moment.

    Attributes:
        governors: The CPU frequency governors in use, such as ("performance",); empty where the system does not say.
        cpu_mhz: Lowest and highest current clock of the cores, or None.
        cpu_max_mhz: The highest that the cores may take, or None.
        throttle_events: How often cores were throttled for heat since the start of the system, or None.
        gpu: nvidia-smi's clocks, power limit, temperature and throttle reasons, by its names; empty without it.
        nvpmodel: A Jetson's power mode, such as "MAXN", or None.
        jetson_clocks: Whether a Jetson's clocks are fixed at their highest, or None.
    """

    governors: tuple[str, ...]
    cpu_mhz: tuple[int, int] | None
    cpu_max_mhz: int | None
    throttle_events: int | None
    gpu: dict[str, str]
    nvpmodel: str | None
    jetson_clocks: bool | None


def power_state(folder: Path = _CPU) -> PowerState:
    """Look at the machine."""
    clocks = _numbers(folder, "cpufreq/scaling_cur_freq")
    highest = _numbers(folder, "cpufreq/cpuinfo_max_freq")
    throttled = _numbers(folder, "thermal_throttle/core_throttle_count")
    return PowerState(
        governors=tuple(sorted({text for text in _texts(folder, "cpufreq/scaling_governor") if text})),
        cpu_mhz=(min(clocks) // 1000, max(clocks) // 1000) if clocks else None,
        cpu_max_mhz=max(highest) // 1000 if highest else None,
        throttle_events=sum(throttled) if throttled else None,
        gpu=_gpu(),
        nvpmodel=_nvpmodel(),
        jetson_clocks=_jetson_clocks(),
    )


def warnings_of(before: PowerState, after: PowerState) -> tuple[str, ...]:
    """Say, in sentences, what makes the times between two states doubtful."""
    found = []
    if before.throttle_events is not None and after.throttle_events is not None:
        events = after.throttle_events - before.throttle_events
        if events > 0:
            found.append(f"the CPU was throttled for heat {events} times during the measurement")
    slow = [governor for governor in after.governors if governor != "performance"]
    if slow:
        found.append(f"the CPU's clocks are not fixed (governor {', '.join(slow)}); times depend on what ran before")
    reasons = after.gpu.get("clocks_throttle_reasons.active", "")
    if re.fullmatch(r"0x[0-9a-fA-F]+", reasons) and int(reasons, 16) & ~_HARMLESS:
        found.append(f"the GPU holds back its clocks (throttle reasons {reasons})")
    if after.jetson_clocks is False:
        found.append("the Jetson's clocks are not fixed; run sudo jetson_clocks")
    return tuple(found)


_HARMLESS = 0x1 | 0x2
"""GPU idle, and clocks set by an application. Source: nvml.h, nvmlClocksThrottleReason*."""


def _texts(folder: Path, name: str) -> list[str]:
    found = []
    for path in sorted(folder.glob(f"cpu[0-9]*/{name}")):
        try:
            found.append(path.read_text(encoding="ascii", errors="replace").strip())
        except OSError:
            continue
    return found


def _numbers(folder: Path, name: str) -> list[int]:
    return [int(text) for text in _texts(folder, name) if text.isdigit()]


def _gpu() -> dict[str, str]:
    answer = run_command(("nvidia-smi", f"--query-gpu={','.join(_SMI_FIELDS)}", "--format=csv,noheader"))
    lines = answer.stdout.splitlines()
    cells = [cell.strip() for cell in lines[0].split(",")] if lines and not answer.reason else []
    return dict(zip(_SMI_FIELDS, cells, strict=True)) if len(cells) == len(_SMI_FIELDS) else {}


def _nvpmodel() -> str | None:
    answer = run_command(("nvpmodel", "-q"))
    found = re.search(r"NV Power Mode:\s*(\S+)", answer.stdout)
    return found[1] if found else None


def _jetson_clocks() -> bool | None:
    """Compare each core's lowest with its current and highest clock, as `jetson_clocks --show` prints them."""
    answer = run_command(("jetson_clocks", "--show"))
    cores = re.findall(r"^cpu\d+:.*MinFreq=(\d+) MaxFreq=(\d+)", answer.stdout, flags=re.MULTILINE)
    return all(low == high for low, high in cores) if cores else None
