"""Whole runs of the command on an ONNX file, with features, and with a camera frame as input."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from block_models import trained
from cli_runs import export_small
from PIL import Image
from small_digits import MODEL

import resnet_export as rx
from resnet_export.main import main
from runtimes.bundle.manifest import check_files, load_manifest
from runtimes.ort.adapter import OrtRuntime


@pytest.fixture(scope="module")
def onnx_file(tmp_path_factory) -> Path:
    """What a plain `torch.onnx.export(model, (image,), path)` writes: fixed batch, weights beside the file."""
    path = tmp_path_factory.mktemp("elsewhere") / "theirs.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(trained("bottleneck"), (torch.zeros(1, 3, 64, 64),), path, verbose=False)
    return path


def test_an_onnx_file_goes_through(onnx_file, photo_folder, tmp_path, capsys):
    output = tmp_path / "bundle"
    words = [str(onnx_file), "--int8", "--fp16", "--calib", str(photo_folder), "-o", str(output), "--json"]
    assert main(words) == 0
    captured = capsys.readouterr()
    report = json.loads(captured.out)
    assert "ImageNet's mean and standard deviation are assumed" in captured.err.replace("\n", " ")
    names = ["original FP32", "ONNX FP32", "ONNX FP16", "ONNX INT8", "ONNX INT8+FP16"]
    assert [row["name"] for row in report["rows"]] == names
    assert report["reference"] == "the original file"
    by_name = {row["name"]: row["parity"] for row in report["rows"]}
    assert by_name["ONNX FP32"]["agreement"] == 1.0
    assert by_name["ONNX FP32"]["sqnr_db"] > 90
    assert by_name["ONNX INT8"]["sqnr_db"] > 20
    manifest = load_manifest(output)
    check_files(output, manifest)
    assert manifest.model["source"] == "onnx"
    assert manifest.model["id"] == "theirs"
    assert manifest.quantization is not None
    assert manifest.quantization["residual_adds_quantized"] == manifest.quantization["residual_adds"] == 2


def test_an_onnx_file_that_is_none(tmp_path, capsys):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    assert main([str(path), "--fp16", "-o", str(tmp_path / "bundle")]) == 2
    assert "is not an ONNX file" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()


def test_a_camera_frame_and_the_five_best(small_weights, photo_folder, tmp_path, capsys):
    """The bundle's own words are enough to classify a picture: no mean, no std, no softmax outside the file."""
    output = tmp_path / "bundle"
    words = [MODEL, "--weights", str(small_weights), "--int8", "--fp16", "--calib", str(photo_folder), "--force"]
    words += ["--effort", "0", "--input", "uint8", "--softmax", "--topk", "5", "-o", str(output), "--quiet"]
    assert main(words) == 0, capsys.readouterr().err
    manifest = load_manifest(output)
    assert (manifest.inputs[0].dtype, manifest.inputs[0].shape) == ("uint8", ("batch", 32, 32, 3))
    assert [entry.name for entry in manifest.outputs] == ["scores", "indices"]
    picture = Image.open(next(photo_folder.iterdir()))
    frame = manifest.prepare(picture)[np.newaxis]
    answers = {}
    for file in ("model.onnx", "model.fp16.onnx", "model.int8.onnx", "model.int8.fp16.onnx"):
        with OrtRuntime(output / file) as model:
            answers[file] = model.run({manifest.inputs[0].name: frame})
    scores = answers["model.onnx"]["scores"]
    assert (np.diff(scores) <= 0).all()
    assert 0 < scores.sum() <= 1.000001
    assert np.abs(answers["model.fp16.onnx"]["scores"] - scores).max() < 0.01
    golden = np.load(output / "golden.npz")
    assert golden["input"].dtype == np.uint8
    with OrtRuntime(output / "model.onnx") as model:
        got = model.run({manifest.inputs[0].name: golden["input"]})
    np.testing.assert_allclose(got["scores"], golden["scores"], atol=1e-5)
    written = onnx.load(output / "model.int8.onnx")
    metadata = {entry.key: json.loads(entry.value) for entry in written.metadata_props}
    assert metadata["num_classes"] == 10
    assert metadata["preprocessing"] == manifest.preprocessing.to_json()


def test_features_with_parity_per_output(small_weights, photo_folder, tmp_path, capsys):
    output = tmp_path / "bundle"
    words = [MODEL, "--weights", str(small_weights), "--int8", "--calib", str(photo_folder), "--force"]
    words += ["--effort", "0", "--features", "layer1,layer3", "-o", str(output), "--json"]
    assert main(words) == 0, capsys.readouterr().err
    report = json.loads(capsys.readouterr().out)
    reference, *files = report["rows"]
    assert "features" not in reference
    for row in files:
        assert list(row["features"]) == ["layer1", "layer3"]
        assert all(found["cosine"] > 0.98 for found in row["features"].values())
        assert row["parity"] is None
    manifest = load_manifest(output)
    assert [entry.name for entry in manifest.outputs] == ["layer1", "layer3"]
    assert manifest.outputs[0].shape == ("batch", 16, 32, 32)
    assert not (output / "labels.txt").exists()
    golden = np.load(output / "golden.npz")
    with OrtRuntime(output / "model.onnx") as model:
        got = model.run({"input": golden["input"]})
    for name in ("layer1", "layer3"):
        np.testing.assert_allclose(got[name], golden[name], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--features", "layer1", "--softmax"], "--softmax and --topk need logits"),
        (["--features", "layer1,,layer2"], "expected names separated by commas"),
        (["--topk", "0"], "expected a whole number >= 1"),
        (["--input", "float16"], "invalid choice"),
    ],
)
def test_wrong_options(words, reason, capsys):
    assert main(["cifar_resnet20", "--weights", "random", *words]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["--features", "layer9"], "did you mean layer"),
        (["--topk", "11"], "the model has 10 classes; give"),
    ],
)
def test_options_that_do_not_fit_the_network(words, reason, tmp_path, capsys):
    output = tmp_path / "bundle"
    assert main(["cifar_resnet20", "--weights", "random", *words, "-o", str(output)]) == 2
    assert reason in capsys.readouterr().err
    assert not output.exists()


def test_sensitivity_of_a_finished_bundle_is_the_networks(digits_bundle, small_weights, digits_folder, tmp_path):
    """Pixels in were refused as images of a wrong type; of scores and probabilities the ranking was of those."""
    finished = tmp_path / "finished"
    words = ("--int8", "--effort", 0, "--num-calib", 64, "--val", digits_folder / "val", "--num-val", 100)
    words += ("--input", "uint8", "--softmax", "--topk", 3)
    assert export_small(small_weights, digits_folder, finished, *words) == 0
    plain, same = (
        rx.sensitivity(bundle, digits_folder / "calib", num_images=8).content for bundle in (digits_bundle, finished)
    )
    assert same["same_ranges_as_bundle"]
    assert same["sensitivity"] == plain["sensitivity"]
