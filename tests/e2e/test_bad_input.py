"""Bad input: one clear message, exit code 2, nothing written, no traceback."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch
from cli_runs import DIGITS_WEIGHTS, export_small
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_digits import MODEL

from resnet_export.main import main

Capture = pytest.CaptureFixture[str]


def refused(capsys: Capture, output: Path, *arguments: object, code: int = 2) -> str:
    """Run the command, check that it failed as it should, and return its message on one line."""
    existed = output.exists()
    got = main([str(word) for word in (*arguments, "-o", output)])
    captured = capsys.readouterr()
    assert got == code, captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""
    assert output.exists() == existed
    if output.parent.is_dir():
        assert not [path for path in output.parent.iterdir() if path.name.startswith(".resnet-export-")]
    assert len(captured.err.splitlines()) <= 40, "one screen"
    return " ".join(captured.err.split())


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "out" / "bundle"


def digits(**changes: object) -> list[object]:
    """The smallest complete command on the digits network, with options changed."""
    options = {"--weights": DIGITS_WEIGHTS, **{f"--{name.replace('_', '-')}": value for name, value in changes.items()}}
    return ["cifar_resnet20", *(word for pair in options.items() for word in pair)]


def altered_weights(folder: Path, source: Path = DIGITS_WEIGHTS, **changes: torch.Tensor | None) -> Path:
    """Write the weights of `source` with tensors replaced (or removed, by None)."""
    state = load_file(source)
    with safe_open(source, "pt") as file:
        metadata = file.metadata()
    for name, tensor in changes.items():
        key = name.replace("__", ".")
        if tensor is None:
            del state[key]
        else:
            state[key] = tensor
    path = folder / "altered.safetensors"
    save_file(state, path, metadata)
    return path


def test_unknown_model_suggests_near_names(capsys: Capture, output: Path) -> None:
    message = refused(capsys, output, "resnet5", "--weights", "random")
    assert "unknown model 'resnet5'" in message
    assert "resnet50" in message


def test_weights_that_cannot_be_downloaded_name_the_ways_out(
    capsys: Capture, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("network is unreachable")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("socket.getaddrinfo", refuse)
    message = refused(capsys, output, "resnet18")
    assert "cannot be downloaded" in message
    assert "--weights FILE" in message
    assert "--weights random" in message


def test_missing_weights_file(capsys: Capture, output: Path) -> None:
    assert "nowhere.pth" in refused(capsys, output, "resnet18", "--weights", "nowhere.pth")


def test_unknown_weights_name_lists_what_there_is(capsys: Capture, output: Path) -> None:
    assert "IMAGENET1K_V1" in refused(capsys, output, "resnet18", "--weights", "IMAGENET1K_V9")


def test_cifar_resnet_has_no_default_weights(capsys: Capture, output: Path) -> None:
    assert "--weights random" in refused(capsys, output, "cifar_resnet20")


def test_state_dict_that_does_not_fit_lists_names_and_shapes(capsys: Capture, output: Path, tmp_path: Path) -> None:
    path = altered_weights(tmp_path, conv1__weight=torch.zeros(16, 3, 5, 5), fc__bias=None, extra=torch.zeros(1))
    message = refused(capsys, output, *digits(weights=path))
    assert "fc.bias" in message
    assert "extra" in message
    assert "[16, 3, 5, 5]" in message.replace("(", "[").replace(")", "]")


def test_a_checkpoint_that_would_run_code_is_not_loaded(capsys: Capture, output: Path, tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.pth")
    message = refused(capsys, output, *digits(weights=tmp_path / "bomb.pth"))
    assert not (tmp_path / "ran").exists()
    assert "code" in message


def test_int8_needs_calibration_images(capsys: Capture, output: Path) -> None:
    message = refused(capsys, output, *digits(), "--int8")
    assert "--calib" in message
    assert "never a default data set" in message


@pytest.mark.parametrize("option", ["--calib", "--val"])
def test_missing_folder(capsys: Capture, output: Path, option: str) -> None:
    assert "nowhere" in refused(capsys, output, *digits(), option, "nowhere")


@pytest.mark.parametrize("option", ["--calib", "--val"])
def test_empty_folder(capsys: Capture, output: Path, tmp_path: Path, option: str) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").write_text("no image")
    assert "empty" in refused(capsys, output, *digits(), option, empty)


def test_unreadable_folder(
    capsys: Capture, output: Path, digits_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root reads everything, so the refusal is simulated where the folder is listed.
    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("os.scandir", refuse)
    message = refused(capsys, output, *digits(calib=digits_folder / "calib"), "--int8")
    assert "ermission" in message


def test_asking_for_fewer_images_than_calibrate(capsys: Capture, output: Path, digits_folder: Path) -> None:
    words = (*digits(calib=digits_folder / "calib", num_calib=31), "--int8")
    assert "--num-calib 31: 31 images are too few" in refused(capsys, output, *words)


def test_too_few_images_say_why_and_force_goes_on(capsys: Capture, digits_folder: Path, tmp_path: Path) -> None:
    few = tmp_path / "few"
    few.mkdir()
    for path in sorted((digits_folder / "calib").rglob("*.png"))[:3]:
        shutil.copy(path, few)
    output = tmp_path / "bundle"
    message = refused(capsys, output, *digits(calib=few), "--int8")
    assert "3 images are too few" in message
    assert "--force" in message
    words = (*digits(calib=few, effort=0), "--int8", "--force", "--quiet", "-o", output)
    assert main([str(word) for word in words]) == 0
    assert (output / "model.int8.onnx").exists()
    (told,) = [
        line for line in json.loads((output / "report.json").read_text())["warnings"] if "fills the table" in line
    ]
    assert told.startswith(f"{few} has too few images to hold any of them out, so nothing but")
    assert told.endswith("; --val DIR fills the table")


def test_few_corrupt_images_are_named_and_counted_many_stop(
    capsys: Capture, small_weights: Path, digits_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "calib"
    shutil.copytree(digits_folder / "calib", folder)
    broken = sorted(folder.rglob("*.png"))[:2]
    for path in broken:
        path.write_bytes(path.read_bytes()[:40])
    words = ("--int8", "--effort", 0, "--val", digits_folder / "val", "--num-val", 32, "--quiet")
    assert export_small(small_weights, tmp_path, tmp_path / "ok", *words) == 0
    message = capsys.readouterr().err
    assert "2 of 256 images could not be read" in message
    assert all(path.name in message for path in broken)
    for path in sorted(folder.rglob("*.png"))[2:8]:
        path.write_bytes(b"")
    output = tmp_path / "stopped"
    message = refused(capsys, output, *digits(calib=folder, val=digits_folder / "val"), "--int8")
    assert "could not be read" in message


def test_nan_in_the_weights_names_the_tensor(capsys: Capture, output: Path, tmp_path: Path) -> None:
    weight = load_file(DIGITS_WEIGHTS)["layer2.0.conv1.weight"]
    weight[0, 0, 0, 0] = float("nan")
    message = refused(capsys, output, *digits(weights=altered_weights(tmp_path, layer2__0__conv1__weight=weight)))
    assert "layer2.0.conv1.weight" in message


def test_overflowing_activations_name_the_tensor(
    capsys: Capture, output: Path, small_weights: Path, tmp_path: Path
) -> None:
    weight = load_file(small_weights)["fc.weight"] * 3e38
    path = altered_weights(tmp_path, small_weights, fc__weight=weight.clamp(-3e38, 3e38))
    message = refused(capsys, output, MODEL, "--weights", path)
    assert "NaN or Inf" in message
    assert "'logits'" in message


def test_fp16_overflow_names_the_tensor(capsys: Capture, output: Path, small_weights: Path, tmp_path: Path) -> None:
    weight = load_file(small_weights)["bn1.weight"] * 3e5
    path = altered_weights(tmp_path, small_weights, bn1__weight=weight)
    message = refused(capsys, output, MODEL, "--weights", path, "--fp16")
    assert "FP16" in message


def test_an_existing_bundle_needs_force(
    capsys: Capture, small_weights: Path, digits_folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "bundle"
    assert export_small(small_weights, digits_folder, output, "--quiet") == 0
    before = (output / "manifest.json").read_bytes()
    assert "--force" in refused(capsys, output, *digits())
    assert (output / "manifest.json").read_bytes() == before


def test_a_folder_that_is_no_bundle_is_never_replaced(capsys: Capture, tmp_path: Path) -> None:
    precious = tmp_path / "thesis"
    precious.mkdir()
    (precious / "chapter1.tex").write_text("years of work")
    assert "not a bundle" in refused(capsys, precious, *digits(), "--force")
    assert (precious / "chapter1.tex").read_text() == "years of work"


def test_opset_that_the_target_cannot_read(capsys: Capture, output: Path) -> None:
    message = refused(capsys, output, *digits(target="jetpack5", opset=18))
    assert "opset 18 does not fit target jetpack5" in message
    assert "17" in message


def test_calibration_and_validation_that_share_files(capsys: Capture, output: Path, digits_folder: Path) -> None:
    calib = digits_folder / "calib"
    assert "also calibration images" in refused(capsys, output, *digits(calib=calib, val=calib), "--int8")


def test_validation_folders_that_do_not_match(
    capsys: Capture, output: Path, digits_folder: Path, tmp_path: Path
) -> None:
    val = tmp_path / "val"
    for name in ("cat", "dog"):
        shutil.copytree(digits_folder / "val" / "3", val / name)
    message = refused(capsys, output, *digits(val=val))
    assert "cat" in message


def test_loose_validation_images(capsys: Capture, output: Path, digits_folder: Path) -> None:
    words = digits(val=digits_folder / "val" / "3")
    assert main([str(word) for word in (*words, "-o", output, "--quiet")]) == 0
    assert "no class folders" in capsys.readouterr().err
    row = json.loads((output / "report.json").read_text())["rows"][1]["parity"]
    assert row["top1_candidate"] is None
    assert row["agreement"] == 1


def test_wrong_number_of_labels(capsys: Capture, output: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")
    message = refused(capsys, output, *digits(labels=tmp_path / "labels.txt"))
    assert "got 2 labels, expected 10" in message


def test_missing_labels_file(capsys: Capture, output: Path) -> None:
    assert "nowhere.txt" in refused(capsys, output, *digits(labels="nowhere.txt"))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--batch", "8,1,32"),
        ("--batch", "1,8"),
        ("--batch", "a,b,c"),
        ("--target", "jetpack4"),
        ("--method", "kl"),
        ("--num-calib", "0"),
        ("--input-size", "-1"),
        ("--resize", "96x"),
        ("--mean", "a"),
        ("--interpolation", "cubic"),
        ("--opset", "x"),
    ],
)
def test_wrong_option_values(capsys: Capture, output: Path, option: str, value: str) -> None:
    message = refused(capsys, output, *digits(), f"{option}={value}")
    assert option in message


def test_std_of_zero(capsys: Capture, output: Path) -> None:
    assert "std" in refused(capsys, output, *digits(std="0,0.5,0.5"))


def test_an_image_that_is_no_image(capsys: Capture, output: Path, tmp_path: Path) -> None:
    folder = tmp_path / "calib"
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.jpg").write_text("<html>404</html>")
    message = refused(capsys, output, *digits(calib=folder), "--int8")
    assert "it is a web page" in message
    assert "could be read" in message or "could not be read" in message


def test_output_below_a_file(capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "not a folder" in refused(capsys, tmp_path / "file" / "bundle", *digits())


def test_an_engine_without_its_library_is_told_before_the_work(
    capsys: Capture, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    message = refused(capsys, output, *digits(), "--engine")
    assert "resnet-export[tensorrt]" in message
    assert "BatchNorm" not in message


def test_rtx_without_engine(capsys: Capture, output: Path) -> None:
    assert "--engine" in refused(capsys, output, *digits(), "--rtx")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ((), "--zero-points says what takes those of INT8 activations; give --int8 --calib DIR too"),
        (("--int8", "--target", "onnxruntime"), "--target onnxruntime has zero points of its own"),
        (("--int8", "--dla"), "--zero-points pads: a DLA's ranges are symmetric; leave out --dla, or give none"),
    ],
)
def test_zero_points_where_there_can_be_none(
    capsys: Capture, output: Path, digits_folder: Path, options: tuple[str, ...], reason: str
) -> None:
    calib = ("--calib", digits_folder / "calib") if options else ()
    assert reason in refused(capsys, output, *digits(zero_points="pads"), *options, *calib)


@pytest.mark.parametrize(("word", "value"), [("--effort", "2"), ("--method", "max")])
def test_how_int8_is_made_where_there_is_none(capsys: Capture, output: Path, word: str, value: str) -> None:
    message = refused(capsys, output, *digits(), word, value)
    assert word in message
    assert message.endswith("give --int8 --calib DIR too")


def test_keeping_every_layer_in_float(capsys: Capture, output: Path, digits_folder: Path) -> None:
    words = (*digits(calib=digits_folder / "calib", num_calib=32, effort=0), "--int8", "--quiet")
    every = "conv1,layer1,layer2,layer3,fc"
    message = refused(capsys, output, *words, "--keep-float", every)
    assert f"--keep-float {every}: no layer is left for INT8; name fewer, or leave --int8 out" in message
    assert not output.exists()


def test_verbose_shows_the_traceback(capsys: Capture, tmp_path: Path) -> None:
    assert main(["resnet5", "-v", "-o", str(tmp_path / "bundle")]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupted_run_leaves_nothing(
    digits_folder: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C in the middle, where the files are computed."""
    monkeypatch.setattr("exporter.tracing.export.export_loaded", lambda *_: signal.raise_signal(signal.SIGINT))
    words = [*digits(calib=digits_folder / "calib"), "--int8", "--output", tmp_path / "bundle"]
    assert main([str(word) for word in words]) == 130
    told = capsys.readouterr().err
    assert "interrupted" in told
    assert "Traceback" not in told
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--version"], ["resnet5"]])
def test_signals_are_the_programs_again_afterwards(words: list[str], capsys: Capture) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.getsignal(number) for number in numbers]
    with contextlib.suppress(SystemExit):
        main(words)
    assert [signal.getsignal(number) for number in numbers] == before


def test_grey_and_rgba_files_calibrate_like_what_one_sees(
    small_weights: Path, digits_folder: Path, tmp_path: Path
) -> None:
    # The digits are grey; the same pictures as RGBA and palette files must give the same ranges.
    tables = []
    for mode in ("L", "RGBA", "P"):
        folder = tmp_path / mode / "calib"
        for path in sorted((digits_folder / "calib").rglob("*.png"))[::6]:
            target = folder / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as image:
                image.convert(mode).save(target)
        output = tmp_path / f"bundle-{mode}"
        words = ("--int8", "--effort", 0, "--val", digits_folder / "val", "--num-val", 32, "--quiet")
        assert export_small(small_weights, folder.parent, output, *words) == 0
        tables.append((output / "model.int8.onnx").read_bytes())
    assert tables[0] == tables[1] == tables[2]
