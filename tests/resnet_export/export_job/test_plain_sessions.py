"""What a plain ONNX Runtime session answers is part of the export's table and of `verify`'s gates."""

from __future__ import annotations

import json

import pytest
from cli_runs import export_small

from resnet_export.console.result_table import print_result
from resnet_export.main import main
from runtimes.ort import plain_session
from runtimes.ort.plain_session import PlainSession


def verdicts(bundle, tmp_path):
    """Return exit code, the `plain_session` gate per file and the causes of a verification."""
    path = tmp_path / "verify.json"
    code = main(["verify", str(bundle), "--quiet", "--json", str(path)])
    report = json.loads(path.read_text())
    gates = {
        file["name"]: gate for file in report["files"] for gate in file["gates"] if gate["name"] == "plain_session"
    }
    return code, gates, report["causes"]


def test_the_table_has_a_row_for_it(digits_bundle, capsys):
    report = json.loads((digits_bundle / "report.json").read_text())
    (row,) = report["plain_sessions"]
    assert (row["name"], row["file"]) == ("ONNX INT8, plain session", "model.int8.onnx")
    written = next(one for one in report["rows"] if one["file"] == "model.int8.onnx")
    assert row["parity"]["sqnr_db"] > written["parity"]["sqnr_db"] - 1
    print_result(report)
    lines = [
        line
        for line in capsys.readouterr().out.splitlines()
        if "INT8" in line and "%" in line and "OpenVINO" not in line
    ]
    assert [" ms" in line for line in lines] == [False, True]  # timed is the session whose answers stand beside it


def test_verify_judges_it(digits_bundle, tmp_path):
    code, gates, causes = verdicts(digits_bundle, tmp_path)
    assert (code, causes) == (0, [])
    assert {name: gate["verdict"] for name, gate in gates.items()} == {"model.int8.onnx": "pass"}
    assert "in a plain ONNX Runtime session" in gates["model.int8.onnx"]["sentence"]


def test_an_export_whose_plain_session_is_wrong_is_refused(small_weights, digits_folder, tmp_path, monkeypatch, capsys):
    found = PlainSession(33.0, 5.0, "because of this")
    monkeypatch.setattr(plain_session, "compare_plain_session", lambda *given: found)
    options = ("--int8", "--effort", 0, "--num-calib", 32, "--quiet")
    assert export_small(small_weights, digits_folder, tmp_path / "bundle", *options) == 1
    assert "model.int8.onnx answers otherwise than it says" in (told := capsys.readouterr().err)
    assert "because of this" in told
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("word", ["warning", "refused"])
def test_a_wrong_plain_session_fails_unless_it_is_this_cpus_doing(digits_bundle, tmp_path, monkeypatch, word):
    found = PlainSession(33.0, 5.0, "why", saturates=word == "warning")
    monkeypatch.setattr(plain_session, "compare_plain_session", lambda *given: found)
    code, gates, causes = verdicts(digits_bundle, tmp_path)
    assert (code, gates["model.int8.onnx"]["verdict"]) == ((0, "skipped") if word == "warning" else (1, "fail"))
    assert [cause["sentence"] for cause in causes] == ([] if word == "warning" else ["why"])
