"""`--target onnxruntime`: the file that its CPU kernels fuse, and what the report says of these kernels."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from cli_runs import DIGITS_WEIGHTS, export_small

from calibration.methods.dialect import Dialect
from calibration.ranges.calibration_table import CalibrationTable
from resnet_export.console.result_table import print_result
from resnet_export.export_job import measure as measuring
from resnet_export.main import main
from runtimes.bundle.manifest import load_manifest
from runtimes.ort.int8_kernels import why_int8_saturates

ROW = measuring.SATURATING_ROW


@pytest.fixture(scope="module")
def bundle(small_weights: Path, digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("onnxruntime") / "digits-int8"
    words = ("--int8", "--num-calib", 64, "--val", digits_folder / "val", "--target", "onnxruntime", "--quiet")
    assert export_small(small_weights, digits_folder, output, *words) == 0
    return output


@pytest.fixture
def report(bundle: Path) -> dict:
    return json.loads((bundle / "report.json").read_text())


def test_the_file_and_the_table_are_of_this_dialect(bundle: Path) -> None:
    kinds = {tensor.data_type for tensor in onnx.load(bundle / "model.int8.onnx").graph.initializer}
    assert onnx.TensorProto.UINT8 in kinds
    assert onnx.TensorProto.INT32 in kinds
    table = CalibrationTable.from_json(json.loads((bundle / "calibration.json").read_text()))
    assert table.dialect is Dialect.ONNXRUNTIME
    assert {kept.dtype for kept in table.ranges.values()} == {"uint8"}
    assert load_manifest(bundle).target == "onnxruntime"


def test_the_answers_are_right_on_every_cpu(report: dict) -> None:
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["PyTorch FP32", "ONNX FP32", "ONNX INT8"]
    assert rows["ONNX INT8"]["parity"]["sqnr_db"] > 30
    assert rows["ONNX INT8"]["parity"]["top1_drop_pp"] <= 0.5
    assert rows["ONNX INT8"]["size_bytes"] < 0.33 * rows["ONNX FP32"]["size_bytes"]


def test_what_a_session_without_options_answers_is_told_where_it_differs(report: dict, capsys) -> None:
    default = report["int8_default_kernels"]
    print_result(report)
    printed = capsys.readouterr().out
    assert "session.x64quantprecision=1" in printed
    if why_int8_saturates():
        assert default["name"] == ROW
        assert default["file"] == "model.int8.onnx"
        exact = next(row for row in report["rows"] if row["name"] == "ONNX INT8")
        assert default["parity"]["sqnr_db"] < exact["parity"]["sqnr_db"]
        assert "has no VNNI" in report["int8_arithmetic"]
        assert ROW in printed
    else:
        assert default is None
        assert ROW not in printed


@pytest.mark.parametrize("why", ["AMD EPYC has no VNNI: it may saturate", ""])
def test_the_note_says_which_kernels_ran(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    monkeypatch.setattr(measuring, "why_int8_saturates", lambda: why)
    note = measuring.int8_kernels_note()
    assert "session.x64quantprecision=1" in note
    assert (why in note and ROW in note) if why else note.startswith("They are exact on this CPU")


def test_tensorrt_is_not_asked_to_build_it(bundle: Path, capsys) -> None:
    pytest.importorskip("tensorrt_rtx", reason="the TensorRT-RTX builder is not installed")
    assert main(["build", str(bundle), "--int8", "--rtx"]) == 2
    assert "was exported for onnxruntime: TensorRT does not read its INT8 model" in capsys.readouterr().err


def test_an_engine_of_it_is_refused_before_anything_runs(tmp_path: Path, capsys) -> None:
    words = ["cifar_resnet20", "--weights", DIGITS_WEIGHTS, "--int8", "--calib", tmp_path, "--target", "onnxruntime"]
    assert main([str(word) for word in [*words, "--engine", "--rtx", "-o", tmp_path / "out"]]) == 2
    assert "writes INT8 that TensorRT does not read" in " ".join(capsys.readouterr().err.split())


def test_it_is_said_that_arm_processors_add_in_float16(tmp_path: Path, digits_folder: Path) -> None:
    """On an emulated Cortex-A76 the FP16 file answers with 46 instead of 62 dB: docs/sessions.md."""
    words = ["cifar_resnet20", "--weights", DIGITS_WEIGHTS, "--fp16", "--target", "onnxruntime", "-o", tmp_path / "b"]
    assert main([*map(str, words), "--quiet"]) == 0
    warnings = json.loads((tmp_path / "b" / "report.json").read_text())["warnings"]
    assert sum("ARM processors" in warning for warning in warnings) == 1
