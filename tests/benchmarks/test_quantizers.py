"""The whole comparison on a tiny network, with our rows and a peer that has no environment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from graph_builder import GraphBuilder
from PIL import Image

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "quantizers.py"
ROWS = "resnet-export max,nncf default"


def write_pictures(folder: Path, count: int, random: np.random.Generator) -> None:
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(random.integers(0, 256, (8, 8, 3), np.uint8)).save(folder / f"{number}.png")


@pytest.fixture
def inputs(tmp_path):
    """model.onnx of two classes, 32 calibration images, 8 + 8 validation images."""
    graph = GraphBuilder(channels=3)
    graph.gemm("fc", graph.node("Relu", "relu", graph.conv("conv", "input", 8)), 2, transB=1)
    onnx.save_model(graph.model("fc", opset=20), tmp_path / "model.onnx")
    random = np.random.default_rng(0)
    write_pictures(tmp_path / "calib", 32, random)
    for name in ("cat", "dog"):
        write_pictures(tmp_path / "val" / name, 8, random)
    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "int8.md").write_text("text\n<!-- table:tiny -->\n<!-- /table:tiny -->\n")
    return tmp_path


def compare(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "model.onnx", "--resize", "8x8", "--calib", "calib", "--only", ROWS, *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder)


def test_with_labels(inputs):
    measured = ("--val", "val", "--labels", "labels.txt", "--repeat", "2")
    done = compare(inputs, *measured, "--json", "run.json", "--write", "int8.md", "--table", "tiny")
    assert done.returncode == 0, done.stderr
    run = json.loads((inputs / "run.json").read_text())
    ours, peer = run["rows"]
    assert run["images"] == "32 calibration images, 16 held-out images"
    assert (ours["dialect"]["name"], ours["dialect"]["num_integer"], ours["error"]) == ("TensorRT", 2, "")
    assert ours["accuracy"]["exact"]["num_images"] == 16
    assert 10 < ours["accuracy"]["exact"]["sqnr_db"] < 80
    assert ours["accuracy"]["exact"]["top1_float"] == run["float_top1"]
    assert len(ours["seconds"]) == len(ours["latency_ms"]) == len(run["forward_seconds"]) == 2
    assert ours["peak_bytes"][0] >= ours["imported_bytes"][0] > 10_000_000
    assert peer["error"] == "no environment; --create-environments DIR makes it"
    document = (inputs / "int8.md").read_text()
    assert "| resnet-export max, effort 0 | TensorRT | 2 of 2 |" in document
    assert "- nncf default: no environment" in document


def test_speed_only_reads_no_labels(inputs):
    done = compare(inputs, "--val", "not there", "--speed-only", "--json", "run.json")
    assert done.returncode == 0, done.stderr
    ours = json.loads((inputs / "run.json").read_text())["rows"][0]
    assert (ours["accuracy"], len(ours["seconds"]), len(ours["latency_ms"])) == ({}, 1, 1)
    assert "SQNR" not in done.stdout
    again = subprocess.run(
        [sys.executable, str(SCRIPT), "--merge", "run.json"], capture_output=True, text=True, cwd=inputs
    )
    assert again.stdout == done.stdout, "merging prints without measuring"
    assert again.stderr == ""


def test_an_onnx_file_needs_its_preprocessing(inputs):
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "model.onnx", "--calib", "calib"], capture_output=True, text=True, cwd=inputs
    )
    assert done.returncode != 0
    assert "give --resize or --input-size" in done.stderr
