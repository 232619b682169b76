"""The command with a cache, and on images that cannot be right: what it says and what it writes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from cli_runs import export_small
from PIL import Image

QUICK = ("--int8", "--effort", 0, "--num-calib", 64, "--quiet")


@pytest.fixture(scope="module")
def first(tmp_path_factory, small_weights, digits_folder):
    """A run with an empty cache: (cache folder, bundle)."""
    folder = tmp_path_factory.mktemp("trust")
    assert export_small(small_weights, digits_folder, folder / "first", *QUICK, "--calib-cache", folder / "cache") == 0
    return folder / "cache", folder / "first"


def report_of(bundle: Path):
    return json.loads((bundle / "report.json").read_text())


def cache_lines(report):
    lines = [*report["steps"], *report["warnings"]]
    return [line.removeprefix("calibration cache: ") for line in lines if line.startswith("calibration cache: ")]


def test_the_first_run_is_a_miss_and_stores_one_entry(first):
    cache, bundle = first
    assert cache_lines(report_of(bundle)) == ["miss, nothing is stored for small_digits.SmallResNet"]
    assert len(list(cache.iterdir())) == 1


def test_a_hit_writes_the_same_bytes_and_another_method_is_a_miss(
    first, small_weights, digits_folder, tmp_path, capsys
):
    cache, bundle = first
    options = (*QUICK, "--calib-cache", cache)
    assert export_small(small_weights, digits_folder, tmp_path / "again", *options) == 0
    assert "hit" in cache_lines(report_of(tmp_path / "again"))[0]
    for name in ("calibration.json", "model.int8.onnx"):
        assert (tmp_path / "again" / name).read_bytes() == (bundle / name).read_bytes()
    assert report_of(tmp_path / "again")["calibration"] == report_of(bundle)["calibration"]

    assert export_small(small_weights, digits_folder, tmp_path / "other", *options, "--method", "percentile") == 0
    assert cache_lines(report_of(tmp_path / "other")) == [
        "miss, since the newest entry of small_digits.SmallResNet there changed: method"
    ]


def test_auto_says_what_it_chose_and_a_hit_chooses_the_same(small_weights, digits_folder, tmp_path):
    """What is stored are the candidates: the choice is made anew, and comes out the same."""
    for name in ("first", "again"):
        options = (*QUICK, "--num-calib", 32, "--calib-cache", tmp_path / "cache", "--method", "auto")
        assert export_small(small_weights, digits_folder, tmp_path / name, *options) == 0
    reports = [report_of(tmp_path / name) for name in ("first", "again")]
    assert ["hit" in cache_lines(report)[0] for report in reports] == [False, True]
    tables = [(tmp_path / name / "calibration.json").read_bytes() for name in ("first", "again")]
    assert tables[0] == tables[1]
    assert "candidates" not in json.loads(tables[0])
    for report in reports:
        (line,) = (line for line in report["steps"] if line.startswith("ranges chosen by what reaches the logits: "))
        assert " by mse" in line


def test_a_damaged_entry_is_told_and_the_result_is_the_same(first, small_weights, digits_folder, tmp_path, capsys):
    cache, bundle = first
    damaged = tmp_path / "cache"
    shutil.copytree(cache, damaged)
    for entry in damaged.iterdir():
        entry.write_bytes(entry.read_bytes()[:100])
    assert export_small(small_weights, digits_folder, tmp_path / "again", *QUICK, "--calib-cache", damaged) == 0
    assert "is damaged" in capsys.readouterr().err
    assert (tmp_path / "again" / "model.int8.onnx").read_bytes() == (bundle / "model.int8.onnx").read_bytes()


def test_off_keeps_nothing(first, small_weights, digits_folder, tmp_path, cache_folder):
    _, bundle = first
    before = sorted(cache_folder.rglob("*"))
    assert export_small(small_weights, digits_folder, tmp_path / "off", *QUICK, "--calib-cache", "off") == 0
    assert cache_lines(report_of(tmp_path / "off")) == []
    assert sorted(cache_folder.rglob("*")) == before
    assert (tmp_path / "off" / "model.int8.onnx").read_bytes() == (bundle / "model.int8.onnx").read_bytes()


def test_honest_images_and_weights_get_no_warning(main_bundle):
    report = report_of(main_bundle)
    assert report["warnings"] == []
    calibration = report["calibration"]
    assert calibration["input_warnings"] == []
    assert [each for each in calibration["quantizability"] if each["severity"] == "warning"] == []
    assert calibration["convergence"]["num_images"] == calibration["num_images"]
    assert calibration["convergence"]["images_until_settled"]["0.05"] is not None
    curves = json.loads((main_bundle / "calibration.json").read_text())["observed"]["convergence"]
    assert curves["num_images"][:3] == [1, 2, 4]
    assert all(len(curve) == len(curves["num_images"]) for curve in curves["amax"].values())


def test_a_folder_of_noise_is_told(small_weights, digits_folder, tmp_path, capsys):
    generator = np.random.default_rng(1)
    (tmp_path / "digits" / "calib").mkdir(parents=True)
    for number in range(48):
        picture = Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        picture.save(tmp_path / "digits" / "calib" / f"{number}.png")
    assert export_small(small_weights, tmp_path / "digits", tmp_path / "out", *QUICK) == 0
    (warning,) = report_of(tmp_path / "out")["calibration"]["input_warnings"]
    assert warning["kind"] == "random noise"
    assert "random noise" in capsys.readouterr().err
