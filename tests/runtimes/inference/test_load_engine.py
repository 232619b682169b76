"""`load` with engines beside the bundle's files, on stand-ins of TensorRT 10.3 and CUDA: no GPU computes here."""

from __future__ import annotations

import json
import platform
import shutil
import sys

import numpy as np
import onnxruntime
import pytest
import skimage.data
from small_bundle import SIZE, small_models, write_bundle
from standins.cuda_standin import CudaStandin
from standins.tensorrt_standin import make_tensorrt

import runtimes.inference.load
import runtimes.trt.adapter
from exporter.engines.build import build_engine
from exporter.engines.build_options import BuildOptions
from runtimes import load
from runtimes.bundle.file_names import MODEL_FILES
from runtimes.bundle.manifest import BatchRange, file_entry
from runtimes.errors import BundleError
from runtimes.machine.environment import GpuDevice, GpuInfo
from runtimes.trt.engine_sidecar import EngineFacts, EngineSidecar, sidecar_path

BATCH = BatchRange(1, 2, 4)
GPU = GpuInfo((GpuDevice(0, "Stand-in", "8.7", 8192),), "580.0", "13.0", "")
INPUTS = {"input": np.random.default_rng(2).normal(size=(7, 3, SIZE, SIZE)).astype(np.float32)}


@pytest.fixture(scope="module")
def plain_bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("engine") / "small", small_models())


@pytest.fixture
def bundle(plain_bundle, tmp_path, monkeypatch):
    """A copy with engines in FP32 and INT8, on a machine with a GPU."""
    cuda = CudaStandin()
    standin = make_tensorrt("10.3", cuda)
    monkeypatch.setitem(sys.modules, "tensorrt", standin.module)
    monkeypatch.setattr(runtimes.trt.adapter, "load_cuda", lambda: cuda)
    monkeypatch.setattr(runtimes.inference.load, "gpu_info", lambda: GPU)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    copy = shutil.copytree(plain_bundle, tmp_path / "bundle")
    for precision in ("fp32", "int8"):
        source = copy / MODEL_FILES[precision]
        engine = source.with_suffix(".engine")
        engine.write_bytes(build_engine(source, options=BuildOptions(batch=BATCH)))
        facts = EngineFacts(
            onnx_sha256=file_entry(source).sha256,
            precision=precision,
            flavor="tensorrt",
            tensorrt_version=standin.module.__version__,
            gpu="Stand-in",
            compute_capability=cuda.capability,
            cuda="12.6",
            system=f"{platform.system()} {platform.machine()}",
            jetpack=None,
            batch=BATCH,
            flags={},
        )
        entry = file_entry(engine)
        sidecar = EngineSidecar(facts, entry.sha256, entry.size_bytes, source.name, (), {}, 0.0)
        sidecar_path(engine).write_text(json.dumps(sidecar.to_json()))
    yield copy
    cuda.assert_no_leaks()


def change_sidecar(engine, **facts):
    content = json.loads(sidecar_path(engine).read_text())
    content["facts"].update(facts)
    sidecar_path(engine).write_text(json.dumps(content))


@pytest.mark.parametrize("provider", ["auto", "tensorrt"])
def test_the_engine_of_the_lowest_precision(bundle, provider):
    with load(bundle, provider=provider) as model:
        told = model.describe()
        logits = model.run(INPUTS)["logits"]
        answer = model.classify(skimage.data.chelsea(), channels="RGB")
    assert told.file.endswith("model.int8.engine")
    assert (told.precision, told.runtime) == ("int8", "TensorRT")
    assert told.batch == "1-4, more in pieces, fewer padded"
    with load(bundle, provider="cpu", precision="int8") as reference:
        assert np.allclose(logits, reference.run(INPUTS)["logits"], rtol=0, atol=1e-5)
        assert reference.classify(skimage.data.chelsea(), channels="RGB").label == answer.label


@pytest.mark.parametrize(
    "options", [{"precision": "fp32"}, {"file": "model.engine"}, {"precision": "fp32", "provider": "tensorrt"}]
)
def test_another_precision(bundle, options):
    with load(bundle, **options) as model:
        assert model.describe().file.endswith("model.engine")


@pytest.mark.parametrize("provider", ["auto", "tensorrt"])
def test_the_lean_library_is_found_where_the_full_one_is_not(bundle, provider, monkeypatch):
    """An edge image: only version-compatible engines are taken there."""
    change_sidecar(bundle / "model.engine", flags={"version_compat": True})
    monkeypatch.setitem(sys.modules, "tensorrt_lean", sys.modules["tensorrt"])
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "tensorrt" else object())
    with load(bundle, provider=provider, precision="fp32") as model:
        assert model.describe().file.endswith("model.engine")
        assert model.describe().provider.startswith("lean ")
    with load(bundle, precision="int8") as model:
        assert not model.describe().file.endswith(".engine")


def test_the_engines_own_path_is_the_bundles(bundle):
    with load(bundle / "model.engine") as model:
        assert model.labels is not None
        assert model.describe().precision == "fp32"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"tensorrt_version": "10.9.0"}, "got an engine of tensorrt 10.9.0"),
        ({"compute_capability": "7.5"}, "compute capability 7.5"),
        ({"system": "Windows AMD64"}, "for Windows AMD64"),
    ],
)
def test_auto_leaves_out_an_engine_of_another_machine_and_says_so(bundle, logged, facts, reason):
    change_sidecar(bundle / "model.int8.engine", **facts)
    with load(bundle) as model:
        assert model.describe().file.endswith("model.engine")
    assert reason in logged.text
    with pytest.raises(BundleError, match=f"(?s){reason}.*resnet-export build"):
        load(bundle, provider="tensorrt")


def test_an_engine_of_another_bundle_is_none_of_this(bundle):
    for engine in bundle.glob("*.engine"):
        change_sidecar(engine, onnx_sha256="0" * 64)
    with load(bundle) as model:
        assert model.describe().provider == "CPUExecutionProvider"
    with pytest.raises(BundleError, match="holds no engine for tensorrt"):
        load(bundle, provider="tensorrt")
    with pytest.raises(BundleError, match="was not built from this bundle as it is now"):
        load(bundle, file="model.engine")


def test_a_changed_engine_is_refused(bundle):
    with (bundle / "model.int8.engine").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match="changed since it was built"):
        load(bundle, provider="tensorrt")


def test_the_way_down_from_an_engine_is_the_cpu(bundle, logged):
    change_sidecar(bundle / "model.int8.engine", tensorrt_version="10.9.0")
    with load(bundle, provider="tensorrt", allow_fallback=True) as model:
        assert model.describe().provider == "CPUExecutionProvider"
    assert "fell back to the CPU" in logged.text
    with pytest.raises(BundleError):
        load(bundle / "model.int8.engine")


@pytest.mark.parametrize("provider", ["cpu", "cuda", "tensorrt-rtx"])
def test_an_engine_runs_on_its_own_provider_only(bundle, provider):
    with pytest.raises(BundleError, match="is an engine for tensorrt, asked for"):
        load(bundle, file="model.engine", provider=provider)
