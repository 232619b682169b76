import dataclasses
import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_export.doctor_job import abilities as doctor_abilities
from resnet_export.doctor_job import command as doctor
from resnet_export.doctor_job import page
from resnet_export.doctor_job.abilities import judge_abilities
from resnet_export.doctor_job.conflicts import find_conflicts
from resnet_export.doctor_job.facts import Facts
from resnet_export.doctor_job.runtimes import judge_runtimes
from resnet_export.main import main
from runtimes.inference.runtime_kind import RuntimeKind
from runtimes.inference.runtime_registry import RUNTIMES
from runtimes.machine.environment import (
    TENSORRT_MODULES,
    GpuDevice,
    GpuInfo,
    JetPackInfo,
    JetPackRelease,
    LibraryVersion,
    MachineInfo,
    TensorRTInfo,
)
from runtimes.machine.provider_probe import OnnxRuntimeInfo, ProviderInfo

ROOT = Path(__file__).parents[3]
RTX_CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
CURAND = ProviderInfo(
    "CUDAExecutionProvider",
    False,
    "",
    "libcurand.so.10: cannot open shared object file",
    "libcurand.so.10",
    "nvidia-curand",
)
NVINFER = ProviderInfo(
    "TensorrtExecutionProvider",
    False,
    "",
    "libnvinfer.so.10: cannot open shared object file",
    "libnvinfer.so.10",
    "tensorrt-cu13==10.*",
)
CPU = ProviderInfo("CPUExecutionProvider", True, "", "", None, None)
CUDA = ProviderInfo("CUDAExecutionProvider", True, "onnxruntime.preload_dlls()", "", None, None)
NO_GPU = GpuInfo((), None, None, "no NVIDIA driver (libcuda.so.1 not found)")
PRESENT = {
    "torch": "2.15.0",
    "torchvision": "0.29.2",
    "onnx": "1.23.2",
    "onnxscript": "0.7.2",
    "safetensors": "0.8.0",
    "onnxruntime-gpu": "1.31.1",
}


def gpu(name="NVIDIA L4", capability="8.9", cuda="13.0"):
    return GpuInfo((GpuDevice(0, name, capability, 23034),), "580.65.06", cuda, "")


def make_facts(
    *,
    libraries=PRESENT,
    providers=(CPU,),
    gpu=NO_GPU,
    tensorrt=None,
    rtx="1.7.1",
    python="3.11.7",
    jetpack=None,
    architecture="x86_64",
):
    names = [*PRESENT, "onnxruntime", "tensorrt", "tensorrt-rtx"]
    return Facts(
        machine=MachineInfo("Debian", "Linux 6", architecture, "EPYC", ("avx2",), 2, 2**34, python, "/usr/bin/python"),
        gpu=gpu,
        jetpack=jetpack or JetPackInfo(None, None, None, "not a Jetson"),
        libraries=tuple(
            LibraryVersion(name, libraries.get(name), "" if name in libraries else "not installed") for name in names
        ),
        onnxruntime=OnnxRuntimeInfo("1.31.1", "13.0", tuple(providers), "")
        if providers
        else OnnxRuntimeInfo(None, None, (), "not installed"),
        tensorrt=(
            TensorRTInfo("tensorrt", tensorrt, "" if tensorrt else "not installed", ()),
            TensorRTInfo("tensorrt_rtx", rtx, "" if rtx else "not installed", RTX_CAPABILITIES if rtx else ()),
        ),
    )


ORIN = JetPackInfo("36.4.3", JetPackRelease("6.2", "3.10", "12.6", "10.3"), "Jetson AGX Orin", "")


def abilities(facts):
    return {ability.name: ability for ability in judge_abilities(facts)}


@pytest.mark.parametrize("gpus", [NO_GPU, gpu("Orin", "8.7")])
def test_a_jetson_is_advised_nothing_that_cannot_be_installed_there(gpus):
    """TensorRT-RTX has no ARM wheel, PyPI's onnxruntime-gpu no kernels for it."""
    facts = make_facts(jetpack=ORIN, architecture="aarch64", rtx=None, gpu=gpus, providers=(CPU, CURAND))
    commands = " ".join(ability.command for ability in judge_abilities(facts))
    assert "rtx" not in commands
    assert "onnxruntime-gpu" not in commands
    assert "python3-libnvinfer" in commands
    (conflict,) = (found for found in find_conflicts(facts) if "onnxruntime-gpu" in found.what and "Thor" in found.what)
    assert "pip install onnxruntime" in conflict.remedy


def test_arm_without_a_gpu_is_not_advised_tensorrt_rtx():
    facts = make_facts(architecture="aarch64", rtx=None)
    assert abilities(facts)["build engines"].command == ""
    assert "[rtx]" in abilities(make_facts(rtx=None))["build engines"].command


# The command


LOOKED_ONCE = """
import pickle, sys
from resnet_export.doctor_job import command
from resnet_export.main import main
facts = command.gather_facts()
command.gather_facts = lambda: facts
main(["doctor", "--json"])
frameworks = [name for name in ("torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx") if name in sys.modules]
with open(sys.argv[1], "wb") as file:
    pickle.dump((facts, frameworks), file)
"""


@pytest.fixture(scope="module")
def looked_once(tmp_path_factory):
    """What the command finds here, and the frameworks that it has imported then: looking takes seconds."""
    path = tmp_path_factory.mktemp("doctor") / "found.pickle"
    subprocess.run([sys.executable, "-c", LOOKED_ONCE, str(path)], capture_output=True, cwd=ROOT, check=True)
    return pickle.loads(path.read_bytes())


@pytest.fixture(scope="module")
def found_here(looked_once):
    return looked_once[0]


@pytest.fixture(scope="module")
def judged_here():
    return judge_runtimes(make_facts(providers=(CPU,)))


@pytest.fixture
def judged_once(judged_here, monkeypatch):
    """Judging asks a process per runtime: once for all tests that look at what is told of it."""
    for module in (doctor, page):
        monkeypatch.setattr(module, "judge_runtimes", lambda facts: judged_here)


@pytest.fixture
def here(found_here, judged_once, monkeypatch):
    monkeypatch.setattr(doctor, "gather_facts", lambda: found_here)


@pytest.mark.usefixtures("here")
def test_json_here(capsys):
    assert main(["doctor", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told) == [
        "schema_version",
        "machine",
        "gpu",
        "jetpack",
        "libraries",
        "onnxruntime",
        "tensorrt",
        "conflicts",
        "runtimes",
        "abilities",
    ]
    assert told["schema_version"] == 1
    assert {"name", "version", "reason"} == set(told["libraries"][0])
    assert [item["module"] for item in told["tensorrt"]] == list(TENSORRT_MODULES)
    for ability in told["abilities"]:
        assert set(ability) == {"name", "possible", "detail", "command"}
        assert ability["detail"]
        assert not (ability["possible"] and ability["command"])


@pytest.mark.usefixtures("here")
def test_text_here(capsys):
    assert main(["doctor"]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for title in ("Machine", "GPU", "Libraries", "ONNX Runtime", "TensorRT", "What you can do here"):
        assert f"\n{title}" in f"\n{captured.out}"
    assert "yes export to ONNX" in captured.out
    assert "  CPU       loads" in captured.out


def test_wrong_use(capsys):
    assert main(["doctor", "--yaml"]) == 2
    assert capsys.readouterr().err == "error: unrecognized arguments: --yaml\nsee resnet-export doctor --help\n"


def test_no_framework_is_imported(looked_once):
    assert looked_once[1] == []


def test_commands_stay_on_one_line_and_markup_is_escaped(monkeypatch, capsys):
    facts = make_facts(libraries={}, providers=(), rtx=None)
    odd = dataclasses.replace(facts.machine, executable="/home/[bold]/" + "x" * 200)
    monkeypatch.setattr(doctor, "gather_facts", lambda: dataclasses.replace(facts, machine=odd))
    monkeypatch.setenv("COLUMNS", "40")
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(odd.executable in line for line in lines)
    assert f'→ pip install -e "{ROOT}[export]"' in {line.strip() for line in lines}


def test_installed_copy_is_completed_from_where_it_came(monkeypatch, tmp_path):
    class Installed:
        def __init__(self, record):
            self.record = record

        def read_text(self, name):
            return self.record

    monkeypatch.setattr(
        doctor_abilities, "__file__", str(tmp_path / "site-packages" / "resnet_export" / "doctor" / "abilities.py")
    )
    for record, command in (
        ('{"url": "file:///home/me/my%20clone", "dir_info": {}}', 'pip install "/home/me/my clone[export]"'),
        ('{"url": "file:///tmp/resnet_export.whl", "archive_info": {}}', 'pip install "resnet-export[export]"'),
        (None, 'pip install "resnet-export[export]"'),
    ):
        monkeypatch.setattr(doctor_abilities.metadata, "distribution", lambda name, record=record: Installed(record))
        assert abilities(make_facts(libraries={}))["export to ONNX"].command == command


# Conflicts


def conflicts(facts):
    return [conflict.what for conflict in find_conflicts(facts)]


def test_nothing_is_in_conflict():
    assert conflicts(make_facts()) == []
    assert conflicts(make_facts(providers=(NVINFER, CUDA, CPU), gpu=gpu())) == []


def test_two_onnxruntimes():
    (conflict,) = find_conflicts(make_facts(libraries={**PRESENT, "onnxruntime": "1.31.1"}))
    assert "both installed" in conflict.what
    assert conflict.remedy.startswith("pip uninstall -y onnxruntime onnxruntime-gpu")


def test_two_onnxruntimes_of_two_versions_are_one_conflict():
    (conflict,) = find_conflicts(make_facts(libraries={**PRESENT, "onnxruntime": "1.30.0"}))
    assert conflict.what.startswith("onnxruntime and onnxruntime-gpu in different versions: ")


def test_what_the_main_job_refuses_is_told_too():
    (conflict,) = find_conflicts(make_facts(libraries={**PRESENT, "torch": "2.9.0"}))
    assert conflict.what.startswith("torch 2.9: ")
    assert conflict.remedy == "pip install -U torch torchvision"


def test_tensorrt_11_does_not_serve_onnxruntime():
    (what,) = conflicts(make_facts(providers=(NVINFER, CPU), tensorrt="11.4.0.106"))
    assert "wants TensorRT 10 (libnvinfer.so.10); TensorRT 11.4.0.106 does not serve it" in what
    assert conflicts(make_facts(providers=(NVINFER, CPU), tensorrt="10.13.3")) == []


@pytest.mark.parametrize(("name", "capability"), [("Orin", "8.7"), ("NVIDIA H100", "9.0")])
def test_rtx_cannot_serve_this_gpu(name, capability):
    (what,) = conflicts(make_facts(gpu=gpu(name, capability)))
    assert f"cannot build for {name} (SM {capability})" in what
    assert conflicts(make_facts(gpu=gpu(name, capability), rtx=None)) == []
    assert conflicts(make_facts(gpu=gpu())) == []


def test_torch_without_curand():
    (conflict,) = find_conflicts(make_facts(providers=(CURAND, CPU)))
    assert "torch 2.15.0 does not bring libcurand.so.10" in conflict.what
    assert conflict.remedy == "pip install nvidia-curand"


def test_old_python():
    (what,) = conflicts(make_facts(python="3.10.12"))
    assert "Python 3.10.12" in what
    assert "3.11" in what


def test_driver_older_than_onnxruntime():
    (what,) = conflicts(make_facts(gpu=gpu(cuda="12.4")))
    assert "CUDA up to 12.4" in what


# Abilities


def test_workstation_without_gpu():
    found = abilities(make_facts(providers=(CURAND, CPU)))
    possible = {name: ability.possible for name, ability in found.items()}
    assert possible == {
        "export to ONNX": True,
        "FP16 model": True,
        "INT8 model": True,
        "build engines": True,
        "run on the CPU": True,
        "run on a GPU": False,
    }
    assert "8.9" in found["build engines"].detail
    assert found["run on a GPU"].command.endswith("pip install nvidia-curand")


def test_nothing_installed():
    found = abilities(make_facts(libraries={}, providers=(), rtx=None))
    assert not any(ability.possible for ability in found.values())
    assert all(ability.command for ability in found.values())
    assert found["export to ONNX"].command == f'pip install -e "{ROOT}[export]"'
    assert found["build engines"].command == f'pip install -e "{ROOT}[rtx]"'
    assert "torch" in found["export to ONNX"].detail


def test_tensorrt_builds_only_with_a_gpu():
    without = abilities(make_facts(tensorrt="11.4", rtx=None))["build engines"]
    assert not without.possible
    assert "no NVIDIA driver" in without.detail
    found = abilities(make_facts(tensorrt="11.4", rtx=None, gpu=gpu()))
    assert found["build engines"].possible
    assert found["run on a GPU"].detail == "TensorRT 11.4"


def test_rtx_does_not_count_on_a_gpu_that_it_does_not_serve():
    found = abilities(make_facts(gpu=gpu("NVIDIA H100", "9.0"), providers=(CURAND, CPU)))
    assert not found["run on a GPU"].possible
    assert found["run on a GPU"].command == "pip install nvidia-curand"
    assert abilities(make_facts(gpu=gpu(), providers=(CPU,)))["run on a GPU"].detail == "TensorRT-RTX 1.7.1"


def test_jetson_takes_tensorrt_from_jetpack():
    facts = make_facts(
        gpu=gpu("Orin", "8.7", "12.6"), jetpack=ORIN, python="3.10.12", libraries={}, providers=(), rtx=None
    )
    found = abilities(facts)
    assert "python3-libnvinfer" in found["build engines"].command
    assert "--system-site-packages" in found["run on a GPU"].command
    assert "3.11" in found["export to ONNX"].command


def test_int8_needs_the_cpu_provider():
    broken = ProviderInfo("CPUExecutionProvider", False, "", "ended by signal 4", None, None)
    found = abilities(make_facts(providers=(broken,)))
    assert not found["INT8 model"].possible
    assert "signal 4" in found["INT8 model"].detail


@pytest.mark.usefixtures("judged_once")
@pytest.mark.parametrize("gpu_found", [NO_GPU, gpu(), gpu("Orin", "8.7", "12.6")])
@pytest.mark.parametrize("jetpack", [None, ORIN])
@pytest.mark.parametrize("providers", [(), (CURAND, NVINFER, CPU), (CUDA, CPU)])
def test_every_state_prints(monkeypatch, capsys, gpu_found, jetpack, providers):
    facts = make_facts(gpu=gpu_found, jetpack=jetpack, providers=providers, tensorrt="10.3.0", libraries={})
    monkeypatch.setattr(doctor, "gather_facts", lambda: facts)
    assert main(["doctor"]) == 0
    assert main(["doctor", "--json"]) == 0
    assert "What you can do here" in capsys.readouterr().out


# AArch64: PyPI has no wheels of NVIDIA's libraries and of onnxruntime-gpu for it


def on_aarch64(facts):
    return dataclasses.replace(facts, machine=dataclasses.replace(facts.machine, architecture="aarch64"))


@pytest.mark.parametrize("libraries", [{}, {"onnxruntime": "1.32.0"}])
@pytest.mark.parametrize("providers", [(), (CPU,), (CURAND, NVINFER, CPU)])
@pytest.mark.parametrize("gpu_found", [NO_GPU, gpu("GH200", "9.0")])
def test_nothing_is_advised_that_has_no_wheel(libraries, providers, gpu_found):
    facts = make_facts(libraries=libraries, providers=providers, gpu=gpu_found, rtx=None)
    elsewhere = " ".join(ability.command for ability in judge_abilities(facts))
    assert "onnxruntime-gpu" in elsewhere or "nvidia-curand" in elsewhere or gpu_found is not NO_GPU
    for ability in judge_abilities(on_aarch64(facts)):
        for package in ("onnxruntime-gpu", "[rtx]", "[tensorrt]", "nvidia-curand"):
            assert package not in ability.command, ability


def test_python_3_10_is_not_told_to_install_what_it_does_not_get():
    newer, older = (
        [found.remedy for found in find_conflicts(make_facts(libraries={"onnxruntime": "1.23.2"}, python=python))]
        for python in ("3.11.7", "3.10.12")
    )
    assert 'pip install "onnxruntime>=1.30"' in newer
    assert 'pip install "onnxruntime>=1.30"' not in older
    assert any("measure INT8 with FP16 on a machine with Python 3.11" in remedy for remedy in older)


# Runtimes by the words of --provider


def test_every_runtime_is_judged_by_its_word(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "gather_facts", make_facts)
    assert main(["doctor", "--json"]) == 0
    states = {state["name"]: state for state in json.loads(capsys.readouterr().out)["runtimes"]}
    assert list(states) == list(RUNTIMES)
    assert states["cpu"]["works"]
    assert states["cpu"]["detail"].startswith("ONNX Runtime ")
    assert all(state["detail"] for state in states.values())
    # There is no GPU; and whether OpenVINO works is asked of this machine.
    assert not any(state["works"] for name, state in states.items() if name not in ("cpu", "openvino"))


def test_one_runtime_is_asked_for(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "gather_facts", make_facts)
    assert main(["doctor", "--provider", "cpu"]) == 0
    assert "works: ONNX Runtime" in capsys.readouterr().out
    assert main(["doctor", "--provider", "TensorrtExecutionProvider"]) == 1
    assert "ort-tensorrt, TensorRT inside ONNX Runtime: does not work: " in capsys.readouterr().out
    assert main(["doctor", "--provider", "gpu"]) == 2
    assert "expected one of auto, cpu, cuda, tensorrt, tensorrt-rtx, ort-tensorrt" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("facts", "working"), [(lambda: make_facts(gpu=gpu(), providers=(CPU, CUDA)), {"cpu", "cuda"})]
)
def test_a_gpu_makes_cuda_work(facts, working):
    assert {state.name for state in judge_runtimes(facts()) if state.works} >= working


def test_a_runtime_of_another_package_that_fails_is_told(monkeypatch):
    def probe(found):
        raise RuntimeError("no such board")

    mine = RuntimeKind(name="mine", title="Mine", computed_by="mine", open=None, probe=probe)
    RUNTIMES.register("mine", mine)
    try:
        (state,) = (state for state in judge_runtimes(make_facts()) if state.name == "mine")
    finally:
        RUNTIMES.unregister("mine")
    assert not state.works
    assert state.detail == "its probe failed: RuntimeError: no such board"
