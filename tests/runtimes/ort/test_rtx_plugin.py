"""ONNX Runtime's TensorRT-RTX plug-in, the real one: found, its CUDA library loaded, registered; without a GPU.

Its library needs the driver's two libraries. Where there is no driver a few functions that answer "no device" stand for
them, so that registration itself is the real thing.
"""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from graph_builder import GraphBuilder

from runtimes.bundle.manifest import BatchRange
from runtimes.ort import rtx_plugin
from runtimes.ort.providers import PROVIDER_OF_WORD, provider_setup
from runtimes.protocol import TensorSpec

NO_DEVICE = 100  # cudaErrorNoDevice, cuda.h
DRIVER = {"libcuda.so.1": r" (cu[A-Z]\w*)$", "libnvidia-ml.so.1": r" (nvml[A-Z]\w*)$"}


@pytest.fixture(scope="module")
def plugin_folder():
    found = importlib.util.find_spec(rtx_plugin.MODULE)
    if found is None:
        pytest.skip(f"{rtx_plugin.MODULE} is not installed")
    return Path(found.origin).parent


@pytest.fixture(scope="module")
def driver(plugin_folder, tmp_path_factory):
    """Return a folder for LD_LIBRARY_PATH with a driver that finds no device."""
    if not all(map(shutil.which, ("gcc", "nm"))):
        pytest.skip("gcc and nm are needed to stand for the driver's libraries")
    folder = tmp_path_factory.mktemp("driver")
    library = plugin_folder / "libonnxruntime_providers_nv_tensorrt_rtx.so"
    told = subprocess.run(["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=True).stdout
    for name, pattern in DRIVER.items():
        names = [found for found in re.findall(pattern, told, re.MULTILINE) if not found.startswith("cuda")]
        source = folder / f"{name}.c"
        source.write_text("".join(f"int {found}(void) {{ return {NO_DEVICE}; }}\n" for found in names))
        words = ["gcc", "-shared", "-fPIC", "-o", folder / name, f"-Wl,-soname,{name}", source]
        subprocess.run(words, check=True, capture_output=True)
    return folder


OPEN = """
import json, sys
import onnxruntime
from runtimes.errors import ProviderUnavailableError
from runtimes.ort.adapter import OrtRuntime
from runtimes.ort.rtx_plugin import plugin_version, rtx_plugin

plugin = rtx_plugin({})
maps = open("/proc/self/maps").read().split()
told = {"cudart": sorted({path for path in maps if "libcudart" in path}), "version": plugin_version(), "errors": []}
for _ in range(2):
    try:
        OrtRuntime(sys.argv[1], plugin=plugin)
    except ProviderUnavailableError as err:
        told["errors"].append(str(err))
told["providers"] = [device.ep_name for device in onnxruntime.get_ep_devices()]
print(json.dumps(told))
"""


def told_by(model, **environment):
    words = [sys.executable, "-c", OPEN, str(model)]
    environment = {**os.environ, **environment}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture
def model(tmp_path):
    made = GraphBuilder(channels=3, size=8)
    made.conv("conv", "input", 4)
    path = tmp_path / "model.onnx"
    path.write_bytes(made.model("conv").SerializeToString())
    return path


def test_it_registers_and_says_that_it_offers_no_device(plugin_folder, driver, model):
    """Twice: a library that is registered already is refused by ONNX Runtime, which is no reason to tell."""
    told = told_by(model, LD_LIBRARY_PATH=str(driver))
    assert told["errors"] == ["NvTensorRTRTXExecutionProvider loads, but offers no device on this machine"] * 2
    assert told["providers"] == ["CPUExecutionProvider"]
    assert told["version"] == metadata.version("onnxruntime-ep-nv-tensorrt-rtx-cu13")


def test_its_own_cuda_runtime_is_loaded_before(plugin_folder, driver, model):
    """The wheel's file has a name that its library does not ask for."""
    cudart = told_by(model, LD_LIBRARY_PATH=str(driver))["cudart"]
    assert cudart
    assert {str(Path(path).parent) for path in cudart} == {str(plugin_folder)}


def test_without_a_driver_it_says_what_is_missing(plugin_folder, model):
    if any(Path(folder, "libcuda.so.1").exists() for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib64")):
        pytest.skip("there is a driver")
    for error in told_by(model)["errors"]:
        assert error.startswith("NvTensorRTRTXExecutionProvider does not load: ")
        assert "libcuda.so.1" in error


@pytest.mark.parametrize(("word", "separator"), [("ort-tensorrt-rtx", ";"), ("ort-tensorrt", ",")])
def test_several_inputs_are_separated_as_the_provider_wants(word, separator, monkeypatch):
    monkeypatch.setattr("runtimes.ort.providers.rtx_plugin", lambda options: None)
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: list(PROVIDER_OF_WORD.values()))
    inputs = {name: TensorSpec("float32", (None, 3, 8, 8)) for name in ("left", "right")}
    batch = BatchRange(1, 2, 4)
    setup = provider_setup(word, precision="fp32", sha256=lambda: "0" * 64, inputs=inputs, batch=batch, options={})
    (largest,) = (value for name, value in setup.options.items() if name.endswith("profile_max_shapes"))
    assert largest == f"left:4x3x8x8{separator}right:4x3x8x8"


@pytest.mark.parametrize(
    ("installed", "version"),
    [
        ({"onnxruntime-ep-nv-tensorrt-rtx-cu13": "0.5.0"}, "0.5.0"),
        ({"onnxruntime-ep-nv-tensorrt-rtx-cu12": "0.4.0", "onnxruntime-ep-nv-tensorrt-rtx": "0.5.0"}, "0.4.0"),
        ({"onnxruntime-ep-nv-tensorrt-rtx": "0.3.0"}, "0.3.0"),
        ({}, None),
    ],
)
def test_version_of_the_distribution_that_holds_it(installed, version, monkeypatch):
    def told(name):
        if name not in installed:
            raise metadata.PackageNotFoundError(name)
        return installed[name]

    monkeypatch.setattr(metadata, "version", told)
    assert rtx_plugin.plugin_version() == version


def test_missing_plugin_says_what_to_install_and_takes_nothing_away(monkeypatch):
    monkeypatch.setitem(sys.modules, rtx_plugin.MODULE, None)
    with pytest.raises(
        ImportError, match=r"pip install onnxruntime-ep-nv-tensorrt-rtx, beside .*onnxruntime-gpu"
    ) as told:
        rtx_plugin.rtx_plugin({})
    assert "uninstall" not in str(told.value)
