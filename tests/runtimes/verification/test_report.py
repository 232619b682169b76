import json

from verify_reports import check, comparison, report

from runtimes.verification import Verdict
from runtimes.verification.report import FileReport, Setting, build_report

SETTING = Setting({}, {}, {"path": "x"}, {}, {}, None)


def test_the_report_is_json_and_says_what_was_found():
    content = report(comparison(0.05))
    assert json.loads(json.dumps(content, allow_nan=False)) == content
    assert (content["verdict"], content["exit_code"]) == ("pass", 0)
    (file,) = content["files"]
    assert [gate["verdict"] for gate in file["gates"]] == ["pass"] * 3
    assert file["comparisons"][0]["metrics"]["num_images"] == 400


def test_a_failure_is_the_summary():
    content = report(comparison(0.05, num_flips=100))
    assert (content["verdict"], content["exit_code"]) == ("fail", 1)
    assert "model.int8.onnx, val: " in content["summary"]
    assert content["files"][0]["comparisons"][0]["flips"][0]["margin"] > 0


def test_a_file_without_a_gate_that_passed_is_not_hidden_by_one_that_did():
    good, empty = FileReport("good", gates=[check(Verdict.PASS)]), FileReport("empty", gates=[check(Verdict.SKIPPED)])
    content = build_report(SETTING, [good, empty])
    assert (content["verdict"], content["exit_code"]) == ("inconclusive", 3)
    assert "empty" in content["summary"]


def test_no_file_at_all_is_inconclusive():
    assert build_report(SETTING, [])["exit_code"] == 3
