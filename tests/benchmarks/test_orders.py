"""The orders of calibration images on a tiny bundle, and the table from figures given by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_bundle import small_models, write_bundle

from benchmarks.orders import Seen, cell, markdown, views
from benchmarks.quantizer_statistics import Accuracy

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "orders.py"


def accuracy(sqnr_db: float, agreement: float, kl: float) -> Accuracy:
    return Accuracy(94, sqnr_db, agreement, kl, None, None, None, None, None)


@pytest.fixture
def inputs(tmp_path):
    """A bundle, 16 calibration images and 4 others."""
    write_bundle(tmp_path / "tiny", {"fp32": small_models()["fp32"]})
    random = np.random.default_rng(0)
    for folder, count in (("calib", 16), ("val", 4)):
        (tmp_path / folder).mkdir()
        for number in range(count):
            Image.fromarray(random.integers(0, 256, (24, 24, 3), np.uint8)).save(tmp_path / folder / f"{number}.png")
    return tmp_path


def test_a_bundle_in_two_orders(inputs):
    command = [sys.executable, str(SCRIPT), "tiny", "--calib", "calib", "--val", "val", "--orders", "2"]
    command += ["--num-images", "8", "--only", "resnet-export mse, effort 0,onnxruntime MinMax"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=inputs)
    assert done.returncode == 0, done.stderr
    head, _, *rows = [line for line in done.stdout.splitlines() if line.startswith("|")]
    assert head == "| network | on | TensorRT: effort 0 | peer | peer |"
    assert [row.split(" | ")[:2] for row in rows] == [["| tiny", "photographs"], ["| tiny", "views"]]
    for row in rows:
        assert row.count("dB") == 1, "of one row there are figures"
        assert row.endswith("| failed | failed |"), "the peer has no environment"
        assert 10 < float(row.split(" | ")[2].split()[0]) < 80
    assert "order 1, onnxruntime MinMax: failed: no environment" in done.stderr


def test_a_peer_is_the_better_one_of_each_order():
    seen = [
        Seen(0, "onnxruntime MinMax", (accuracy(20.0, 0.9, 0.02), accuracy(21.0, 0.9, 0.02))),
        Seen(0, "onnxruntime Percentile", (accuracy(22.0, 0.8, 0.01), accuracy(19.0, 0.8, 0.01))),
        Seen(1, "onnxruntime MinMax", (accuracy(24.0, 1.0, 0.03), accuracy(25.0, 1.0, 0.03))),
        Seen(1, "onnxruntime Percentile", ()),
    ]
    assert markdown({"net": seen}).splitlines()[2:] == [
        "| net | photographs | 22.0 to 24.0 dB, 80.0 to 100.0 %, 0.01 to 0.03 |",
        "| net | views | 21.0 to 25.0 dB, 90.0 to 100.0 %, 0.02 to 0.03 |",
    ]


def test_figures_are_ordered_as_numbers():
    assert (
        cell([accuracy(9.5, 1.0, 1e-5), accuracy(10.0, 0.956, 0.1)]) == "9.5 to 10.0 dB, 95.6 to 100.0 %, 1e-05 to 0.1"
    )


def test_views_are_the_mirrored_picture_and_three_parts():
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8))
    mirrored, *parts = views(picture, np.random.default_rng(0))
    np.testing.assert_array_equal(np.asarray(mirrored), np.asarray(picture)[:, ::-1])
    assert len(parts) == 3
    for part in parts:
        assert 0.5 < part.width / picture.width <= 0.9
        assert 0.5 < part.height / picture.height <= 0.9
