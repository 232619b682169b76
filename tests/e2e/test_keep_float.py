"""`--keep-float` from the command to the engine: what stays in float, what is said of it, and that it still builds."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_runs import export_small
from onnx import numpy_helper

import resnet_export as rx
from exporter.engines.build import build_engine
from resnet_export.export_job import quantize as quantize_step
from resnet_export.main import main

KEPT = ("layer1.0", "layer3.0.conv2", "fc")
IN_FLOAT = {"layer1.0.conv1", "layer1.0.conv2", "layer3.0.conv2", "fc"}


@pytest.fixture(scope="module")
def rounded() -> list[bool]:
    """Whether each refinement of the run below rounded weights."""
    return []


@pytest.fixture(scope="module")
def bundle(
    small_weights: Path, digits_folder: Path, tmp_path_factory: pytest.TempPathFactory, rounded: list[bool]
) -> Path:
    """A small digits network with some layers in float, from a few images."""
    output = tmp_path_factory.mktemp("kept") / "bundle"
    words = ("--int8", "--num-calib", 32, "--val", digits_folder / "val", "--num-val", 40, "--quiet")
    real = quantize_step.quantize_model.insert_and_refine

    def noted(*arguments, round_weights=True, **options):
        rounded.append(round_weights)
        return real(*arguments, round_weights=round_weights, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantize_step.quantize_model, "insert_and_refine", noted)
        assert export_small(small_weights, digits_folder, output, *words, "--keep-float", ",".join(KEPT)) == 0
    return output


def test_these_layers_and_no_others_have_float_weights(bundle):
    model = onnx.load(bundle / "model.int8.onnx")
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    layers = {node.name: node.input[1] for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    assert {name for name, weight in layers.items() if weight in stored} == IN_FLOAT
    assert all(stored[layers[name]].dtype == np.float32 for name in IN_FLOAT)


def test_the_report_says_what_it_gained_and_cost(bundle):
    kept = json.loads((bundle / "report.json").read_text())["keep_float"]
    assert set(kept["names"]) == set(KEPT)
    assert set(kept["layers"]) == IN_FLOAT
    assert kept["more_bytes"] == 3 * (2 * 16 * 16 * 9 + 64 * 64 * 9 + 64 * 10)
    assert 0 < kept["share_of_macs"] < 0.7
    assert kept["sqnr_db_with"] > kept["sqnr_db_without"]
    assert kept["compared_before_rounding"]
    assert "both before weights were rounded" in kept["statement"]


def test_weights_are_rounded_once(bundle, rounded):
    """The comparison takes the cheap step only, on both sides."""
    assert rounded == [True, False, False]


def test_verify_s_page_repeats_it(bundle, digits_folder, tmp_path):
    page = tmp_path / "page.html"
    words = ("verify", bundle, "--val", digits_folder / "val", "--num-val", 40, "--html", page, "--quiet")
    assert main([str(word) for word in words]) in (0, 3)
    assert "By --keep-float: layer1.0, layer3.0.conv2, fc (4 layers)" in page.read_text(encoding="utf-8")


def test_sensitivity_offers_what_is_in_float_already_too(bundle, digits_folder):
    """What it prints to copy would else put the bundle's own layers back into INT8."""
    offered = rx.sensitivity(bundle, digits_folder / "calib", num_calib=32, num_images=2).content["keep_float"]
    assert offered.split(",")[: len(KEPT)] == list(KEPT)
    assert len(offered.split(",")) > len(KEPT)


@pytest.mark.tensorrt
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
def test_tensorrt_rtx_builds_it(bundle):
    assert len(build_engine(bundle / "model.int8.onnx", flavor="rtx")) > 10_000


def test_a_name_that_nothing_has(small_weights, digits_folder, tmp_path, capsys):
    words = ("--int8", "--num-calib", 32, "--keep-float", "layer1.0,layer9")
    assert export_small(small_weights, digits_folder, tmp_path / "bundle", *words) == 2
    error = capsys.readouterr().err
    assert "'layer9'" in error
    assert "nearest: layer" in error
    assert not (tmp_path / "bundle").exists()
