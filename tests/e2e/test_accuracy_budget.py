"""Accuracy budgets from the command line, on a small digits network with blocks that were broken on purpose."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Sequence
from pathlib import Path

import onnx
import pytest
from cli_runs import export_small
from onnx import TensorProto
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_digits import MODEL

from resnet_export.export_job.accuracy_budget import MIN_TO_SPLIT
from resnet_export.main import main
from runtimes.bundle.manifest import load_manifest

BROKEN = "layer2.0"
BLOCKS = ["layer1.0", "layer2.0", "layer3.0"]


def write_broken(path: Path, healthy: Path, blocks: Sequence[str], factor: float = 1e4) -> Path:
    """Let one channel inside each block be far larger than the others; its reader undoes it: FP32 does not notice."""
    with safe_open(healthy, "pt") as file:
        metadata = file.metadata()
    state = load_file(healthy)
    for block in blocks:
        for name in ("weight", "bias"):
            state[f"{block}.bn1.{name}"][0] *= factor
        state[f"{block}.conv2.weight"][:, 0] /= factor
    save_file(state, path, metadata)
    return path


@pytest.fixture(scope="module")
def broken(small_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_broken(tmp_path_factory.mktemp("broken") / "broken.safetensors", small_weights, [BROKEN])


@pytest.fixture(scope="module")
def bundle(broken: Path, digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("budget") / "bundle"
    options = ["--int8", "--effort", 0, "--num-calib", 64, "--val", digits_folder / "val"]
    options += ["--num-val", 160, "--min-agreement", 0.95, "--max-top1-drop", 2]
    assert export_small(broken, digits_folder, output, *options) == 0
    return output


@pytest.fixture(scope="module")
def budget(bundle: Path) -> dict:
    return json.loads((bundle / "report.json").read_text())["accuracy_budget"]


def refused(capsys: pytest.CaptureFixture[str], code: int, *words: object) -> str:
    got = main([str(word) for word in words])
    captured = capsys.readouterr()
    assert got == code, captured.err
    assert captured.out == ""
    return " ".join(captured.err.split())


# A budget that holds after leaving the broken block in float


def test_only_the_broken_block_is_left_in_float(budget: dict, bundle: Path) -> None:
    assert list(budget["kept_in_float"]["blocks"]) == [BROKEN]
    assert f"{BROKEN}.conv2" in budget["kept_in_float"]["nodes"]
    assert budget["ranking"]["blocks"][0]["name"] == BROKEN
    model = onnx.load(bundle / "model.int8.onnx")
    stored = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    in_float = {name for name, kind in stored.items() if name.endswith("weight") and kind == TensorProto.FLOAT}
    assert in_float == {f"{layer}.weight" for layer in budget["kept_in_float"]["blocks"][BROKEN]}
    skipped = load_manifest(bundle).quantization["skipped"]  # type: ignore[index]
    assert f"{BROKEN}.conv2: kept in float: asked for, or by the accuracy budget" in skipped


def test_before_and_after_are_measured_on_the_same_images_that_chose_nothing(budget: dict) -> None:
    assert budget["holds"] is True
    assert budget["before"]["agreement"] < 0.5
    assert budget["after"]["agreement"] >= 0.95
    assert budget["after"]["top1_drop_pp"] <= 2.0
    assert budget["verdict_apart_from_selection"] is True
    assert budget["num_selection_images"] + budget["num_verdict_images"] == 160
    assert budget["before"]["num_images"] == budget["after"]["num_images"] == budget["num_verdict_images"] == 80


def test_the_report_says_how_sure_it_is_and_what_it_costs(budget: dict) -> None:
    found = budget["evidence"]
    low, high = found["agreement_interval"]
    assert low < budget["after"]["agreement"] <= high
    assert found["num_looks"] >= 2
    assert found["shown"] is False
    assert "80 images are too few to show it" in budget["statement"]
    assert 0.15 < budget["kept_in_float"]["share_of_macs"] < 0.35
    assert budget["latency"]["before_ms"] > 0
    assert budget["latency"]["after_ms"] > 0
    assert budget["latency"]["note"] == "ONNX Runtime on this CPU; GPU cost not measured"


def test_the_table_of_the_bundle_has_the_better_file(bundle: Path) -> None:
    rows = {row["name"]: row["parity"] for row in json.loads((bundle / "report.json").read_text())["rows"]}
    assert rows["ONNX INT8"]["agreement"] >= 0.95
    assert load_manifest(bundle).options["min_agreement"] == 0.95


def test_the_result_says_which_layers_and_how_sure(
    broken: Path, digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """In ONNX Runtime's dialect, few images, no labels: the same ones choose and judge, and that is said."""
    output = tmp_path / "few"
    options = ["--int8", "--effort", 0, "--num-calib", 32, "--min-agreement", 0.9]
    options += ["--target", "onnxruntime"]
    assert export_small(broken, digits_folder, output, *options) == 0
    printed = capsys.readouterr()
    footer = next(line for line in printed.out.splitlines() if line.startswith("accuracy budget holds:"))
    assert "in float: layer2.0 (conv1, conv2)" in footer
    assert "of the multiply-adds in float" in footer
    assert "with 64 images the same ones chose the layers and judged the result" in " ".join(printed.err.split())
    report = json.loads((output / "report.json").read_text())["accuracy_budget"]
    assert list(report["kept_in_float"]["blocks"]) == [BROKEN]
    assert report["verdict_apart_from_selection"] is False
    assert report["after"]["top1_drop_pp"] is None
    assert report["num_verdict_images"] == 64 < MIN_TO_SPLIT


# A budget that holds anyway


def test_nothing_changes_when_the_budget_holds(
    digits_bundle: Path, small_weights: Path, digits_folder: Path, tmp_path: Path
) -> None:
    plain, held = digits_bundle, tmp_path / "held"
    options = ["--int8", "--effort", 0, "--num-calib", 64, "--val", digits_folder / "val", "--num-val", 100, "--quiet"]
    assert export_small(small_weights, digits_folder, held, *options, "--max-top1-drop", 5) == 0
    assert (plain / "model.int8.onnx").read_bytes() == (held / "model.int8.onnx").read_bytes()
    report = json.loads((held / "report.json").read_text())["accuracy_budget"]
    assert report["kept_in_float"] == {"blocks": {}, "nodes": [], "share_of_macs": 0.0}
    assert report["statement"].endswith("every layer in INT8")
    assert json.loads((plain / "report.json").read_text())["accuracy_budget"] is None


# A budget that cannot hold


def test_a_budget_that_cannot_hold_writes_nothing(
    small_weights: Path, digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With every block broken, hardly a layer would be left in INT8."""
    output = tmp_path / "out" / "bundle"
    weights = write_broken(tmp_path / "all.safetensors", small_weights, BLOCKS)
    message = refused(
        capsys, 1, MODEL, "--weights", weights, "--int8", "--effort", 0, "--calib", digits_folder / "calib",
        "--val", digits_folder / "val", "--num-calib", 32, "--num-val", 32, "--max-top1-drop", 1, "-o", output,
    )  # fmt: skip
    assert "error: the accuracy budget cannot hold: got top-1 drop" in message
    assert "expected top-1 drop at most 1 points" in message
    assert "Nothing was written" in message
    assert not output.exists()
    assert not list(tmp_path.rglob(".resnet-export-*"))


# Bad options


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--max-top1-drop", 0.5], "give --int8 --calib DIR too"),
        (["--min-agreement", 0.99, "--fp16"], "give --int8 --calib DIR too"),
        (["--int8", "--calib", ".", "--max-top1-drop", 0.5], "--max-top1-drop needs --val DIR"),
        (["--int8", "--calib", "c", "--val", "v", "--max-top1-drop", -1], "got '-1', expected percentage points"),
        (["--int8", "--calib", "c", "--val", "v", "--max-top1-drop", "half"], "got 'half', expected percentage points"),
        (["--int8", "--calib", "c", "--val", "v", "--max-top1-drop", "nan"], "got 'nan', expected percentage points"),
        (["--int8", "--calib", "c", "--min-agreement", 99], "got '99', expected a share above 0 and at most 1"),
        (["--int8", "--calib", "c", "--min-agreement", 0], "got '0', expected a share above 0 and at most 1"),
    ],
)
def test_bad_budgets_are_refused_before_anything_runs(
    capsys: pytest.CaptureFixture[str], words: list[object], message: str
) -> None:
    assert message in refused(capsys, 2, "cifar_resnet20", "--weights", "random", *words)


# The ranking as a command


def test_sensitivity_ranks_the_bundles_own_blocks(
    bundle: Path, digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for image in sorted(digits_folder.glob("val/*/*"))[::4]:
        (tmp_path / image.parent.name).mkdir(exist_ok=True)
        shutil.copy(image, tmp_path / image.parent.name)
    words = ["sensitivity", bundle, "--calib", digits_folder / "calib", "--val", tmp_path, "--num-images", 32, "--json"]
    assert main([str(word) for word in words]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["same_ranges_as_bundle"] is True
    assert report["num_calibration_images"] == 64
    assert report["num_ranking_images"] == report["sensitivity"]["whole"]["num_images"] == 32
    assert report["sensitivity"]["blocks"][0]["name"] == BROKEN
    assert report["sensitivity"]["layers"][0]["name"] == f"{BROKEN}.conv2"
    whole, one = report["validation"][:2]
    assert (whole["kept_in_float"], one["kept_in_float"]) == ([], [BROKEN])
    assert whole["top1_candidate"] < 0.5 < 0.8 < one["top1_candidate"]
    assert whole["num_images"] == 90
    assert report["warnings"] == []


def test_sensitivity_prints_a_table_and_says_when_the_images_are_others(
    bundle: Path, digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The images come as whatever the export takes: here an archive, and a list with its labels in a file beside."""
    with tarfile.open(tmp_path / "calib.tar", "w") as archive:
        archive.add(digits_folder / "calib", arcname="calib")
    pictures = sorted((digits_folder / "val").glob("*/*"))[::20]
    (tmp_path / "val.csv").write_text("".join(f"{path},{path.parent.name}\n" for path in pictures))
    words = ["sensitivity", bundle, "--calib", tmp_path / "calib.tar", "--num-calib", 32, "--num-images", 16]
    words += ["--val", tmp_path / "val.csv", "--num-val", 10]
    assert main([str(word) for word in words]) == 0
    printed = capsys.readouterr()
    assert "gave other ranges than the bundle's 64" in " ".join(printed.err.split())
    lines = [line.split() for line in printed.out.splitlines() if line.strip().startswith(BROKEN)]
    assert lines[0][0] == BROKEN
    assert "on 16 calibration images" in printed.out
    assert "on 10 validation images" in printed.out
    assert max(map(len, printed.out.splitlines())) <= 90


def test_sensitivity_needs_a_bundle_with_int8(
    broken: Path, digits_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "float"
    assert export_small(broken, digits_folder, output, "--quiet") == 0
    assert "holds no INT8 file" in refused(capsys, 2, "sensitivity", output, "--calib", digits_folder / "calib")
    assert "is not a bundle" in refused(capsys, 2, "sensitivity", tmp_path, "--calib", digits_folder / "calib")
    assert "--calib" in refused(capsys, 2, "sensitivity", output)
    words = ("sensitivity", output, "--calib", digits_folder / "calib", "--val-labels", tmp_path / "labels.csv")
    assert "give both" in refused(capsys, 2, *words)


def test_sensitivity_refuses_validation_images_that_calibrate(
    bundle: Path, digits_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    calib = digits_folder / "calib"
    words = ["sensitivity", bundle, "--calib", calib, "--num-calib", 256, "--val", calib]
    assert "are also calibration images" in refused(capsys, 2, *words)
