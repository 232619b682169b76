"""The layers of an engine after its build, on stand-ins of four TensorRT versions and on a machine without a GPU."""

import dataclasses
import json
import sys

import pytest
from standins.cuda_standin import CudaStandin
from standins.tensorrt_standin import VERSIONS, make_tensorrt

import exporter.engines.bundle_engine
import runtimes.trt.adapter
from exporter.engines.bundle_engine import engine_from_bundle
from exporter.engines.engine_evidence import layers_path, times_path
from resnet_export.main import main
from runtimes.errors import MissingDependencyError
from runtimes.machine.this_machine import machine_facts
from runtimes.trt.engine_layers import CONVOLUTION, REFORMAT


@pytest.fixture
def bundle(engine_bundle, tmp_path):
    import shutil

    return shutil.copytree(engine_bundle, tmp_path / "bundle")


@pytest.fixture
def on_a_gpu(monkeypatch):
    """Pretend that there is a GPU, with the TensorRT of a version on it."""

    def make(version):
        facts = dataclasses.replace(machine_facts(), gpu="Stand-in", compute_capability="8.7", cuda="12.6")
        for module in (exporter.engines.bundle_engine, exporter.engines.engine_evidence):
            monkeypatch.setattr(module, "machine_facts", lambda: facts)
        cuda = CudaStandin()
        standin = make_tensorrt(version, cuda)
        monkeypatch.setattr(runtimes.trt.adapter, "load_cuda", lambda: cuda)
        monkeypatch.setitem(sys.modules, "tensorrt", standin.module)
        return standin

    return make


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_are_counted_and_kept(version, bundle, on_a_gpu):
    on_a_gpu(version)
    outcome = engine_from_bundle(bundle, precision="int8", timing_cache=False)
    assert outcome.evidence.why_no_layers == ""
    assert outcome.evidence.layers.count(CONVOLUTION) == {"INT8": 10}
    assert outcome.evidence.layers.num_reformats == 1
    assert {"conv1", "layer1.0.conv2", "fc"} <= {
        node for layer in outcome.evidence.layers.layers for node in layer.nodes
    }
    again = engine_from_bundle(bundle, precision="int8", timing_cache=False)
    assert again.reused
    assert again.evidence.layers == outcome.evidence.layers
    assert again.evidence.times == outcome.evidence.times


@pytest.mark.parametrize("version", VERSIONS)
def test_layers_are_timed_and_kept(version, bundle, on_a_gpu):
    standin = on_a_gpu(version)
    outcome = engine_from_bundle(bundle, precision="int8", timing_cache=False)
    times = outcome.evidence.times
    assert (times.batch, times.num_runs, standin.profiled_runs) == (8, 20, 20)
    assert len(times.layer_ms) == 11
    microseconds = [1000 * spent for spent in times.layer_ms.values()]
    assert microseconds == pytest.approx([2 * place for place in range(1, 12)])  # the median of n, 2n and 3n
    by_precision = times.by_precision(outcome.evidence.layers)
    assert by_precision == pytest.approx({"INT8": 0.002 * sum(range(2, 12)), REFORMAT: 0.002})
    assert set(standin.executions[-11:]) == {8}
    assert standin.cuda.leaks() == []


def test_times_are_told(bundle, on_a_gpu, capsys):
    on_a_gpu("10.3")
    words = ["build", str(bundle), "--int8", "--timing-cache", "off"]
    for told in ("engine built", "engine reused"):
        assert main([*words, "--json"]) == 0
        captured = capsys.readouterr()
        printed = " ".join(captured.err.split())
        assert told in printed
        assert "time in the layers at batch 8: 98% in INT8, 2% reformats of 0.132 ms" in printed
        assert "slowest: fc 0.022 ms (INT8), layer3.0.conv2 0.02 ms (INT8)" in printed
        report = json.loads(captured.out)["times"]
        assert report["ms_by_precision"]["INT8"] == pytest.approx(0.13)
        assert report["layer_ms"]["conv1 + relu"] == pytest.approx(0.004)


@pytest.mark.tensorrt
@pytest.mark.parametrize(("precision", "code"), [("--int8", 0), ("--fp16", 1)])
def test_int8_coverage_without_a_gpu(precision, code, bundle, capsys):
    """TensorRT-RTX's builder lists its layers; a gate for CI reads them, also of an engine that is reused."""
    pytest.importorskip("tensorrt_rtx")
    words = ["build", str(bundle), "--rtx", precision, "--json", "--min-int8-layers", "1"]
    for told in ("engine built", "engine reused"):
        assert main(words) == code
        captured = capsys.readouterr()
        printed = " ".join(captured.err.split())
        assert told in printed
        assert f"10 of 10 convolutions and matrix products read {precision[2:].upper()}" in printed
        coverage = json.loads(captured.out)["int8_coverage"]
        assert coverage["int8"] == (10 if code == 0 else 0)
        assert (coverage["of"], coverage["source"]) == (10, "build log")
        assert {"conv1", "layer2.0.downsample.0", "fc"} <= coverage["by_name"].keys()
        assert ("--min-int8-layers: 0 of 10" in printed) is bool(code)


def test_gate_that_cannot_be_told_is_not_passed(bundle, monkeypatch, capsys):
    cuda = CudaStandin()
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt("10.3", cuda).module)
    assert main(["build", str(bundle), "--int8", "--timing-cache", "off", "--min-int8-layers", "0.5"]) == 1
    assert (
        "--min-int8-layers: it cannot be told here: an engine tells its layers on a GPU only" in capsys.readouterr().err
    )


@pytest.mark.parametrize("what", ["load_cuda", "profiler"])
def test_an_engine_that_cannot_be_timed_is_still_an_engine(what, bundle, on_a_gpu, monkeypatch, capsys):
    standin = on_a_gpu("10.3")
    if what == "load_cuda":
        monkeypatch.setattr(runtimes.trt.adapter, "load_cuda", raising(MissingDependencyError("no CUDA runtime")))
    else:
        monkeypatch.setattr(standin.module.IProfiler, "__init__", lambda self: None)
        monkeypatch.setattr(standin.module.IExecutionContext, "execute_async_v3", lambda *_: False)
    assert main(["build", str(bundle), "--fp32", "--timing-cache", "off"]) == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "layers not timed: " + ("no CUDA runtime" if what == "load_cuda" else "tensorrt: executing") in printed
    assert not times_path(bundle / "model.engine").exists()
    assert standin.cuda.leaks() == []


def raising(error):
    def fail(*_args, **_options):
        raise error

    return fail


def test_convolutions_that_fell_back_are_named(bundle, on_a_gpu, capsys):
    on_a_gpu("10.3")
    outcome = engine_from_bundle(bundle, precision="int8", timing_cache=False)
    account = json.loads(layers_path(outcome.path).read_text())
    account["Layers"][3]["Inputs"][0]["Format/Datatype"] = "Half"
    layers_path(outcome.path).write_text(json.dumps(account))
    assert main(["build", str(bundle), "--int8", "--timing-cache", "off"]) == 0
    printed = " ".join(capsys.readouterr().err.split())
    name = account["Layers"][3]["Metadata"].removeprefix("[ONNX Layer: ").removesuffix("]")
    assert "9 in INT8, 1 in FP16; 1 reformats" in printed
    assert f"1 convolutions or matrix products are not in INT8: {name} (FP16)" in printed


def test_an_engine_that_does_not_load_is_still_an_engine(bundle, on_a_gpu, monkeypatch):
    standin = on_a_gpu("10.3")
    monkeypatch.setattr(standin.module.Runtime, "_refusal", lambda self, content: "out of memory")
    outcome = engine_from_bundle(bundle, precision="fp32", timing_cache=False)
    assert outcome.path.is_file()
    assert outcome.evidence.layers is None
    assert "out of memory" in outcome.evidence.why_no_layers
    assert not layers_path(outcome.path).exists()


def test_without_a_gpu_it_says_so(bundle, monkeypatch):
    monkeypatch.setattr(exporter.engines.bundle_engine, "build_engine", lambda *_, **__: b"plan")
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt("10.3", CudaStandin()).module)
    outcome = engine_from_bundle(bundle, precision="fp32")
    assert outcome.evidence.layers is None
    assert "here is none" in outcome.evidence.why_no_layers
