"""Clocks and throttling, read from a folder that looks like sysfs and from tools that are played."""

from __future__ import annotations

import dataclasses

import pytest

import runtimes.machine.power_state
from runtimes.machine.power_state import power_state, warnings_of
from runtimes.machine.probe_process import Answer

SMI = "1410 MHz, 5001 MHz, 1980 MHz, 700.00 W, 41, 0x0000000000000004"
JETSON = "cpu0: Online=1 Governor=schedutil MinFreq=729600 MaxFreq=2201600 CurrentFreq=729600\n"


@pytest.fixture
def sysfs(tmp_path):
    for core, (clock, count) in enumerate([(2_400_000, 3), (3_100_000, 4)]):
        for name, text in {
            "cpufreq/scaling_cur_freq": clock,
            "cpufreq/cpuinfo_max_freq": 3_500_000,
            "cpufreq/scaling_governor": "powersave",
            "thermal_throttle/core_throttle_count": count,
        }.items():
            path = tmp_path / f"cpu{core}" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{text}\n")
    return tmp_path


@pytest.fixture
def tools(monkeypatch):
    answers = {"nvidia-smi": SMI, "nvpmodel": "NV Power Mode: MAXN\n0\n", "jetson_clocks": JETSON}
    monkeypatch.setattr(
        runtimes.machine.power_state, "run_command", lambda command: Answer(answers.get(command[0], ""), "", "")
    )
    return answers


def test_what_a_machine_says(sysfs, tools):
    state = power_state(sysfs)
    assert state.governors == ("powersave",)
    assert state.cpu_mhz == (2400, 3100)
    assert state.cpu_max_mhz == 3500
    assert state.throttle_events == 7
    assert state.gpu["clocks.sm"] == "1410 MHz"
    assert state.nvpmodel == "MAXN"
    assert state.jetson_clocks is False
    assert set(state.to_json()) == {field.name for field in dataclasses.fields(state)}


def test_what_is_doubtful_is_said(sysfs, tools):
    before = power_state(sysfs)
    (sysfs / "cpu0/thermal_throttle/core_throttle_count").write_text("9")
    told = warnings_of(before, power_state(sysfs))
    assert any("throttled for heat 6 times" in sentence for sentence in told)
    assert any("governor powersave" in sentence for sentence in told)
    assert any("throttle reasons 0x0000000000000004" in sentence for sentence in told)
    assert any("sudo jetson_clocks" in sentence for sentence in told)


def test_a_quiet_machine_says_nothing(sysfs, tools):
    tools.update({"nvidia-smi": SMI.replace("04", "01"), "jetson_clocks": ""})
    for core in range(2):
        (sysfs / f"cpu{core}/cpufreq/scaling_governor").write_text("performance")
    state = power_state(sysfs)
    assert warnings_of(state, state) == ()


def test_a_machine_that_tells_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(runtimes.machine.power_state, "run_command", lambda command: Answer("", "", "not found"))
    state = power_state(tmp_path)
    assert (state.cpu_mhz, state.throttle_events, state.gpu, state.nvpmodel, state.jetson_clocks) == (
        None, None, {}, None, None,
    )  # fmt: skip
    assert warnings_of(state, state) == ()
