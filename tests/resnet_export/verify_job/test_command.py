"""`verify --val` takes what the main command's `--val` takes: each kind of source is measured as the folder is."""

import csv
import io
import json
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image

from resnet_export.main import main

PER_CLASS = 3


@pytest.fixture(scope="module")
def folder(digits_folder, tmp_path_factory):
    """A few images of each class, one of them in a wrong class, so that top-1 tells whether labels arrive."""
    root = tmp_path_factory.mktemp("val") / "val"
    for group in sorted((digits_folder / "val").iterdir()):
        (root / group.name).mkdir(parents=True)
        for path in sorted(group.iterdir())[:PER_CLASS]:
            shutil.copy(path, root / group.name)
    one = next((root / "7").iterdir())
    one.rename(root / "3" / f"seven-{one.name}")
    return root


def verified(bundle, tmp_path, *words):
    path = tmp_path / "report.json"
    main(["verify", str(bundle), "--precision", "int8", *map(str, words), "--json", str(path), "--quiet"])
    return json.loads(path.read_text())


def judged(report):
    return next(file for file in report["files"] if file["precision"] == "int8")


def measured(report):
    (part,) = [part for part in judged(report)["comparisons"] if part["on"] == "val"]
    return part["metrics"]


@pytest.fixture(scope="module")
def expected(digits_bundle, folder, tmp_path_factory):
    found = measured(verified(digits_bundle, tmp_path_factory.mktemp("report"), "--val", folder))
    assert found["num_images"] == 10 * PER_CLASS
    assert 0.5 < found["top1_candidate"] < 1
    return found


def pictures(folder):
    return [(path, path.parent.name) for path in sorted(folder.rglob("*.png"))]


def as_globs(folder, here):
    for half in ("a", "b"):
        shutil.copytree(folder, here / half, ignore=lambda at, names, half=half: [n for n in names if _left(n, half)])
    return ["--val", here / "a", "--val", here / "[b]"]


def _left(name, half):
    return name.isdigit() and (int(name) < 5) != (half == "a")


def as_list(folder, here):
    (here / "list.txt").write_text("".join(f"{path} {label}\n" for path, label in pictures(folder)))
    return ["--val", here / "list.txt"]


def as_csv(folder, here):
    with (here / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("filename", "label"), *((str(path), label) for path, label in pictures(folder))])
    return ["--val", here / "list.csv"]


def as_flat_folder(folder, here):
    (here / "flat").mkdir()
    lines = []
    for path, label in pictures(folder):
        shutil.copy(path, here / "flat" / f"{label}{path.name}")
        lines.append(f"{label}{path.name} {label}\n")
    (here / "val.txt").write_text("".join(lines))
    return ["--val", here / "flat", "--val-labels", here / "val.txt"]


def as_tar(folder, here):
    with tarfile.open(here / "val.tar.gz", "w:gz") as archive:
        archive.add(folder, "val")
    return ["--val", here / "val.tar.gz"]


def as_shards(folder, here):
    for half in (0, 1):
        with tarfile.open(here / f"shard-{half}.tar", "w") as archive:
            for number, (path, label) in enumerate(pictures(folder)[half::2]):
                for suffix, content in (("png", path.read_bytes()), ("cls", label.encode())):
                    info = tarfile.TarInfo(f"{number:06d}.{suffix}")
                    info.size = len(content)
                    archive.addfile(info, io.BytesIO(content))
    return ["--val", here / "shard-*.tar"]


def as_arrays(folder, here):
    images = np.stack([np.asarray(Image.open(path).convert("RGB")) for path, _ in pictures(folder)])
    np.savez(here / "val.npz", images=images, labels=[int(label) for _, label in pictures(folder)])
    return ["--val", here / "val.npz"]


@pytest.mark.parametrize("make", [as_globs, as_list, as_csv, as_flat_folder, as_tar, as_shards, as_arrays])
def test_every_kind_of_source_is_measured_as_the_folder(digits_bundle, folder, expected, tmp_path, make):
    words = make(folder, tmp_path)
    report = verified(digits_bundle, tmp_path, *words)
    found = measured(report)
    for name in ("num_images", "top1_reference", "top1_candidate", "agreement", "sqnr_db"):
        assert found[name] == pytest.approx(expected[name]), name
    assert report["images"]["val"]["source"].startswith(str(words[1]))
    assert str(words[1]) in report["images"]["statement"]


def test_pictures_that_differ_are_called_by_their_names_and_shown(digits_bundle, folder, tmp_path):
    words = ["--against", "cifar_resnet20", "--weights", "random", "--num-classes", "10", "--html", tmp_path / "r.html"]
    report = verified(digits_bundle, tmp_path, *as_list(folder, tmp_path), *words)
    flips = [flip["image"] for part in judged(report)["comparisons"] for flip in part["flips"]]
    names = {path.stem for path, _ in pictures(folder)}
    assert flips
    assert all(any(name in flip for name in names) for flip in flips if not flip.startswith("golden"))
    assert (tmp_path / "r.html").read_text().count("data:image/png;base64,") > 10


def test_labels_without_images_are_refused(digits_bundle, tmp_path, capsys):
    assert main(["verify", str(digits_bundle), "--val-labels", str(tmp_path / "x.txt"), "--quiet"]) == 2
    assert "--val-labels says the classes of --val; give both" in capsys.readouterr().err


@pytest.mark.parametrize("ends", ["inputs", "outputs"])
def test_a_manifest_that_does_not_describe_its_files_is_refused(digits_bundle, tmp_path, capsys, ends):
    bundle = shutil.copytree(digits_bundle, tmp_path / "b")
    content = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    content[ends][0]["name"] = "other"
    (bundle / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    assert main(["verify", str(bundle), "--precision", "int8", "--quiet"]) == 2
    assert f"manifest.json: `{ends}` says 'other' float32" in capsys.readouterr().err


def test_a_manifest_that_prepares_otherwise_than_its_files_is_refused(digits_bundle, tmp_path, capsys):
    """Its golden inputs are prepared already, so that only the file's metadata can tell."""
    bundle = shutil.copytree(digits_bundle, tmp_path / "b")
    content = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    content["preprocessing"]["interpolation"] = "bicubic"
    (bundle / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
    assert main(["verify", str(bundle), "--precision", "int8", "--quiet"]) == 2
    assert '`preprocessing.interpolation` is "bicubic", but model.int8.onnx was exported' in capsys.readouterr().err


def test_a_gate_of_a_file_that_is_not_judged_is_wrong_use(digits_bundle, capsys):
    words = ["verify", str(digits_bundle), "--precision", "int8", "--gate", "fp16.agreement=0.5"]
    assert main(words) == 2
    assert "--gate fp16.agreement=0.5: no file of that precision is judged, only int8" in capsys.readouterr().err
