"""`resnet-export bench`: what it prints, writes, draws and refuses; times are not judged."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from small_bundle import small_models, write_bundle

from resnet_export.bench_job.mlperf import parse_summary, run_scenario
from resnet_export.main import main
from runtimes import load
from runtimes.errors import RuntimeAdapterError

QUICK = ["--seconds", "0.001", "--rounds", "2", "--provider", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("bench") / "small", small_models())


def test_the_table(bundle, capsys):
    assert main(["bench", str(bundle), "--precision", "fp32,int8", "--batch", "1,3", *QUICK]) == 0
    printed = capsys.readouterr().out
    for word in ("fp32", "int8", "prepare", "p99", "images/s", "CPUExecutionProvider, 1 thread,"):
        assert word in printed
    assert printed.count("no difference beyond the noise") == 2, "two rounds can tell nothing"


def test_files_that_are_no_pictures_are_told(bundle, tmp_path, capsys):
    Image.new("RGB", (40, 40)).save(tmp_path / "a.png")
    (tmp_path / "b.heic").touch()
    assert main(["bench", str(bundle), "--precision", "fp32", "--images", str(tmp_path), *QUICK]) == 0
    assert f"{tmp_path}: 1 file is passed over" in capsys.readouterr().err.replace("\n", " ")


def test_json_has_everything(bundle, capsys):
    assert main(["bench", str(bundle), str(bundle / "model.fp16.onnx"), "--json", *QUICK]) == 0
    report = json.loads(capsys.readouterr().out)
    assert [row["batch"] for row in report["rows"]] == [1, 1]
    first, second = report["rows"]
    assert set(first["stages"]) == {"prepare", "run", "answer"}
    assert len(first["stages"]["run"]["round_p50_ms"]) == 2
    assert first["stages"]["run"]["p50_ms"] <= first["stages"]["run"]["p99_ms"]
    assert second["against_first"]["differs"] is False
    assert {told["precision"] for told in report["models"].values()} == {"fp32", "fp16"}
    assert set(report["power"]) == {"before", "after"}
    assert report["machine"]["num_cores"] >= 1


def test_a_file_of_which_nothing_is_known_has_run_alone(tmp_path, capsys):
    from small_bundle import small_network

    path = tmp_path / "theirs.onnx"
    path.write_bytes(small_network().SerializeToString())
    assert main(["bench", str(path), "--json", str(tmp_path / "report.json"), "--quiet", *QUICK]) == 0
    assert capsys.readouterr().out == ""
    (row,) = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert set(row["stages"]) == {"run", "answer"}


def test_plot(bundle, tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from PIL import Image

    words = ["bench", str(bundle), "--batch", "1,2", "--quiet", *QUICK]
    assert main([*words, "--plot", str(tmp_path / "latency.png")]) == 0
    with Image.open(tmp_path / "latency.png") as image:
        assert image.width > 300
    assert main([*words, "--plot", str(tmp_path / "latency.unknown")]) == 2
    assert "cannot be drawn" in capsys.readouterr().err


def test_missing_extras_are_named_before_anything_is_measured(bundle, tmp_path, capsys, monkeypatch):
    import sys

    for name in ("matplotlib.figure", "mlperf_loadgen"):
        monkeypatch.setitem(sys.modules, name, None)
    for option in (["--plot", str(tmp_path / "x.png")], ["--mlperf", "Offline"]):
        assert main(["bench", str(bundle), *option, *QUICK]) == 2
        assert 'pip install "resnet-export[bench]"' in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--batch", "0"], "expected a whole number >= 1"),
        (["--precision", "int4"], "got 'int4'"),
        (["--mlperf", "Server"], "expected some of SingleStream, Offline"),
        (["--seconds", "0"], "expected seconds > 0"),
        (["--threads", "100000"], "got '100000', expected at most"),
        (["--quiet", "--json"], "contradict each other"),
    ],
)
def test_wrong_use(bundle, capsys, words, message):
    assert main(["bench", str(bundle), *words]) == 2
    assert message in capsys.readouterr().err


class TestMlperf:
    def test_both_scenarios_by_the_real_load_generator(self, bundle, capsys):
        pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
        words = ["--mlperf", "SingleStream,Offline", "--mlperf-seconds", "0.05", "--json", *QUICK]
        assert main(["bench", str(bundle), *words]) == 0
        single, offline = json.loads(capsys.readouterr().out)["mlperf"]
        assert (single["scenario"], single["unit"]) == ("SingleStream", "ms, 90th percentile")
        assert 0 < single["value"] < 1000
        assert (offline["scenario"], offline["unit"]) == ("Offline", "images a second")
        assert offline["value"] > 1
        assert "Samples per second" in offline["summary"]

    def test_a_model_that_fails_is_an_error_not_a_hang(self, bundle, monkeypatch):
        pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
        import numpy as np

        with load(bundle, provider="cpu") as model:
            inputs = {"input": np.zeros((2, 3, 16, 16), np.float32)}
            real, calls = model.run, []

            def failing(given):
                calls.append(1)
                if len(calls) > 30:
                    raise RuntimeAdapterError("out of memory")
                return real(given)

            monkeypatch.setattr(model, "run", failing)
            monkeypatch.setattr(
                "runtimes.metrics.latency.measure_latency", lambda call, **options: type("L", (), {"p50_ms": 0.1})
            )
            with pytest.raises(RuntimeAdapterError, match="failed during SingleStream: out of memory"):
                run_scenario(model, inputs, "SingleStream", seconds=0.05, offline_batch=2)

    def test_a_summary_without_a_result(self):
        with pytest.raises(RuntimeAdapterError, match="holds no result"):
            parse_summary("nothing", "Offline")
        told = parse_summary("90.00 percentile latency (ns)   : 1500000\nResult is : INVALID\n", "SingleStream")
        assert (told.value, told.is_valid) == (1.5, False)
