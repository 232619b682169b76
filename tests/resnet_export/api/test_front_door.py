"""`import resnet_export`: the names, what they refuse, and the whole way from a module to an answer."""

import functools
import itertools
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from small_bundle import small_network as small_bundle_network
from torch import nn

import resnet_export as rx
from calibration.errors import PlacementError
from exporter.errors import ExportError, ModelObjectError, OptionError, PreprocessingError, WeightsError
from resnet_export.api import checks
from resnet_export.api.choices import class_numbers
from resnet_export.images import spill
from runtimes import preprocess
from runtimes.errors import BundleError, ImageFolderError, InputMismatchError

ROOT = Path(__file__).parents[3]
SIZE = 24
HOW = rx.Preprocessing(size=SIZE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def small_network() -> nn.Module:
    torch.manual_seed(20261129)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def prepared(pictures) -> np.ndarray:
    resolved = HOW.options().complete("")
    return np.stack([preprocess(resolved, Image.fromarray(picture)) for picture in pictures])


@pytest.fixture(scope="module")
def pictures(photo_folder):
    return [np.asarray(Image.open(path).resize((40, 32))) for path in sorted(photo_folder.iterdir())]


@pytest.fixture(scope="module")
def exported(pictures, tmp_path_factory):
    module, events = small_network(), []
    output = tmp_path_factory.mktemp("front-door") / "bundle"
    report = rx.export(
        module, output, preprocessing=HOW, int8=True, calib=iter(pictures), calib_cache="off", on_event=events.append
    )
    return module, report, events


def test_a_module_becomes_a_bundle_that_answers_like_it(exported, pictures):
    module, report, _ = exported
    assert report.int8 is not None
    assert report.fp16 is None
    assert report.int8.num_images == len(pictures) // 4
    assert report.int8.sqnr_db is not None
    assert report.int8.sqnr_db > 25
    assert report.int8.path.is_file()
    assert report.to_json()["rows"][0]["file"] is None
    with rx.load(report.bundle, provider="cpu") as net:
        answers = net.classify(pictures[:8], channels="RGB")
    images = torch.from_numpy(
        np.stack([preprocess(HOW.options().complete(""), Image.fromarray(p)) for p in pictures[:8]])
    )
    with torch.inference_mode():
        expected = module.eval()(images).argmax(dim=1).tolist()
    assert [answer.index for answer in answers] == expected


def test_the_caller_s_module_stays_as_it_is(pictures, tmp_path):
    module = small_network().train()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    rx.export(module, tmp_path / "out", preprocessing=HOW)
    assert module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_progress_goes_to_the_listener_and_nothing_is_printed(exported, capsys):
    _, report, events = exported
    assert {event.kind for event in events} >= {"done", "progress"}
    assert [event.message for event in events if event.kind == "done"] == list(report.steps)
    counted = [event for event in events if event.message == "calibrating"]
    assert counted[-1].completed == counted[-1].total == 36
    rx.verify(report.bundle)
    assert capsys.readouterr() == ("", "")


def test_prepared_arrays_files_and_pictures_calibrate_alike(exported, pictures, photo_folder, tmp_path):
    _, report, _ = exported
    files = [tmp_path / f"{place:02}.png" for place in range(len(pictures))]
    for path, picture in zip(files, pictures, strict=True):
        Image.fromarray(picture).save(path)
    for place, calib in enumerate((prepared(pictures), [str(path) for path in files], np.stack(pictures))):
        output = tmp_path / f"out{place}"
        again = rx.export(small_network(), output, preprocessing=HOW, int8=True, calib=calib, calib_cache="off")
        assert again.int8.sqnr_db == pytest.approx(report.int8.sqnr_db, abs=1.5)  # other images are held out


def test_prepared_images_on_another_scale_are_told(exported, pictures):
    """Arrays of pixels 0 to 255, or without mean and std, give figures that say nothing."""
    _, report, _ = exported
    for scale, told in ((1.0, False), (50.0, True)):
        verification = rx.verify(report.bundle, val=prepared(pictures[:4]) * np.float32(scale))
        said = [line for line in verification.warnings if line.startswith("validation images: wrong normalization")]
        assert bool(said) is told


def test_verify_says_what_failed(exported, pictures):
    _, report, _ = exported
    good = rx.verify(report.bundle, gates={"sqnr_db": 5, "int8.sqnr_db": 5})
    assert [gate.verdict for gate in good.gates if gate.name == "sqnr_db"] == ["pass", "pass"]
    bad = rx.verify(report.bundle, precision="int8", gates={"int8.sqnr_db": 120})
    assert not bad.passed
    assert bad.failures[0].name == "sqnr_db"
    assert "120" in bad.failures[0].sentence
    labelled = rx.verify(report.bundle, val=pictures[:6], val_labels=[0] * 6)
    assert "top1_drop_pp" in {gate.name for gate in labelled.gates}
    with pytest.raises(ImageFolderError, match="got 2 for 6 images"):
        rx.verify(report.bundle, val=pictures[:6], val_labels=[0, 1])


def test_quantize_takes_tensors_and_names_what_is_no_input(exported, pictures):
    """PyTorch's as NumPy's; of others the user heard that nothing tells how pictures are prepared."""
    path, inputs = exported[1].fp32.path, prepared(pictures[:4])
    of_arrays = rx.quantize(path, inputs, effort=0).table
    assert dict(rx.quantize(path, torch.from_numpy(inputs), effort=0).table.ranges) == dict(of_arrays.ranges)
    for images, says in (
        ([inputs.astype(np.float64)], r"images\[0\]: got float64 \[4, 3, 24, 24\], expected"),
        ([inputs, "x.png"], r"images\[1\]: got str"),
        ([(inputs, [0, 1, 2, 3])], "of a loader of pictures and labels give the pictures"),
    ):
        with pytest.raises(TypeError, match=says):
            rx.quantize(path, images)


@pytest.mark.parametrize("in_memory", [False, True])
def test_quantize_says_what_is_quantized_already(exported, in_memory):
    path = exported[1].int8.path
    with pytest.raises(ExportError, match=r"is quantized already .*; give the float32 file"):
        rx.quantize(onnx.load(path) if in_memory else path, [])


def test_quantize_needs_no_runtimes(exported, pictures):
    _, report, _ = exported
    result = rx.quantize(report.fp32.path, pictures, preprocessing=HOW, effort=0)
    assert any(node.op_type == "QuantizeLinear" for node in result.quantized.model.graph.node)
    same = rx.quantize(report.fp32.path, prepared(pictures), effort=0)
    assert dict(same.table.ranges) == dict(result.table.ranges)


@pytest.mark.parametrize(
    "call",
    [
        lambda model, endless, out: rx.export(small_network(), out, preprocessing=HOW, int8=True, calib=endless),
        lambda model, endless, out: rx.verify(model, against=small_network(), preprocessing=HOW, val=endless),
        lambda model, endless, out: rx.quantize(model, endless, preprocessing=HOW),
        lambda model, endless, out: rx.quantize(model, (prepared([one])[0] for one in endless)),
    ],
)
def test_pictures_without_end_are_refused(call, exported, pictures, tmp_path, monkeypatch):
    """Their number is limited, all are deleted again; what says how many it has may have more."""
    monkeypatch.setattr(spill, "MAX_STREAMED", 20)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(ValueError, match=r"got more than 20 pictures from a \w+, .* Give itertools\.islice\("):
        call(exported[1].fp32.path, itertools.cycle(pictures), tmp_path / "out")
    assert not list(tmp_path.iterdir())
    assert len(spill.spill_pictures(pictures, tmp_path, "calib")) == len(pictures) > 20


def test_an_array_file_that_cannot_be_read_is_named_as_it_was_given(tmp_path):
    path = tmp_path / "frames.npy"
    np.save(path, np.zeros((40, 32, 32, 4), np.uint8))
    with pytest.raises(ImageFolderError, match=rf"cannot read image '{path}/\d{{8}}-frames\.npy': .*transparency"):
        rx.export(small_network(), tmp_path / "out", preprocessing=HOW, int8=True, calib=path)


def test_a_loader_without_length_is_limited(monkeypatch):
    """PyTorch's DataLoader has a `len` that raises for a data set that says none."""
    monkeypatch.setattr(spill, "MAX_STREAMED", 20)

    class Endless(torch.utils.data.IterableDataset):
        def __iter__(self):
            return itertools.repeat(np.zeros((3, 4, 4), np.float32))

    spill.check_number(21, torch.utils.data.DataLoader([0] * 30), "calib")
    spill.check_number(21, np.zeros((30, 4, 4, 3)), "calib")
    with pytest.raises(ValueError, match="got more than 20 pictures from a DataLoader"):
        spill.check_number(21, torch.utils.data.DataLoader(Endless()), "calib")


def test_pictures_leave_room_on_the_disk(pictures, tmp_path, monkeypatch):
    left = iter(range(1000, 0, -100))
    monkeypatch.setattr(spill.shutil, "disk_usage", lambda folder: SimpleNamespace(free=next(left)))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(
        OSError, match=r"calib: .* 200 bytes left after 7 pictures .* expected to leave 250; give fewer"
    ):
        rx.export(small_network(), tmp_path / "out", preprocessing=HOW, int8=True, calib=itertools.cycle(pictures))
    assert not list(tmp_path.iterdir())


def test_without_a_temporary_folder_the_reason_is_told(exported, pictures, photo_folder, tmp_path, monkeypatch):
    """Pictures in memory need one, and PyTorch; a folder of pictures that a bundle is verified on does not."""
    _, report, _ = exported
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "missing")])
    with pytest.raises(OSError, match=r"^val: what is no folder .* No usable temporary directory .* set TMPDIR to"):
        rx.verify(report.bundle, val=pictures)
    with pytest.raises(ExportError, match=r"^PyTorch needs a temporary folder: No usable .* set TMPDIR to"):
        rx.export("cifar_resnet20", tmp_path / "out", weights="random", num_classes=10)
    assert rx.verify(report.bundle, val=photo_folder).gates


def test_timm_says_how_its_images_are_prepared(tmp_path):
    timm = pytest.importorskip("timm")
    module = timm.create_model("test_resnet", num_classes=5)
    report = rx.export(module, tmp_path / "out")
    config = module.pretrained_cfg
    with rx.load(report.bundle, provider="cpu") as net:
        assert net.preparation.preprocessing.mean == tuple(config["mean"])


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: rx.export(3), TypeError, r"model: got int, expected a torch.nn.Module, a name"),
        (lambda: rx.export(lambda: None), TypeError, r"model: got function, .*file; call it and give what it returns"),
        (lambda: rx.export(np.zeros(3)), TypeError, "got ndarray, expected a torch.nn.Module"),
        (lambda: rx.export("resnet18", int8=True), OptionError, "--int8 needs --calib"),
        (lambda: rx.export("resnet18", int8=True, calib=5), TypeError, "calib: got int, expected a folder"),
        (lambda: rx.export("resnet18", calib=[], int8=True), ValueError, "got no pictures"),
        (lambda: rx.export("resnet18", calib=[np.zeros((3, 3))], int8=True), TypeError, r"calib\[0\]: got float64"),
        (
            lambda: rx.export("resnet18", calib=map(Path, "ab"), int8=True),
            TypeError,
            r"calib\[0\]: got PosixPath, .*; files are given as a list: list",
        ),
        (
            lambda: rx.export("resnet18", calib=[[np.zeros((2, 3, 8, 8), np.float32), [0, 1]]], int8=True),
            TypeError,
            r"calib\[0\]: got list, .*; of a loader of pictures and labels give the pictures",
        ),
        (
            lambda: rx.export(small_network(), "x", preprocessing=HOW, outputs=["a"]),
            ModelObjectError,
            "--outputs a: it",
        ),
        (lambda: rx.export("resnet18", outputs=["a", "b", "a"]), OptionError, "--outputs: 'a' is given twice"),
        (lambda: rx.export("resnet18", features=["fc"], outputs=["a"]), OptionError, "leave out --features or --out"),
        (lambda: rx.export("resnet18", effort=7), OptionError, "effort: got 7"),
        (lambda: rx.export("resnet18", target="tpu"), ValueError, "tpu"),
        (lambda: rx.export("resnet18", batch="8"), TypeError, "batch: got '8'"),
        (lambda: rx.export("resnet18", features="layer2"), TypeError, "features"),
        (lambda: rx.export("resnet18", preprocessing={"size": 3}), TypeError, "got dict"),
        (lambda: rx.export(small_network(), "x"), PreprocessingError, "nothing tells how images are prepared"),
        (lambda: rx.export(small_network().half(), "x", preprocessing=HOW), WeightsError, "float16, expected"),
        (lambda: rx.export(nn.Flatten(), "x", preprocessing=HOW, num_classes=3), ModelObjectError, "classes"),
        (lambda: rx.Preprocessing(size=-1), ValueError, "size: got -1"),
        (lambda: rx.Preprocessing(interpolation="cubic"), ValueError, "expected one of nearest"),
        (lambda: rx.verify(3), TypeError, "subject: got 3, expected a text or path"),
        (lambda: rx.load(b"x"), TypeError, "path: got b'x', expected a text or path"),
        (lambda: rx.load("x", threads=True), TypeError, "threads: got True"),
        (lambda: rx.load("x", provider_options=["a"]), TypeError, "provider_options: got list, expected a mapping"),
        (lambda: rx.sensitivity("x", None), TypeError, "calib: got NoneType, expected a folder, a list of"),
        (lambda: rx.sensitivity(3, "x"), TypeError, "bundle: got 3, expected a text or path"),
        (lambda: rx.verify("x", val_labels=[1, 1.5]), TypeError, r"val_labels\[1\]: got 1\.5, expected a class index"),
        (lambda: rx.sensitivity("x", "y", val="z", val_labels=[1.5]), TypeError, r"val_labels\[0\]: got 1\.5"),
        (lambda: rx.sensitivity("x", "y", val_labels=[1]), OptionError, "--val-labels says the classes of --val"),
        (lambda: rx.verify("x", val_labels=[1]), OptionError, "--val-labels says the classes of --val"),
        (lambda: rx.export("resnet18", val_labels=[1]), OptionError, "--val-labels says the classes of --val"),
        (lambda: rx.export("resnet18", num_val=3), OptionError, "--num-val counts images of --val DIR"),
        (lambda: rx.verify("x", val_labels=["3"]), TypeError, r"val_labels\[0\]: got '3', expected a class index"),
        (lambda: rx.verify("x", val_labels="33"), TypeError, "val_labels: got str, expected one class index for each"),
        (lambda: rx.export("resnet18", val_labels=[True]), TypeError, r"val_labels\[0\]: got True, expected a class"),
        (lambda: rx.Preprocessing(mean=(123.7, 116.3, 103.5)), PreprocessingError, "mean: got 123.7, 116.3, 103.5 for"),
        (lambda: rx.Preprocessing(std=(58.4, 57.1, 57.4)), PreprocessingError, "divide both mean and std by 255"),
        (lambda: rx.quantize(np.zeros(3), "x"), TypeError, "expected an onnx.ModelProto"),
        (lambda: rx.bench(), ValueError, "models: got none"),
    ],
)
def test_wrong_arguments_say_what_was_expected(call, error, words):
    with pytest.raises(error, match=words):
        call()


@pytest.mark.parametrize("kind", ["folder", "list", "arrays"])
def test_sensitivity_takes_images_as_export_does(kind, tmp_path, monkeypatch):
    """And called from the outside, so does the command; what is done with them `tests/e2e` runs."""
    asked = []

    def rank_bundle(options, reporter):
        asked.append((len(options.calib.paths()), len(options.val.paths()), options.val_labels, options.num_val))
        return {}, None

    monkeypatch.setattr(checks, "rank_bundle", rank_bundle)
    pictures = [np.full((8, 8, 3), level, np.uint8) for level in (0, 99, 255)]
    files = [tmp_path / f"{place}.png" for place in range(3)]
    for path, picture in zip(files, pictures, strict=True):
        Image.fromarray(picture).save(path)
    given = {"folder": tmp_path, "list": files, "arrays": pictures}[kind]
    rx.sensitivity("bundle", given, val=given, val_labels=[0, 1, 2], num_val=2)
    assert asked == [(3, 3, (0, 1, 2), 2)]


@pytest.mark.parametrize("labels", [[0, 2], (np.int64(0), np.uint8(2)), np.array([0, 2]), torch.tensor([0, 2])])
def test_class_numbers_of_other_libraries_are_taken(labels):
    assert class_numbers(labels) == (0, 2)


def test_one_path_where_a_list_was_meant_says_so(exported):
    with rx.load(exported[1].bundle, provider="cpu") as net:
        with pytest.raises(TypeError, match="got str, expected a list of pictures"):
            net.prepare("a.jpg")
        with pytest.raises(InputMismatchError, match="got ndarray, expected a mapping"):
            net.run(np.zeros((1, 3, SIZE, SIZE), np.float32))


def test_names_are_listed_and_unknown_ones_say_which_there_are():
    assert set(dir(rx)) >= {"export", "verify", "load", "quantize", "build", "bench", "lint", "doctor", "models"}
    assert all(hasattr(rx, name) for name in rx.__all__)
    with pytest.raises(AttributeError, match=r"it has .*export"):
        rx.exprot  # noqa: B018


def test_the_tutorial_s_first_example_is_typed_and_runs(few_digits, tmp_path, monkeypatch, capsys):
    script = ROOT / "examples" / "module_to_bundle.py"
    lines = [line for line in script.read_text().splitlines() if line.strip() and not line.startswith(('"""', "#"))]
    assert len(lines) <= 12
    # Fenced as ```python, ruff would format this line as Python, and the page would show it as it is.
    assert '``` { .python }\n--8<-- "examples/module_to_bundle.py"\n```' in (ROOT / "docs" / "tutorial.md").read_text()
    # An editable installation is found by Python's import hooks, which mypy does not run; a plain one needs no path.
    # From the root, since a path makes our sources part of what is checked: pyproject.toml knows which libraries
    # come without types.
    checked = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", str(script)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT)},
        check=False,
    )
    assert checked.returncode == 0, checked.stdout
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(rx, "export", functools.partial(rx.export, effort=0))  # more of it: test_main_job
    monkeypatch.setattr(sys, "argv", [str(script), str(few_digits), str(tmp_path / "out")])
    runpy.run_path(str(script), run_name="__main__")
    assert "passed: True" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"int8": "no"}, TypeError, "int8: got 'no', expected True or False"),
        ({"num_calib": True}, TypeError, "num_calib: got True, expected a whole number"),
        ({"topk": True}, TypeError, "topk: got True, expected a whole number"),
        ({"method": None}, TypeError, "method: got None, expected one of max"),
        ({"target": None}, TypeError, "target: got None, expected one of tensorrt"),
        ({"calib_cache": False}, TypeError, "calib_cache: got False, expected a text or path"),
        ({"weights": None}, TypeError, "weights: got None, expected a text or path"),
        (
            {"int8": True, "calib": "photos", "min_agreement": "99%"},
            TypeError,
            "min_agreement: got '99%', expected a number",
        ),
        ({"labels": ["a", "b", "c", "d\ne"]}, ExportError, r"'d\\ne', expected names of one line"),
        ({"labels": ["a", "b", "c", "d\u2028e"]}, ExportError, "expected names of one line"),
    ],
)
def test_export_refuses(options, error, says, tmp_path):
    with pytest.raises(error, match=says):
        rx.export(small_network(), tmp_path / "bundle", preprocessing=HOW, **options)
    assert not list(tmp_path.iterdir())


def test_a_class_is_no_model(tmp_path):
    with pytest.raises(TypeError, match=r"got the class Linear, expected one of it: Linear\(\.\.\.\)"):
        rx.export(nn.Linear, tmp_path / "bundle")


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (
            lambda bundle: rx.bench(bundle, precision="int8"),
            TypeError,
            "precision: got 'int8', expected a list",
        ),
        (lambda bundle: rx.bench(bundle, batch=(0,)), ValueError, r"batch: got \(0,\)"),
        (lambda bundle: rx.bench(bundle, batch=()), ValueError, r"batch: got \(\)"),
        (lambda bundle: rx.bench(bundle, seconds=float("nan")), ValueError, "seconds: got nan"),
        (lambda bundle: rx.sensitivity(bundle, "photos", num_calib=0), ValueError, "num_calib: got 0"),
        (
            lambda bundle: rx.build(bundle, precision="int4", rtx=True),
            ValueError,
            "precision: got 'int4', expected one",
        ),
        (lambda bundle: rx.triton(bundle, "o", precisions=["int4"]), ValueError, "precision: got 'int4', expected one"),
        (lambda bundle: rx.quantize(f"{bundle}/model.onnx", [], target=None), TypeError, "target: got None"),
        (
            lambda bundle: rx.quantize(f"{bundle}/model.onnx", [], keep_float="fc"),
            TypeError,
            "keep_float: got 'fc', expected a list",
        ),
        (
            lambda bundle: rx.quantize(f"{bundle}/model.onnx", [], keep_float=["0", "5"]),
            PlacementError,
            "keep_float 0,5: no layer is left for INT8; name fewer",
        ),
        (
            lambda bundle: rx.quantize(f"{bundle}/model.onnx", [], target="onnxruntime", zero_points="pads"),
            ValueError,
            "zero_points is for TensorRT's files",
        ),
        (
            lambda bundle: rx.quantize(f"{bundle}/model.onnx", [], zero_points="all"),
            ValueError,
            "zero_points: got 'all'",
        ),
        (
            lambda bundle: rx.verify(bundle, weights=b"imagenet"),
            TypeError,
            "weights: got b'imagenet', expected a text",
        ),
        (lambda bundle: rx.load(bundle, threads="2"), TypeError, "threads: got '2'"),
        (lambda bundle: rx.load(bundle, provider="cpu", provider_options={"a": "b"}), ValueError, "takes none"),
        (
            lambda bundle: rx.load(bundle / "manifest.json"),
            BundleError,
            "is a manifest, no model; expected the bundle's",
        ),
        (
            lambda bundle: rx.load(bundle / "report.json"),
            BundleError,
            r"report.json is no model; it has model\.onnx, mod",
        ),
        (
            lambda bundle: rx.build(bundle / "manifest.json", rtx=True),
            BundleError,
            "is a file, expected the folder of a",
        ),
        (lambda bundle: rx.load(bundle, file="nope.onnx"), BundleError, "does not exist; the bundle has"),
    ],
)
def test_what_a_bundle_cannot_do(call, error, says, exported):
    with pytest.raises(error, match=says):
        call(exported[1].bundle)


def test_a_model_in_memory_need_not_name_its_nodes():
    model = small_bundle_network()
    for node in model.graph.node:
        node.name = ""
    images = np.random.default_rng(0).normal(size=(40, 3, 16, 16)).astype(np.float32)
    quantized = rx.quantize(model, images, effort=0).quantized.model
    assert any(node.op_type == "QuantizeLinear" for node in quantized.graph.node)
    assert {node.name for node in model.graph.node} == {""}, "the caller's is left as it is"
