import ctypes
import json
import os
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from runtimes.machine import environment
from runtimes.machine.environment import (
    LIBRARIES,
    GpuDevice,
    gpu_info,
    jetpack_version,
    library_versions,
    machine_info,
    tensorrt_info,
)
from runtimes.machine.provider_probe import PROBE_MODEL, loadable_providers, package_of_library

ROOT = Path(__file__).parents[3]


def import_first(monkeypatch, folder):
    """Let children import from `folder` before anything else; where the libraries lie by PYTHONPATH, it is kept."""
    monkeypatch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)


def test_importing_and_probing_loads_no_framework():
    script = """
import sys
before = set(sys.modules)  # cuda-bindings 12 hooks itself into every start of Python
from runtimes.machine import environment as e
from runtimes.machine import provider_probe as p
e.machine_info(), e.gpu_info(), e.jetpack_version(), e.library_versions(), p.loadable_providers()
frameworks = {"torch", "onnx", "onnxruntime", "tensorrt", "tensorrt_rtx", "cuda"}
print(sorted(frameworks.intersection(sys.modules).difference(before)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_probe_model_is_what_its_comment_says():
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 1, 1]) for name in "xy"]
    weight = helper.make_tensor("w", TensorProto.FLOAT, [1, 1, 1, 1], [2.0])
    graph = helper.make_graph([helper.make_node("Conv", ["x", "w"], ["y"])], "probe", ends[:1], ends[1:], [weight])
    expected = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    got = onnx.load_model_from_string(PROBE_MODEL)
    onnx.checker.check_model(got, full_check=True)
    assert got == expected


# Machine


def test_machine():
    machine = machine_info()
    assert machine.python == ".".join(str(part) for part in sys.version_info[:3])
    assert machine.num_cores >= 1
    assert machine.cpu
    assert machine.memory_bytes is None or machine.memory_bytes > 2**28


@pytest.mark.parametrize("line", ["flags\t\t: fpu avx2 avx512_vnni", "Features\t: fp asimd asimddp"])
def test_cpu_flags_of_both_kinds_of_processor(monkeypatch, line):
    monkeypatch.setattr(
        environment, "_read_text", lambda path: f"processor : 0\n{line}\n" if "cpuinfo" in str(path) else None
    )
    assert machine_info().cpu_flags in {("avx2", "avx512_vnni"), ("asimd", "asimddp")}


# GPU


class FakeCuda:
    """libcuda with one Orin, or failing with `code`."""

    def __init__(self, code=0, count=1):
        self.code, self.count = code, count

    def cuInit(self, flags):
        return self.code

    def cuDriverGetVersion(self, version):
        version._obj.value = 12060
        return 0

    def cuDeviceGetCount(self, count):
        count._obj.value = self.count
        return 0

    def cuDeviceGet(self, device, index):
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name, size, device):
        name.value = b"Orin"
        return 0

    def cuDeviceTotalMem_v2(self, memory, device):
        memory._obj.value = 62841 << 20
        return 0

    def cuDeviceGetAttribute(self, value, attribute, device):
        value._obj.value = {75: 8, 76: 7}[attribute]
        return 0

    def cuGetErrorName(self, code, text):
        text._obj.value = b"CUDA_ERROR_NO_DEVICE"

    def cuGetErrorString(self, code, text):
        text._obj.value = b"no CUDA-capable device is detected"


@pytest.fixture
def no_libcuda(monkeypatch):
    monkeypatch.setattr(environment, "_CUDA_LIBRARY", "libcuda_that_nobody_has.so.1")


@pytest.fixture
def smi(monkeypatch, tmp_path):
    """Put a fake nvidia-smi on PATH; returns the function that writes it."""
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(environment, "_DRIVER_VERSION_FILE", tmp_path / "absent")

    def write(output, code=0):
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit {code}\n")
        program.chmod(0o755)

    return write


@pytest.fixture
def no_smi(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(environment, "_DRIVER_VERSION_FILE", tmp_path / "absent")


@pytest.mark.usefixtures("no_libcuda", "no_smi")
def test_no_driver_is_a_reason():
    info = gpu_info()
    assert info.devices == ()
    assert info.driver_version is None
    assert info.cuda_version is None
    assert not info.is_usable
    assert info.reason == "no NVIDIA driver (libcuda_that_nobody_has.so.1 not found); nvidia-smi not found"


@pytest.mark.usefixtures("no_smi")
def test_libcuda_alone_is_enough(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeCuda())
    info = gpu_info()
    assert info.devices == (GpuDevice(0, "Orin", "8.7", 62841),)
    assert info.cuda_version == "12.6"
    assert info.is_usable
    assert info.reason == ""


def test_driver_version_comes_from_nvidia_smi(monkeypatch, smi):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeCuda())
    smi("Orin (nvgpu), [N/A], [N/A], 540.4.0")
    info = gpu_info()
    assert info.driver_version == "540.4.0"
    assert info.devices == (GpuDevice(0, "Orin", "8.7", 62841),)


@pytest.mark.usefixtures("no_libcuda")
def test_gpus_that_cuda_does_not_reach_are_listed_but_not_usable(smi):
    smi("NVIDIA H100 80GB HBM3, 9.0, 81559, 580.65.06\nNVIDIA L4, 8.9, [N/A], 580.65.06")
    info = gpu_info()
    assert info.devices == (GpuDevice(0, "NVIDIA H100 80GB HBM3", "9.0", 81559), GpuDevice(1, "NVIDIA L4", "8.9", None))
    assert info.driver_version == "580.65.06"
    assert not info.is_usable
    assert "libcuda" in info.reason


def test_hidden_gpu_names_the_variable(monkeypatch, smi):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeCuda(code=100))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    smi("NVIDIA L4, 8.9, 23034, 580.65.06")
    reason = gpu_info().reason
    assert "CUDA_ERROR_NO_DEVICE 100, no CUDA-capable device is detected" in reason
    assert "CUDA_VISIBLE_DEVICES is '-1'" in reason


def test_cuda_without_devices(monkeypatch, no_smi):
    monkeypatch.setattr(ctypes, "CDLL", lambda name: FakeCuda(count=0))
    assert "offers no GPU" in gpu_info().reason


@pytest.mark.usefixtures("no_libcuda")
@pytest.mark.parametrize(
    ("output", "code", "words"),
    [
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9, "couldn't communicate"),
        ('Field "compute_cap" is not a valid field to query.', 2, "compute_cap"),
        ("No devices were found", 0, "No devices were found"),
        ("", 0, "lists no GPU"),
    ],
)
def test_nvidia_smi_that_fails_is_a_reason(smi, output, code, words):
    smi(output, code)
    info = gpu_info()
    assert info.devices == ()
    assert words in info.reason


# JetPack


def release_line(major, revision):
    return f"# R{major} (release), REVISION: {revision}, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Thu\n"


@pytest.mark.parametrize(
    ("major", "revision", "l4t", "jetpack", "tensorrt"),
    [
        (35, "1.0", "35.1.0", "5.0.2", "8.4.1"),
        (35, "4.1", "35.4.1", "5.1", "8.5"),
        (36, "3.0", "36.3.0", "6.0", "8.6.2"),
        (36, "4.0", "36.4.0", "6.1", "10.3"),
        (36, "4.3", "36.4.3", "6.2", "10.3"),
        (38, "2.0", "38.2.0", "7.0", "10.13"),
        (38, "4.0", "38.4.0", "7.1", "10.13"),
        (39, "2.0", "39.2.0", "7.2", "10.16"),
    ],
)
def test_jetpack_of_l4t(monkeypatch, tmp_path, major, revision, l4t, jetpack, tensorrt):
    file = tmp_path / "nv_tegra_release"
    file.write_text(release_line(major, revision))
    monkeypatch.setattr(environment, "_TEGRA_RELEASE", file)
    info = jetpack_version()
    assert (info.l4t, info.release.version, info.release.tensorrt, info.reason) == (l4t, jetpack, tensorrt, "")


@pytest.mark.parametrize(
    ("content", "l4t"), [(release_line(32, "7.1"), "32.7.1"), (release_line(351, "1.0"), "351.1.0"), ("", None)]
)
def test_unknown_release_is_a_reason(monkeypatch, tmp_path, content, l4t):
    file = tmp_path / "nv_tegra_release"
    file.write_text(content)
    monkeypatch.setattr(environment, "_TEGRA_RELEASE", file)
    info = jetpack_version()
    assert info.l4t == l4t
    assert info.release is None
    assert info.reason


def test_not_a_jetson(monkeypatch):
    monkeypatch.setattr(environment, "_read_text", lambda path: None)
    assert jetpack_version().reason == "not a Jetson"


def test_jetson_container_without_release_file(monkeypatch):
    tree = {"compatible": "nvidia,p3737-0000+p3701-0000\0nvidia,tegra234\0", "model": "Jetson AGX Orin\0"}
    monkeypatch.setattr(environment, "_read_text", lambda path: tree.get(path.name))
    info = jetpack_version()
    assert info.board == "Jetson AGX Orin"
    assert "container" in info.reason


# Libraries


def test_versions_are_those_of_the_metadata():
    found = {item.name: item for item in library_versions()}
    assert tuple(found) == LIBRARIES
    assert found["onnx"].version == onnx.__version__
    assert found["numpy"].reason == ""


def test_system_tensorrt_without_metadata_is_imported_in_a_child(monkeypatch, tmp_path):
    package = tmp_path / "tensorrt"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '8.6.2'\nRuntime = object\n")
    import_first(monkeypatch, tmp_path)
    monkeypatch.setattr(metadata, "version", missing_distribution)
    found = {item.name: item for item in library_versions()}
    assert found["tensorrt"].version == "8.6.2"
    assert "without metadata" in found["tensorrt"].reason
    assert found["torch"].version is None
    assert "tensorrt" not in sys.modules


def missing_distribution(name):
    raise metadata.PackageNotFoundError(name)


def test_broken_metadata_is_told(monkeypatch):
    monkeypatch.setattr(metadata, "version", lambda name: None)
    assert "broken" in library_versions()[0].reason


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("raise ImportError('libnvinfer.so.11: cannot open shared object file')", "libnvinfer.so.11"),
        ("import os; os.abort()", "signal 6"),
        ("import sys; sys.exit(0)", "gave no answer"),
    ],
)
def test_tensorrt_that_does_not_import_is_a_reason(monkeypatch, tmp_path, content, words):
    (tmp_path / "tensorrt.py").write_text(content)
    import_first(monkeypatch, tmp_path)
    info = tensorrt_info("tensorrt")
    assert info.version is None
    assert words in info.reason


def test_compute_capabilities_are_read_from_the_library(monkeypatch, tmp_path):
    (tmp_path / "tensorrt_rtx.py").write_text(
        "__version__ = '1.7'\nRuntime = object\nclass ComputeCapability: NONE, CURRENT, SM120, SM75, SM86 = range(5)\n"
    )
    import_first(monkeypatch, tmp_path)
    assert tensorrt_info("tensorrt_rtx").compute_capabilities == ("7.5", "8.6", "12.0")


def test_library_in_the_current_folder_is_not_taken(monkeypatch, tmp_path):
    (tmp_path / "tensorrt_rtx.py").write_text("__version__ = 'wrong'")
    monkeypatch.chdir(tmp_path)
    assert tensorrt_info("tensorrt_rtx").version != "wrong"


# Providers


@pytest.fixture(scope="module")
def providers_here():
    return loadable_providers()


def test_cpu_loads_and_a_gpu_provider_that_does_not_says_why(providers_here):
    info = providers_here
    providers = {provider.name: provider for provider in info.providers}
    assert info.loads("CPUExecutionProvider")
    assert providers["CPUExecutionProvider"].reason == ""
    for provider in providers.values():
        assert provider.loads != bool(provider.reason)


@pytest.mark.skipif(gpu_info().is_usable, reason="there is a GPU: the CUDA provider may load")
def test_cuda_without_its_libraries_names_one(providers_here):
    cuda = next((provider for provider in providers_here.providers if provider.name == "CUDAExecutionProvider"), None)
    if cuda is None:
        pytest.skip("this ONNX Runtime has no CUDA provider")
    assert not cuda.loads
    assert not providers_here.loads("CUDAExecutionProvider")
    if cuda.missing_library is not None:
        assert cuda.reason == f"{cuda.missing_library}: cannot open shared object file"
        assert cuda.package == package_of_library(cuda.missing_library, providers_here.cuda_version)


FAKE_ONNXRUNTIME = """
import json, os, sys, time
import numpy
__version__, cuda_version = "9.9", "13.0"
state = []
def get_available_providers():
    return ["CUDAExecutionProvider", "CPUExecutionProvider"]
def preload_dlls():
    state.append("preloaded")
class InferenceSession:
    def __init__(self, model, providers):
        self.providers = providers
        if providers[0].startswith("CUDA"):
            {cuda}
    def get_providers(self):
        return self.providers
    def run(self, outputs, inputs):
        return [2 * inputs["x"]]
"""


def fake_onnxruntime(monkeypatch, tmp_path, cuda):
    (tmp_path / "onnxruntime.py").write_text(FAKE_ONNXRUNTIME.replace("{cuda}", cuda))
    import_first(monkeypatch, tmp_path)


def cuda_provider(**options):
    info = loadable_providers(**options)
    assert info.loads("CPUExecutionProvider")
    return info.providers[0]


def test_provider_that_needs_preloading(monkeypatch, tmp_path):
    fake_onnxruntime(monkeypatch, tmp_path, "if not state: self.providers = ['CPUExecutionProvider']")
    provider = cuda_provider()
    assert provider.loads
    assert provider.setup == "onnxruntime.preload_dlls()"


@pytest.mark.parametrize(
    ("cuda", "words"),
    [
        ("self.providers = ['CPUExecutionProvider']", "fell back to CPUExecutionProvider"),
        ("self.run = lambda outputs, inputs: [inputs['x']]", "answers wrongly: got 1.0, expected 2"),
        ("os.abort()", "signal 6"),
        ("raise RuntimeError('CUDA failure 35')", "RuntimeError: CUDA failure 35"),
    ],
)
def test_provider_that_fails_is_a_reason(monkeypatch, tmp_path, cuda, words):
    fake_onnxruntime(monkeypatch, tmp_path, cuda)
    provider = cuda_provider()
    assert not provider.loads
    assert words in provider.reason
    assert provider.package is None


def test_missing_library_is_found_in_the_log(monkeypatch, tmp_path):
    message = (
        "Failed to load library /x/libonnxruntime_providers_cuda.so with error: {}: cannot open shared object file"
    )
    line = message.format("libcudnn.so.9")
    fake_onnxruntime(
        monkeypatch, tmp_path, f"print({line!r}, file=sys.stderr); self.providers = ['CPUExecutionProvider']"
    )
    provider = cuda_provider()
    assert (provider.missing_library, provider.package) == ("libcudnn.so.9", "nvidia-cudnn-cu13")
    assert provider.reason == "libcudnn.so.9: cannot open shared object file"


def test_provider_that_hangs_is_stopped_after_one_try(monkeypatch, tmp_path):
    start = time.monotonic()
    subprocess.run([sys.executable, "-c", "import numpy"], check=True)
    limit = round(1 + 4 * (time.monotonic() - start), 1)  # what does not hang, answers: under emulation too
    fake_onnxruntime(monkeypatch, tmp_path, "time.sleep(600)")
    provider = cuda_provider(timeout_s=limit)
    assert time.monotonic() - start < 300
    assert provider.reason == f"did not answer within {limit:g} s"


def test_no_onnxruntime(monkeypatch, tmp_path):
    (tmp_path / "onnxruntime.py").write_text("raise ModuleNotFoundError(\"No module named 'onnxruntime'\")")
    import_first(monkeypatch, tmp_path)
    info = loadable_providers()
    assert (info.version, info.providers, info.reason) == (None, (), "not installed")


@pytest.mark.parametrize(
    ("library", "cuda", "package"),
    [
        ("libcurand.so.10", "13.0", "nvidia-curand"),
        ("libcurand.so.10", "12.8", "nvidia-curand-cu12"),
        ("libcublasLt.so.13", "13.0", "nvidia-cublas"),
        ("libcudnn.so.9", "13.0", "nvidia-cudnn-cu13"),
        ("libcudnn_graph.so.9", "12.6", "nvidia-cudnn-cu12"),
        ("libcudart.so.13", None, "nvidia-cuda-runtime"),
        ("libnvinfer.so.10", "13.0", "tensorrt-cu13==10.*"),
        ("libnvonnxparser.so.10", "12.6", "tensorrt-cu12==10.*"),
        ("libcuda.so.1", "13.0", None),
        ("libm.so.6", "13.0", None),
    ],
)
def test_package_of_library(library, cuda, package):
    assert package_of_library(library, cuda) == package


def test_results_go_into_json():
    from dataclasses import asdict

    for result in (machine_info(), gpu_info(), jetpack_version(), *library_versions()):
        json.dumps(asdict(result))
