"""`--measure-on`: a row of the table for the file that another runtime would run, computed and timed there."""

from __future__ import annotations

import json
import sys

import pytest

from resnet_export.console.result_table import print_result
from resnet_export.main import main
from runtimes.inference.model_in_memory import other_runtime
from runtimes.openvino.openvino_library import load_core


def test_the_table_has_a_row_that_openvino_computed(digits_bundle, capsys):
    pytest.importorskip("openvino", reason="OpenVINO is not installed: [openvino]")
    report = json.loads((digits_bundle / "report.json").read_text())
    (told,) = report["other_runtimes"]
    assert (told["name"], told["file"]) == ("ONNX INT8, OpenVINO on the CPU", "model.int8.onnx")
    assert told["latency"]["provider"] == "OpenVINO on the CPU"
    assert told["latency"]["p50_ms"] > 0
    written = next(one for one in report["rows"] if one["file"] == "model.int8.onnx")
    assert told["parity"]["sqnr_db"] > written["parity"]["sqnr_db"] - 2
    assert told["parity"]["max_abs_diff"] != written["parity"]["max_abs_diff"], "its own kernels, not ONNX Runtime's"
    print_result(report)
    printed = capsys.readouterr().out
    assert "ONNX INT8, OpenVINO on the CPU" in printed
    assert "latency: ONNX Runtime, CPU of this machine or, in its row, OpenVINO on the CPU, one image" in printed


@pytest.mark.parametrize(
    ("word", "written", "for_tensorrt", "precision"),
    [
        ("openvino", ("fp32", "fp16", "int8", "int8-fp16"), True, "int8"),
        ("openvino", ("fp32", "fp16"), True, "fp32"),
        ("cuda", ("fp32", "fp16", "int8"), True, "fp16"),
        ("cuda", ("fp32", "int8"), False, "fp32"),
        ("ort-tensorrt", ("fp32", "fp16", "int8", "int8-fp16"), True, "int8-fp16"),
        ("ort-tensorrt", ("fp32", "int8"), False, "fp32"),
    ],
)
def test_the_file_is_the_one_that_load_would_open(word, written, for_tensorrt, precision):
    assert other_runtime(word, written, for_tensorrt=for_tensorrt).precision == precision


@pytest.mark.parametrize("word", ["cpu", "tensorrt", "openvinoo"])
def test_what_is_measured_anyhow_runs_engines_or_is_unknown_is_refused(word, tmp_path, capsys):
    words = ["cifar_resnet20", "--weights", "random", "--measure-on", word, "-o", str(tmp_path / "out")]
    assert main(words) == 2
    assert f"--measure-on: got '{word}', expected some of" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_runtime_that_does_not_work_here_is_told_before_any_work(tmp_path, capsys, monkeypatch):
    load_core.cache_clear()
    monkeypatch.setitem(sys.modules, "openvino", None)
    words = ["cifar_resnet20", "--weights", "random", "--measure-on", "openvino", "-o", str(tmp_path / "out")]
    assert main(words) == 2
    told = capsys.readouterr()
    assert "OpenVINO is needed" in told.err
    assert "parameters" not in told.out, "the model was not even loaded"
