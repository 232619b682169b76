"""Builds for a DLA, on stand-ins: what is asked of TensorRT and what is refused. No DLA was at hand."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import onnx
import pytest
from standins.cuda_standin import CudaStandin
from standins.tensorrt_standin import VERSIONS, make_tensorrt

import exporter.engines.bundle_engine
from exporter.engines.build import build_engine
from exporter.engines.build_options import BuildOptions
from exporter.engines.bundle_engine import engine_from_bundle
from exporter.errors import EngineBuildError
from resnet_export.main import main
from runtimes import load
from runtimes.bundle.manifest import BatchRange, load_manifest
from runtimes.errors import BundleError, ProviderUnavailableError
from runtimes.io.npz import load_npz
from runtimes.machine.this_machine import machine_facts
from runtimes.ort.adapter import OrtRuntime
from runtimes.trt.adapter import TrtRuntime
from runtimes.trt.calibration_cache import scales_from_cache
from runtimes.trt.engine_sidecar import load_sidecar, sidecar_path

WITH_DLA = ("8.6", "10.3")
ONE = BatchRange(4, 4, 4)


@pytest.fixture
def bundle(engine_bundle, tmp_path):
    return shutil.copytree(engine_bundle, tmp_path / "bundle")


@pytest.fixture
def orin(monkeypatch):
    """Pretend to be a Jetson with two DLA cores and the TensorRT of a version."""

    def make(version, cores=2):
        facts = dataclasses.replace(machine_facts(), gpu="Orin", compute_capability="8.7", cuda="12.6")
        for module in (exporter.engines.bundle_engine, exporter.engines.engine_evidence):
            monkeypatch.setattr(module, "machine_facts", lambda: facts)
        standin = make_tensorrt(version, CudaStandin())
        standin.dla_cores = cores
        monkeypatch.setitem(sys.modules, "tensorrt", standin.module)
        return standin

    return make


def build(bundle, *, precision="int8", **options):
    chosen = BuildOptions(**{"batch": ONE, "dla_core": 0, **options})
    return engine_from_bundle(bundle, precision=precision, options=chosen, timing_cache=False)


@pytest.mark.parametrize("version", WITH_DLA)
def test_int8_takes_the_bundles_scales(version, bundle, orin):
    standin = orin(version)
    outcome = build(bundle, dla_core=1)
    record = standin.builds[-1]
    assert record.creation_flags == {"EXPLICIT_BATCH"}
    assert record.builder_flags == {"TF32", "FP16", "INT8"}
    assert record.attributes["default_device_type"] == standin.module.DeviceType.DLA
    assert record.attributes["DLA_core"] == 1
    assert set(record.profile["input"]) == {(4, 3, 32, 32)}
    assert scales_from_cache(standin.calibration_cache.decode()) == scales_from_cache(
        (bundle / "model.int8.dla.cache").read_text()
    )
    assert outcome.placement.on_gpu == ()
    assert {"conv1", "avgpool", "fc"} <= set(outcome.placement.on_dla)
    assert outcome.sidecar.facts.flags["dla_core"] == 1
    assert outcome.path.name == "model.int8.dla.engine"
    assert build(bundle, dla_core=1).reused


@pytest.mark.parametrize("version", WITH_DLA)
def test_fp16_needs_no_scales(version, bundle, orin):
    standin = orin(version)
    outcome = build(bundle, precision="fp16")
    assert standin.builds[-1].builder_flags == {"TF32", "FP16"}
    assert outcome.path.name == "model.dla.engine"
    assert standin.calibration_cache is None


def test_other_scales_build_again(bundle, orin):
    orin("10.3")
    outcome = build(bundle)
    path = sidecar_path(outcome.path)
    content = json.loads(path.read_text())
    content["facts"]["flags"]["scales_sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    again = build(bundle)
    assert not again.reused
    assert "scales_sha256" in again.reason


def test_the_command_tells_the_placement(bundle, orin, capsys):
    orin("10.3")
    assert main(["build", str(bundle), "--int8", "--dla", "1", "--batch", "4", "--timing-cache", "off", "--json"]) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    layers = len(onnx.load(bundle / "model.int8.dla.onnx").graph.node)
    assert f"DLA core 1: {layers} of {layers} layers" in captured.err
    assert len(report["dla"]["on_dla"]) == layers
    assert report["dla"]["on_gpu"] == []


def with_global_pool(bundle):
    """The file as it would be without the rewriting of the pool."""
    path = bundle / "model.int8.dla.onnx"
    model = onnx.load(path)
    pool = next(node for node in model.graph.node if node.op_type == "AveragePool")
    pool.op_type = "GlobalAveragePool"
    del pool.attribute[:]
    return model


@pytest.mark.parametrize("version", WITH_DLA)
def test_a_layer_that_cannot_run_there_is_named(version, bundle, orin, tmp_path):
    standin = orin(version)
    path = tmp_path / "model.onnx"
    onnx.save_model(with_global_pool(bundle), path)
    scales = bundle / "model.int8.dla.cache"
    with pytest.raises(EngineBuildError, match=r"1 of \d+ layers cannot run on the DLA: avgpool; --gpu-fallback"):
        build_engine(path, options=BuildOptions(batch=ONE, dla_core=0), scales=scales)
    assert standin.builds == []
    heard = []
    options = BuildOptions(batch=ONE, dla_core=0, gpu_fallback=True)
    assert build_engine(path, options=options, scales=scales, on_placement=heard.append)
    assert heard[0].on_gpu == ("avgpool",)
    assert "GPU_FALLBACK" in standin.builds[-1].builder_flags


def test_fallback_is_told_by_the_command(bundle, orin, capsys, monkeypatch):
    standin = orin("10.3")
    monkeypatch.setattr(standin.module.IBuilderConfig, "can_run_on_DLA", lambda self, layer: layer.name != "fc")
    words = ["build", str(bundle), "--int8", "--dla", "0", "--batch", "4", "--timing-cache", "off"]
    assert main(words) == 2
    assert "cannot run on the DLA: fc; --gpu-fallback" in " ".join(capsys.readouterr().err.split())
    monkeypatch.undo()
    standin = orin("10.3")
    monkeypatch.setattr(standin.module.IBuilderConfig, "can_run_on_DLA", lambda self, layer: layer.name != "fc")
    monkeypatch.setattr(standin.module.Builder, "_refusal", lambda *_: None)
    assert main([*words, "--gpu-fallback"]) == 0
    assert "1 layers on the GPU instead of the DLA: fc" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("version", "cores", "options", "message"),
    [
        ("8.6", 0, {}, "finds none"),
        ("10.13", 0, {}, "finds none"),
        (
            "11.4",
            2,
            {},
            r"does not build for a DLA from float files .* TensorRT 11 has no calibrators.*JetPack 7\.2\.2",
        ),
        ("10.3", 2, {"dla_core": 2}, "DLA cores 0 to 1"),
        ("10.3", 2, {"batch": BatchRange(1, 8, 32)}, "give --batch 8"),
        ("10.3", 2, {"batch": BatchRange(4097, 4097, 4097)}, "at most 4096"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_built(version, cores, options, message, bundle, orin):
    standin = orin(version, cores)
    with pytest.raises(EngineBuildError, match=message):
        build(bundle, **options)
    assert standin.builds == []
    assert not list(bundle.glob("*.engine"))


def test_rtx_has_no_dla(bundle):
    pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    options = BuildOptions(batch=ONE, dla_core=0)
    with pytest.raises(EngineBuildError, match=r"rtx .* does not build for a DLA"):
        engine_from_bundle(bundle, precision="int8", flavor="rtx", options=options, timing_cache=False)


def test_fp32_is_no_precision_of_a_dla(bundle, orin):
    orin("10.3")
    with pytest.raises(EngineBuildError, match="computes in INT8 and FP16, not in fp32"):
        build(bundle, precision="fp32")


def test_a_bundle_without_the_files_says_where_they_come_from(bundle, orin):
    orin("10.3")
    content = json.loads((bundle / "manifest.json").read_text())
    del content["files"]["model.int8.dla.cache"]
    (bundle / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(BundleError, match=r"export again with --int8 --dla"):
        build(bundle)


@pytest.mark.parametrize(
    "content", [None, "TRT-8601-MinMaxCalibration\ninput: 3c00f9f4\n", "TRT-8601-EntropyCalibration2\nx"]
)
def test_scales_that_cannot_be_read(content, bundle, orin, tmp_path):
    orin("10.3")
    scales = tmp_path / "scales.cache"
    if content is not None:
        scales.write_text(content)
    with pytest.raises(EngineBuildError, match=r"scales\.cache cannot be read"):
        build_engine(bundle / "model.int8.dla.onnx", options=BuildOptions(batch=ONE, dla_core=0), scales=scales)


@pytest.mark.parametrize("version", WITH_DLA)
def test_a_cache_that_tensorrt_does_not_take_fails_the_build(version, bundle, orin, monkeypatch):
    orin(version)
    import exporter.engines.dla

    monkeypatch.setattr(exporter.engines.dla, "cache_for_version", lambda text, _: text.replace("TRT-10", "TRT-7"))
    with pytest.raises(EngineBuildError, match=r"not take the scales of model\.int8\.dla\.cache.*no scaling factors"):
        build(bundle)


@pytest.mark.parametrize("options", [{"dla_core": -1}, {"gpu_fallback": True}])
def test_wrong_options(options):
    with pytest.raises(ValueError, match="DLA"):
        BuildOptions(**options)


@pytest.mark.parametrize("version", WITH_DLA)
def test_the_engine_runs_on_its_core(version, bundle, orin, monkeypatch):
    standin = orin(version)
    outcome = build(bundle, dla_core=1)
    images = load_npz(bundle / "golden.npz")["input"]
    cuda = standin.cuda
    with OrtRuntime(onnx.load(bundle / "model.int8.dla.onnx")) as reference:
        expected = reference.run({"input": images})["logits"]
    with TrtRuntime(outcome.path, cuda=cuda) as runtime:
        np.testing.assert_allclose(runtime.run({"input": images[:6]})["logits"], expected[:6], rtol=1e-4, atol=1e-4)
    with TrtRuntime(outcome.path, cuda=cuda, dla_core=0):
        pass
    assert standin.loaded_on_dla[-2:] == [1, 0]
    standin.dla_cores = 1
    with pytest.raises(ProviderUnavailableError, match=r"got 1 DLA cores.*dla_core=0"):
        TrtRuntime(outcome.path, cuda=cuda)
    cuda.assert_no_leaks()


def test_an_engine_for_another_version_is_rebuilt_with_the_same_options(bundle, orin):
    standin = orin("10.3")
    outcome = build(bundle, gpu_fallback=True)
    orin("8.6")
    with pytest.raises(BundleError, match=r"build .*bundle --int8 --dla 0 --gpu-fallback --batch 4"):
        TrtRuntime(outcome.path, cuda=standin.cuda)


def test_the_gpu_is_preferred_where_nothing_is_named(bundle, orin):
    orin("10.3")
    build(bundle)
    assert load_sidecar(bundle / "model.int8.dla.engine").facts.precision == "int8"
    with pytest.raises(BundleError, match="holds no engine for tensorrt"):
        load(bundle, provider="tensorrt")


def test_the_files_are_the_bundles(engine_bundle):
    manifest = load_manifest(engine_bundle)
    assert {"model.dla.onnx", "model.int8.dla.onnx", "model.int8.dla.cache"} <= manifest.files.keys()
    report = json.loads((engine_bundle / "report.json").read_text())
    assert report["dla"]["scales_of_the_int8_file"] == 10
    assert report["dla"]["without_scale"] == []
    assert report["dla"]["windows"] == {"avgpool": [8, 8]}
    row = next(row for row in report["rows"] if "DLA" in row["name"])
    assert row["parity"]["agreement"] > 0.95


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--target", "jetpack7", "--fp16"), "jetpack7 has no DLA"),
        (("--target", "onnxruntime", "--fp16"), "onnxruntime has no DLA"),
        ((), "--dla needs --int8 or --fp16"),
    ],
)
def test_the_main_command_refuses_what_has_no_dla(words, message, capsys):
    assert main(["resnet18", "--dla", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_standins_are_of_their_versions():
    has = {
        version: hasattr(make_tensorrt(version, CudaStandin()).module, "IInt8EntropyCalibrator2")
        for version in VERSIONS
    }
    assert has == {"8.6": True, "10.3": True, "10.13": True, "11.4": False}
