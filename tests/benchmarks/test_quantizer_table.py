"""Tables, targets, merging and the markers in a document, from results written by hand."""

from __future__ import annotations

import json

import pytest

from benchmarks import quantizer_targets
from benchmarks.quantizer_result import RowResult, RunResult, merged
from benchmarks.quantizer_settings import SETTINGS, chosen
from benchmarks.quantizer_table import markdown, write_between_markers


def row(name, *, sqnr=30.0, role="", dialect="TensorRT", reasons=(), **values) -> RowResult:
    accuracy = {
        "num_images": 1000,
        "sqnr_db": sqnr,
        "agreement": 0.995,
        "kl_softmax": 0.0002,
        "top1_float": 0.75,
        "top1": 0.748,
        "num_lost": 5,
        "num_gained": 3,
        "p_value": 0.7265625,
    }
    return RowResult(
        name=name,
        role=role,
        seconds=[2.0, 4.0, 3.0],
        times_forward=[1.0, 2.5, 1.5],
        peak_bytes=[500_000_000],
        imported_bytes=[60_000_000],
        versions={"onnx": "1.23.2"},
        dialect={"name": dialect, "reasons": list(reasons), "num_weighted": 21, "num_integer": 20},
        file_share=0.253,
        accuracy={"exact": accuracy, **values.pop("modes", {})},
        latency_ms=[10.0, 30.0, 20.0],
        **values,
    )


def run_of(*rows, **values) -> RunResult:
    given = {
        "network": "net at 32x32",
        "model_sha256": "ab",
        "images": "10 calibration images",
        "machine": "2 cores",
        "load": 0.1,
        "date": "2026-11-22",
        "batch_size": 2,
        "repeats": 3,
        "versions": {"onnxruntime": "1.31.1"},
        "float_bytes": 44_700_000,
        "float_latency_ms": [40.0],
        "forward_seconds": [2.0],
        "forward_peak_bytes": [300_000_000],
        "float_top1": 0.75,
        "rows": list(rows),
    }
    return RunResult(**{**given, **values})


def cells(text: str, name: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {name} ")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_row_as_printed():
    text = markdown(run_of(row("resnet-export mse")))
    assert cells(text, "resnet-export mse") == [
        "resnet-export mse",
        "TensorRT",
        "20 of 21",
        "30.0 dB",
        "-",
        "99.50 %",
        "0.00020",
        "74.80 %",
        "+0.20 (p = 0.73)",
        "1.50",
        "0.50 GB (0.06 GB)",
        "20.00 ms",
        "25.3 %",
    ]


def test_every_line_of_the_table_has_as_many_cells():
    failed = RowResult("peer b", error="no wheel | for this Python")
    text = markdown(run_of(row("resnet-export mse"), row("peer a", dialect="ONNX Runtime", reasons=["x", "y"]), failed))
    widths = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(widths) == 1
    assert "- peer b: no wheel | for this Python" in text


def test_other_dialects_say_why_and_how_onnx_runtime_runs_them():
    modes = {"default": {"sqnr_db": 16.0}, "precise": {"sqnr_db": 32.0}}
    text = markdown(run_of(row("peer", dialect="ONNX Runtime", reasons=["UINT8 activations"], modes=modes)))
    assert cells(text, "peer")[1:5] == ["ONNX Runtime (UINT8 activations)", "20 of 21", "30.0 dB", "16.0 dB / 32.0 dB"]


def test_without_labels_and_without_accuracy_the_columns_are_gone():
    unlabelled = row("peer")
    unlabelled.accuracy["exact"] |= {"top1": None, "top1_float": None, "p_value": None}
    assert "top-1" not in markdown(run_of(unlabelled, float_top1=None))
    speed = row("peer")
    speed.accuracy = {}
    text = markdown(run_of(speed, float_top1=None))
    assert "SQNR" not in text
    assert cells(text, "peer")[3] == "1.50"


def test_a_busy_machine_is_told():
    assert "busy" not in markdown(run_of(row("peer")))
    assert "load average 3.2" in markdown(run_of(row("peer"), load=3.2))


def test_json_gives_the_run_again():
    run = run_of(row("a"), RowResult("b", error="failed"))
    assert RunResult.from_json(json.loads(json.dumps(run.to_json()))) == run


def test_merging_keeps_the_first_and_refuses_other_networks():
    first, second = run_of(row("a")), run_of(row("a", sqnr=1.0), row("b"), date="2026-11-23")
    both = merged([first, second])
    assert [(item.name, item.measured("sqnr_db")) for item in both.rows] == [("a", 30.0), ("b", 30.0)]
    assert both.date == "2026-11-22 and 2026-11-23"
    with pytest.raises(ValueError, match="differ in model_sha256"):
        merged([first, run_of(model_sha256="cd")])


def test_targets_are_held_against_the_best_peer():
    run = run_of(
        row("resnet-export mse", role="default", sqnr=33.0),
        row("onnxruntime MinMax", sqnr=24.0),
        row("modelopt max", sqnr=26.0),
        row("nncf default", sqnr=99.0, dialect="ONNX Runtime", reasons=["UINT8 activations"]),
        row("aimet tf_enhanced", sqnr=31.5, dialect="ONNX Runtime", reasons=["UINT8 activations"]),
    )
    found = {target.measure: target for target in quantizer_targets.targets(run)}
    legal = found["SQNR, TensorRT dialect, dB"]
    assert (legal.bound, legal.source, legal.missed_by) == (34.0, "modelopt max + 8", 1.0)
    assert found["SQNR, dB"].missed_by == pytest.approx(0.5)
    assert found["agreement, %"].missed_by == 0.0
    assert "missed by 1 |" in quantizer_targets.markdown(run)
    assert "No row of ours" in quantizer_targets.markdown(run_of(row("modelopt max")))


def test_only_names_rows_by_their_beginnings():
    names = [setting.name for setting in chosen("nncf default,resnet-export p", second_order=False)]
    assert names == ["nncf default", "resnet-export percentile, effort 0"]
    with pytest.raises(ValueError, match="got 'tensorflow'"):
        chosen("tensorflow", second_order=False)
    assert any(setting.second_order for setting in chosen(None, second_order=True))
    assert not any(setting.second_order for setting in chosen(None, second_order=False))
    assert len({setting.name for setting in SETTINGS}) == len(SETTINGS)


def test_the_text_goes_between_its_markers(tmp_path):
    document = tmp_path / "int8.md"
    document.write_text("a\n<!-- table:one -->\nold\n<!-- /table:one -->\n<!-- table:two --><!-- /table:two -->\nz\n")
    write_between_markers(document, "one", r"| new \1 |")
    write_between_markers(document, "one", r"| new \1 |")
    assert document.read_text() == (
        "a\n<!-- table:one -->\n\n| new \\1 |\n\n<!-- /table:one -->\n<!-- table:two --><!-- /table:two -->\nz\n"
    )
    with pytest.raises(ValueError, match="table:three"):
        write_between_markers(document, "three", "x")
