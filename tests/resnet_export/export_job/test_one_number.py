"""A network of one output has no best class: no agreement is claimed of it, and nothing is asked that needs classes."""

from __future__ import annotations

import json

import pytest

from resnet_export.console.result_table import print_result
from resnet_export.main import main

MODEL = ("cifar_resnet20", "--weights", "random", "--num-classes", "1", "--quiet")


def test_no_agreement_is_claimed(digits_folder, tmp_path, capsys):
    given = ("--int8", "--effort", "0", "--calib", str(digits_folder), "--num-calib", "32")
    assert main([*MODEL, *given, "-o", str(tmp_path / "bundle")]) == 0
    report = json.loads((tmp_path / "bundle" / "report.json").read_text())
    parities = [row["parity"] for row in (*report["rows"], *report["plain_sessions"])]
    assert [parity["agreement"] for parity in parities] == [None] * 4
    assert parities[2]["sqnr_db"] > 10
    capsys.readouterr()
    print_result(report)
    assert "%" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "option", [("--softmax",), ("--topk", "1"), ("--int8", "--calib", "{images}", "--min-agreement", "0.99")]
)
def test_what_needs_classes_is_refused(digits_folder, tmp_path, capsys, option):
    words = [word.format(images=digits_folder) for word in option]
    assert main([*MODEL, *words, "-o", str(tmp_path / "bundle")]) == 2
    assert "needs logits of several classes, and this model gives one number" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_verify_judges_by_noise_and_leaves_out_what_needs_classes(digits_folder, tmp_path, capsys):
    bundle, path = tmp_path / "bundle", tmp_path / "verify.json"
    given = ("--int8", "--effort", "0", "--calib", str(digits_folder), "--num-calib", "32")
    assert main([*MODEL, *given, "-o", str(bundle)]) == 0
    assert main(["verify", str(bundle), "--json", str(path), "--html", str(tmp_path / "verify.html"), "--quiet"]) == 0
    report = json.loads(path.read_text())
    (int8,) = (file for file in report["files"] if file["name"] == "model.int8.onnx")
    verdicts = {gate["name"]: gate["verdict"] for gate in int8["gates"]}
    assert verdicts["sqnr_db"] == "pass"
    assert verdicts["agreement"] == verdicts["top1_drop_pp"] == "skipped"
    (metrics,) = (part["metrics"] for part in int8["comparisons"])
    assert metrics["sqnr_db"] > 10
    assert metrics["agreement"] is metrics["agreement_interval"] is metrics["kl"] is None
    assert "Not told: one number has no best class" in (tmp_path / "verify.html").read_text()
    assert main(["verify", str(bundle), "--gate", "agreement=0.9", "--quiet"]) == 3
