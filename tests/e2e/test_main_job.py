"""The main job on real input: bundle complete, hashes right, files answer like PyTorch without torch at hand."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_runs import DIGITS_WEIGHTS, export_small
from numpy.testing import assert_allclose

from resnet_export.main import main
from runtimes import OrtRuntime
from runtimes.bundle.file_names import MANIFEST_NAME
from runtimes.bundle.manifest import check_files, load_manifest

BUNDLE_FILES = {
    "manifest.json",
    "model.onnx",
    "model.fp16.onnx",
    "model.int8.onnx",
    "model.int8.fp16.onnx",
    "calibration.json",
    "labels.txt",
    "golden.npz",
    "report.json",
}


@pytest.fixture(scope="module")
def bundle(main_bundle: Path) -> Path:
    return main_bundle


@pytest.fixture(scope="module")
def report(bundle: Path) -> dict:
    return json.loads((bundle / "report.json").read_text())


def test_bundle_holds_every_file_and_every_hash_matches(bundle: Path) -> None:
    assert {path.name for path in bundle.iterdir()} == BUNDLE_FILES
    manifest = load_manifest(bundle)
    assert set(manifest.files) == BUNDLE_FILES - {MANIFEST_NAME}
    check_files(bundle, manifest)


def test_nothing_else_is_left_beside_the_bundle(bundle: Path) -> None:
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]


def test_int8_top1_is_within_half_a_point_of_pytorch(report: dict) -> None:
    rows = {row["name"]: row["parity"] for row in report["rows"]}
    assert rows["PyTorch FP32"]["top1_candidate"] > 0.97
    assert rows["PyTorch FP32"]["num_images"] == 360
    assert abs(rows["ONNX INT8"]["top1_drop_pp"]) <= 0.5
    assert rows["ONNX INT8"]["sqnr_db"] > 25
    assert rows["ONNX INT8+FP16"]["sqnr_db"] > rows["ONNX INT8"]["sqnr_db"] - 1
    assert rows["ONNX FP16"]["sqnr_db"] > 50
    assert rows["ONNX FP32"]["sqnr_db"] > 100
    assert rows["ONNX FP32"]["agreement"] == 1.0


def test_every_residual_add_is_quantized_on_one_side(bundle: Path) -> None:
    quantization = load_manifest(bundle).quantization
    assert quantization is not None
    assert (quantization["residual_adds_quantized"], quantization["residual_adds"]) == (9, 9)


def test_int8_file_is_about_a_quarter(bundle: Path) -> None:
    sizes = {name: (bundle / name).stat().st_size for name in ("model.onnx", "model.fp16.onnx", "model.int8.onnx")}
    assert sizes["model.int8.onnx"] < 0.3 * sizes["model.onnx"]  # the graph itself weighs in on a 1 MB model
    assert sizes["model.fp16.onnx"] < 0.52 * sizes["model.onnx"]


def test_golden_logits_are_reproduced_from_the_files_alone(bundle: Path) -> None:
    with np.load(bundle / "golden.npz", allow_pickle=False) as golden:
        inputs, logits = golden["input"], golden["logits"]
    assert inputs.shape == (16, 3, 32, 32)
    assert inputs.dtype == logits.dtype == np.float32
    for file, tolerance in (
        ("model.onnx", 1e-5),
        ("model.fp16.onnx", 5e-3),
        ("model.int8.onnx", 0.1),
        ("model.int8.fp16.onnx", 0.1),
    ):
        with OrtRuntime(bundle / file, exact_qdq=True) as runtime:
            got = runtime.run({"input": inputs})["logits"]
        assert_allclose(got, logits, atol=tolerance * np.abs(logits).max(), err_msg=file)


@pytest.mark.parametrize("file", ["model.onnx", "model.fp16.onnx", "model.int8.onnx", "model.int8.fp16.onnx"])
def test_files_pass_the_checker_and_take_batches_of_1_2_7(bundle: Path, file: str) -> None:
    model = onnx.load(bundle / file)
    onnx.checker.check_model(model, full_check=True)
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not [node for node in model.graph.node if node.op_type == "BatchNormalization"]
    with OrtRuntime(bundle / file) as runtime:
        for batch in (1, 2, 7):
            assert runtime.run({"input": np.zeros((batch, 3, 32, 32), np.float32)})["logits"].shape == (batch, 10)


def test_calibration_json_says_what_was_seen(bundle: Path) -> None:
    table = json.loads((bundle / "calibration.json").read_text())
    assert table["num_images"] == 256
    assert len(table["image_list_sha256"]) == 64
    assert len(table["input_mean"]) == len(table["input_std"]) == 3
    entry = table["tensors"]["layer1.0.relu"]
    assert entry["scale"] == pytest.approx(entry["amax"] / 127, rel=1e-6)
    assert 0 < entry["amax"] <= entry["max_abs"]
    assert entry["method"] == "mse"


def test_manifest_says_where_it_came_from(bundle: Path) -> None:
    manifest = load_manifest(bundle)
    assert manifest.model["id"] == "cifar_resnet20"
    assert len(manifest.model["weights_sha256"]) == 64
    assert manifest.opset == 20
    assert manifest.target == "tensorrt"
    assert len(manifest.folding["folded"]) == 21
    assert manifest.preprocessing.input_size == (32, 32)
    assert manifest.inputs[0].shape == ("batch", 3, 32, 32)
    assert {"torch", "onnx", "numpy", "python"} <= set(manifest.libraries)


def test_no_path_of_this_machine_is_in_the_model_files(bundle: Path, digits_folder: Path) -> None:
    for file in bundle.glob("*.onnx"):
        content = file.read_bytes()
        assert b"site-packages" not in content
        assert str(Path(__file__).parents[2]).encode() not in content


@pytest.mark.usefixtures("own_exports")
def test_two_runs_write_the_same_model_files(
    digits_bundle: Path, small_weights: Path, digits_folder: Path, tmp_path: Path
) -> None:
    """Traced again, and of other validation images; more effort than 0 is repeated in test_quantize_model."""
    words = ("--int8", "--effort", 0, "--num-calib", 64, "--val", digits_folder / "val", "--num-val", 32, "--quiet")
    assert export_small(small_weights, digits_folder, tmp_path / "again", *words) == 0
    first, second = load_manifest(digits_bundle).files, load_manifest(tmp_path / "again").files
    assert first.keys() == second.keys()
    for name in sorted(first.keys() - {"report.json", "golden.npz"}):
        assert first[name] == second[name], name


def test_held_out_images_measure_when_no_validation_folder_is_given(
    small_weights: Path, digits_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "held-out"
    assert (
        export_small(small_weights, digits_folder, output, "--int8", "--effort", 0, "--num-calib", "100", "--quiet")
        == 0
    )
    report = json.loads((output / "report.json").read_text())
    assert report["rows"][0]["parity"]["num_images"] == 64
    assert report["rows"][0]["parity"]["top1_candidate"] is None
    assert load_manifest(output).quantization["num_images"] == 100  # type: ignore[index]


def test_without_any_image_the_check_runs_on_the_packages_photographs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "fp16"
    assert main(["cifar_resnet20", "--weights", str(DIGITS_WEIGHTS), "--fp16", "-o", str(output)]) == 0
    assert "no images were given" in capsys.readouterr().err
    with np.load(output / "golden.npz", allow_pickle=False) as golden:
        assert len(golden["input"]) == 16
        assert len({image.tobytes() for image in golden["input"]}) == 16


def test_json_prints_the_report_and_nothing_else(
    small_weights: Path, digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "the shop's net"
    assert export_small(small_weights, digits_folder, output, "--json", "--target", "jetpack5") == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((output / "report.json").read_text())
    assert onnx.load(output / "model.onnx").opset_import[0].version == 17
    assert shlex.split(printed["next"])[:4] == ["resnet-export", "build", str(output), "--fp32"]


def test_quiet_prints_nothing(
    small_weights: Path, digits_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert export_small(small_weights, digits_folder, tmp_path / "quiet", "--quiet") == 0
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_force_replaces_the_whole_bundle(small_weights: Path, digits_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "bundle"
    assert export_small(small_weights, digits_folder, output, "--fp16", "--quiet") == 0
    assert (output / "model.fp16.onnx").exists()
    assert export_small(small_weights, digits_folder, output, "--force", "--quiet") == 0
    assert not (output / "model.fp16.onnx").exists()
    check_files(output, load_manifest(output))


@pytest.mark.parametrize("method", ["max", "percentile", "entropy"])
def test_every_method_calibrates(small_weights: Path, digits_folder: Path, tmp_path: Path, method: str) -> None:
    output = tmp_path / method
    words = ("--int8", "--effort", 0, "--num-calib", 64, "--val", digits_folder / "val", "--num-val", 16, "--quiet")
    assert export_small(small_weights, digits_folder, output, *words, "--method", method) == 0
    table = json.loads((output / "calibration.json").read_text())
    assert table["method"]["name"] == method


@pytest.mark.slow
@pytest.mark.tensorrt
def test_a_network_for_photographs_builds_with_tensorrt_rtx(photo_folder: Path, tmp_path: Path) -> None:
    """timm's smallest: a ResNet-18's stem, pool and four stages; a whole one is built in tests/exporter/engines."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed")
    from exporter import build_engine

    output = tmp_path / "int8"
    arguments = ["timm:test_resnet", "--weights", "random", "-o", str(output), "--int8", "--fp16"]
    arguments += ["--calib", str(photo_folder), "--input-size", "64", "--num-calib", "32", "--effort", "0", "--quiet"]
    assert main(arguments) == 0
    quantization = load_manifest(output).quantization
    assert quantization is not None
    assert (quantization["residual_adds_quantized"], quantization["residual_adds"]) == (4, 4)
    sizes = {file.name: file.stat().st_size for file in output.glob("*.onnx")}
    assert sizes["model.int8.onnx"] < 0.28 * sizes["model.onnx"]
    for file in ("model.int8.onnx", "model.int8.fp16.onnx"):
        assert len(build_engine(output / file, flavor="rtx")) > 100_000
