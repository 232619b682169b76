"""What counts as moved, and what is noise."""

import copy
import json
from pathlib import Path

import pytest
from verify_reports import comparison, report

from runtimes.verification.baseline import BaselineError, compare_baseline, load_baseline
from runtimes.verification.report import with_baseline

PATH = Path("before.json")


def moved(now, before):
    found = compare_baseline(report(now), report(before), PATH)
    return found["verdict"], {change["metric"]: change["verdict"] for change in found["changes"]}


def test_the_same_has_not_moved():
    verdict, changes = moved(comparison(0.05), comparison(0.05))
    assert verdict == "pass"
    assert set(changes.values()) == {"same"}
    assert {"sqnr_db", "relative_max_diff", "kl", "agreement", "top1_candidate"} == changes.keys()


def test_a_little_more_noise_is_noise_and_much_more_is_worse():
    assert moved(comparison(0.052), comparison(0.05))[0] == "pass"
    verdict, changes = moved(comparison(0.15), comparison(0.05))
    assert verdict == "fail"
    assert changes["sqnr_db"] == changes["kl"] == changes["relative_max_diff"] == "worse"
    assert changes["agreement"] == "same"


def test_less_noise_is_better_and_passes():
    verdict, changes = moved(comparison(0.05), comparison(0.15))
    assert verdict == "pass"
    assert changes["sqnr_db"] == "better"


def test_rounding_of_float32_does_not_count():
    assert moved(comparison(1e-6), comparison(1e-8))[0] == "pass"
    assert moved(comparison(1e-6), comparison(0.0))[0] == "pass"
    assert moved(comparison(0.05), comparison(0.0))[0] == "fail"


def test_answers_move_when_their_intervals_part():
    assert moved(comparison(0.05, num_flips=3), comparison(0.05))[1]["agreement"] == "same"
    verdict, changes = moved(comparison(0.05, num_flips=30), comparison(0.05))
    assert verdict == "fail"
    assert changes["agreement"] == changes["top1_candidate"] == "worse"


def test_fewer_images_or_no_file_any_more_is_a_failure():
    assert moved(comparison(0.05, num_images=300), comparison(0.05))[1]["num_images"] == "missing"
    other = compare_baseline(report(comparison(0.05), name="other.onnx"), report(comparison(0.05)), PATH)
    assert other["verdict"] == "fail"
    assert "not in this run" in other["statement"]


def test_labels_that_are_gone_are_missed():
    now = report(comparison(0.05))
    now["files"][0]["comparisons"][0]["metrics"]["top1_candidate"] = None
    assert compare_baseline(now, report(comparison(0.05)), PATH)["verdict"] == "fail"


def test_a_worse_baseline_fails_a_report_that_passes():
    now = report(comparison(0.15))
    assert now["exit_code"] == 0
    laid_in = with_baseline(now, compare_baseline(now, report(comparison(0.05)), PATH))
    assert (laid_in["verdict"], laid_in["exit_code"]) == ("fail", 1)
    assert "worse than the baseline of 2026-11-22" in laid_in["summary"]
    assert now["baseline"] is None


def test_versions_that_changed_are_named():
    now = copy.deepcopy(report(comparison(0.05)))
    now["environment"]["onnxruntime"] = "1.32.0"
    assert "onnxruntime 1.31.1 to 1.32.0" in compare_baseline(now, report(comparison(0.05)), PATH)["statement"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "not JSON"),
        ("[]", "schema None"),
        ('{"schema_version": 99, "files": []}', "schema 99"),
        (None, "cannot be"),
        ("folder", "Is a directory"),
    ],
)
def test_what_is_no_report_is_refused(tmp_path, text, problem):
    path = tmp_path / "before.json"
    if text == "folder":
        path.mkdir()
    elif text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(BaselineError, match=rf"{problem}.*; expected what `verify BUNDLE --json FILE` wrote"):
        load_baseline(path)


def test_a_report_that_lacks_a_key_is_refused(tmp_path):
    content = report(comparison(0.05))
    del content["files"][0]["comparisons"][0]["metrics"]["kl"]
    path = tmp_path / "before.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(BaselineError, match="kl"):
        compare_baseline(report(comparison(0.05)), load_baseline(path), path)
