"""Pictures from wherever they are kept: what each kind of source becomes, and what is said of a broken one."""

import csv
import errno
import io
import json
import os
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calibration.errors import CalibrationError
from calibration.observers.sample_images import leave_out_copies
from resnet_export.console.reporter import Reporter
from resnet_export.images.class_index import class_indices
from resnet_export.images.gather import gathered, gathered_source
from resnet_export.images.image_set import called_as_given, image_folder, warn_of_files_passed_over
from resnet_export.images.stream import stream
from resnet_export.images.unusual_files import unusual_files
from runtimes.errors import ImageFolderError
from runtimes.preprocessing.image_batches import image_batches
from runtimes.preprocessing.image_folder import class_of, find_images
from runtimes.preprocessing.transform import Interpolation, Preprocessing

LEVELS = (10, 60, 110, 160)
PREPROCESSING = Preprocessing((4, 4), None, Interpolation.BILINEAR, (0.0,) * 3, (1.0,) * 3)


def png(level) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (6, 5), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def folder(root, names):
    for name, level in names.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(level))
    return root


@pytest.fixture
def flat(tmp_path):
    return folder(tmp_path / "flat", {f"{place}.png": level for place, level in enumerate(LEVELS)})


def levels_and_classes(words, labels=None, num_classes=4):
    """Return (grey level, class index or None) of every picture, in order, read as the main job reads them."""
    with gathered([str(word) for word in words], labels) as root:
        paths = find_images(root)
        classes = class_indices(image_folder(root), paths, None, num_classes)
        (batch,) = image_batches(paths, PREPROCESSING, batch_size=99, max_bad_fraction=0.0)
        levels = [round(float(image.max()) * 255) for image in batch.images]
        return list(zip(levels, [None if classes is None else classes.of[path] for path in batch.paths], strict=True))


UNLABELED = [(level, None) for level in LEVELS]
LABELED = [(level, place) for place, level in enumerate(LEVELS)]


def test_one_plain_folder_stays_what_it_is(flat):
    with gathered([str(flat)]) as root:
        assert root == flat


def test_several_folders_and_globs(tmp_path, flat):
    other = folder(tmp_path / "other", {"a/x.png": 200, "b/y.png": 210})
    assert [level for level, _ in levels_and_classes([flat, tmp_path / "nothing*" / "x"][:1])] == list(LEVELS)
    with gathered([str(flat), str(other / "*")]) as root:
        assert len(find_images(root)) == 6
        assert all(path.is_symlink() for path in find_images(root))
    assert not root.exists()


@pytest.mark.parametrize("pattern", ["flat/*.png", "fl*", "**/*.png"])
def test_a_glob(tmp_path, flat, pattern):
    assert levels_and_classes([tmp_path / pattern]) == UNLABELED


def test_the_same_class_in_two_folders(tmp_path):
    one = folder(tmp_path / "one", {"cat/1.png": 10, "dog/1.png": 60})
    two = folder(tmp_path / "two", {"cat/1.png": 110, "dog/1.png": 160})
    with gathered([str(one), str(two)]) as root:
        assert sorted({class_of(root, path) for path in find_images(root)}) == ["cat", "dog"]
        assert len(find_images(root)) == 4


@pytest.mark.parametrize("word", ["flat", "flat/*", "flat and other", "x.tar"])
def test_files_that_are_no_pictures_are_told_once(tmp_path, flat, word):
    """A phone's `.heic` beside the pictures that are read, however they are given; labels are no news."""
    for name in ("a.heic", "b.HEIC", "c.svg", "labels.csv.bak", "notes.md"):
        (flat / name).touch()
    folder(tmp_path / "other", {"x.png": 200})
    words = [str(tmp_path / one) for one in word.split(" and ")]
    if word == "x.tar":
        shard(tmp_path / word, {path.name: path.read_bytes() for path in flat.iterdir()})
    if word == "flat/*":
        (flat / "notes.md").unlink()
    reporter = Reporter()
    with gathered_source(words) as source:
        warn_of_files_passed_over(reporter, source, None, image_folder(tmp_path / "other"))
    (told,) = reporter.warnings
    assert told.startswith(f"{source.shown}: 4 files are passed over")
    assert "(2 .heic, 1 .bak, 1 .svg)" in told


@pytest.mark.parametrize("separator", [",", "\t", " "])
def test_a_list_with_labels(flat, separator):
    lines = [f"{place}.png{separator}{place}" for place in range(4)]
    (flat / "list.txt").write_text("\n".join(lines) + "\n")
    assert levels_and_classes([flat / "list.txt"]) == LABELED


def test_a_list_without_labels_and_names_with_spaces(tmp_path):
    folder(tmp_path, {"a b.png": 10, "c d/e f.png": 60})
    (tmp_path / "list.txt").write_text("# mine\na b.png\n\nc d/e f.png\n")
    assert levels_and_classes([tmp_path / "list.txt"]) == [(10, None), (60, None)]


@pytest.mark.parametrize("heads", [("path", "label"), ("label", "filename"), ("ImageId", "PredictionString")])
def test_a_csv_with_a_header(flat, heads):
    with (flat / "list.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(heads)
        for place in range(4):
            row = [f"{place}.png", f"{place} 1 2 3" if heads[0] == "ImageId" else str(place)]
            writer.writerow(row[::-1] if heads[0] == "label" else row)
    assert levels_and_classes([flat / "list.csv"]) == LABELED


@pytest.mark.parametrize(
    "text",
    [
        "0.png 0\n1.png 1\n2.png 2\n3.png 3\n",
        "image,class\n0,0\n1,1\n2,2\n3,3\n",
        "deep/0.png,0\n1.png,1\n2.png,2\n3.png,3",
    ],
)
def test_imagenets_own_layout_a_flat_folder_and_a_file_of_labels(tmp_path, flat, text):
    (tmp_path / "val.csv").write_text(text)
    assert levels_and_classes([flat], tmp_path / "val.csv") == LABELED


def test_labels_by_synset_id(tmp_path, flat):
    (tmp_path / "val.txt").write_text("0.png n01440764\n1.png n01443537\n2.png n01440764\n3.png n15075141\n")
    found = levels_and_classes([flat], tmp_path / "val.txt", num_classes=1000)
    assert dict(found) == {10: 0, 60: 1, 110: 0, 160: 999}


def test_a_ground_truth_without_file_names_is_refused_with_the_reason(tmp_path, flat):
    (tmp_path / "truth.txt").write_text("490\n361\n171\n822\n")
    with pytest.raises(ImageFolderError, match=r"ILSVRC ids.*val\.txt"):
        levels_and_classes([flat], tmp_path / "truth.txt")


def test_an_image_without_a_label_is_an_error(tmp_path, flat):
    (tmp_path / "val.txt").write_text("0.png 0\n1.png 1\n")
    with pytest.raises(ImageFolderError, match="2 of 4 images have no label"):
        levels_and_classes([flat], tmp_path / "val.txt")


def shard(path, members, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


@pytest.mark.parametrize("kind", ["cls", "json"])
def test_a_webdataset_shard(tmp_path, kind):
    members = {}
    for place, level in enumerate(LEVELS):
        label = str(place) if kind == "cls" else json.dumps({"label": place, "caption": "x"})
        members |= {f"{place:06d}.png": png(level), f"{place:06d}.{kind}": label.encode()}
    assert levels_and_classes([shard(tmp_path / "shard-000.tar", members)]) == LABELED


def test_pictures_of_one_webdataset_sample_have_their_own_labels(tmp_path):
    members = {}
    for place, level in enumerate(LEVELS):
        members |= {f"x/a_1.{place}m.png": png(level), f"x/a_1.{place}m.cls": str(place).encode()}
    assert levels_and_classes([shard(tmp_path / "a.tar", members)]) == LABELED


def test_one_label_is_for_all_pictures_of_its_sample(tmp_path):
    members = {}
    for place, level in enumerate(LEVELS):
        members |= {f"{place}.left.png": png(level), f"{place}.cls": str(place).encode(), f"{place}.json": b"{}"}
    assert levels_and_classes([shard(tmp_path / "a.tar", members)]) == LABELED


def test_a_picture_between_two_labels_is_an_error(tmp_path):
    members = {"a.1.cls": b"3", "a.2.cls": b"4", "a.png": png(10)}
    with pytest.raises(
        ImageFolderError, match=r"a\.png: labels of its sample are 3, 4, none of its own name; expected a\.cls"
    ):
        levels_and_classes([shard(tmp_path / "a.tar", members)])


def test_a_tar_of_class_folders_and_one_without(tmp_path):
    names = {f"val/{name}/x.png": png(level) for name, level in zip("abcd", LEVELS, strict=True)}
    assert levels_and_classes([shard(tmp_path / "a.tar.gz", names, "w:gz")]) == LABELED
    assert (
        levels_and_classes([shard(tmp_path / "b.tar", {f"{n}.png": png(v) for n, v in enumerate(LEVELS)})]) == UNLABELED
    )


def test_nothing_of_an_archive_lands_outside(tmp_path):
    names = {"../../evil.png": png(10), "/abs/evil.png": png(60)}
    path = shard(tmp_path / "x.tar", names)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    before = set(tmp_path.rglob("*"))
    with gathered([str(path)]) as root:
        assert sorted(found.suffix for found in find_images(root)) == [".png", ".png"]
        assert not any(found.is_symlink() for found in find_images(root))
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_arrays_with_labels(tmp_path, layout):
    images = np.stack([np.full((6, 5, 3), level, np.uint8) for level in LEVELS])
    images = images.transpose(0, 3, 1, 2) if layout == "NCHW" else images
    np.savez(tmp_path / "val.npz", images=images, labels=np.arange(4))
    assert levels_and_classes([tmp_path / "val.npz"]) == LABELED
    np.save(tmp_path / "val.npy", images)
    assert levels_and_classes([tmp_path / "val.npy"]) == UNLABELED


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 1), (1, 6, 5)])
@pytest.mark.parametrize("kind", [np.uint8, np.uint16])
def test_grey_arrays_are_taken_as_grey_files_are(tmp_path, shape, kind):
    white = np.iinfo(kind).max // 255
    np.save(tmp_path / "grey.npy", np.stack([np.full(shape, level * white, kind) for level in LEVELS]))
    assert levels_and_classes([tmp_path / "grey.npy"]) == UNLABELED


def test_a_full_temporary_disk_is_told(tmp_path, monkeypatch):
    np.save(tmp_path / "x.npy", np.zeros((4, 6, 5, 3), np.uint8))

    def refuse(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(
        ImageFolderError, match=r"x\.npy: 0 pictures were kept in .* No space left on device; set TMPDIR"
    ):
        levels_and_classes([tmp_path / "x.npy"])


def test_what_cannot_be_read_is_named_as_it_was_given(tmp_path, flat):
    """Not by a path in a temporary folder: the array of the user's file, the file that a list names."""
    np.save(tmp_path / "rgba.npy", np.zeros((4, 6, 5, 4), np.uint8))
    (flat / "0.png").write_bytes(b"no picture")
    (flat / "list.txt").write_text("0.png\n")
    for path, told in (
        (tmp_path / "rgba.npy", rf"'{tmp_path}/rgba\.npy/00000000-rgba\.npy': .*\[6, 5, 4\].*keep \[\.\.\., :3\]"),
        (flat / "list.txt", f"'{flat}/0.png'"),
    ):
        with (
            pytest.raises(ImageFolderError, match=told),
            gathered_source([str(path)]) as source,
            called_as_given(Reporter(), source, None),
        ):
            list(image_batches(source.paths(), PREPROCESSING, batch_size=9))


def test_validation_images_that_calibrate_are_named_as_they_were_given(flat):
    """Both of them: the list's links have other names in another folder."""
    (flat / "list.txt").write_text("0.png\n")
    told = f"first '{flat}/0.png' = '{flat}/0.png';"
    with (
        pytest.raises(CalibrationError, match=re.escape(told)),
        gathered_source([str(flat / "list.txt")]) as source,
        called_as_given(Reporter(), source, None),
    ):
        leave_out_copies([flat / "0.png"], source.paths())


def test_a_warning_names_the_picture_of_an_archive(tmp_path):
    """Pictures that may be left out are warned of while the run goes on, in the same words as an error has."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in (("cat/good.png", png(60)), ("cat/bad.png", png(60)[:40])):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    (tmp_path / "photos.tar").write_bytes(buffer.getvalue())
    reporter = Reporter()
    with gathered_source([str(tmp_path / "photos.tar")]) as source, called_as_given(reporter, source):
        batches = list(stream("calibrating", source.paths(), PREPROCESSING, 1, reporter))
    assert [len(batch.images) for batch in batches] == [1]
    assert f"'{tmp_path}/photos.tar/cat/00000001-bad.png'" in reporter.warnings[0]
    assert str(source.root) not in "".join(reporter.warnings)
    reporter.warn(f"{source.root}/x")  # outside of it nothing is renamed
    assert reporter.warnings[-1] == f"{source.root}/x"


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"images": np.zeros((2, 6, 5, 3), np.float32)}, "expected pixels uint8"),
        ({"images": np.zeros((2, 6, 5, 3), np.uint8), "labels": np.zeros(3, np.int64)}, "one each"),
        ({"weights": np.zeros(3)}, "holds weights, expected images under one of"),
        ({"images": np.array([object()])}, "no whole array file"),
    ],
)
def test_arrays_that_are_no_pictures(tmp_path, arrays, words):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ImageFolderError, match=words):
        levels_and_classes([tmp_path / "x.npz"])


def arrow_table(arrow):
    images = [{"bytes": png(level), "path": None} for level in LEVELS]
    kind = arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())])
    return arrow.table({"image": arrow.array(images, kind), "label": arrow.array(range(4), arrow.int64())})


def test_a_dataset_that_hugging_face_saved(tmp_path):
    """The layout of `datasets.Dataset.save_to_disk`: state.json, dataset_info.json, data-*.arrow as an Arrow stream."""
    arrow = pytest.importorskip("pyarrow")
    for split in ("train", "validation"):
        root = tmp_path / "saved" / split
        root.mkdir(parents=True)
        table = arrow_table(arrow)
        with (
            arrow.OSFile(str(root / "data-00000-of-00001.arrow"), "wb") as sink,
            arrow.ipc.new_stream(sink, table.schema) as writer,
        ):
            writer.write_table(table)
        (root / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    assert levels_and_classes([tmp_path / "saved" / "validation"]) == LABELED
    (tmp_path / "saved" / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "validation"]}))
    with pytest.raises(ImageFolderError, match=r"holds the splits train, validation; name one, such as .*/validation"):
        levels_and_classes([tmp_path / "saved"])


def test_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow_table(arrow), tmp_path / "val-00000.parquet")
    assert levels_and_classes([tmp_path / "val-00000.parquet"]) == LABELED


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gone", None, "there is no such file or folder; expected a folder, a glob"),
        ("no*match", None, "no file or folder matches this pattern"),
        ("x.tar", b"no archive", "no whole tar archive"),
        ("x.npy", b"no array", "no whole array file"),
        ("x.parquet", b"no table", "no whole Arrow or Parquet file"),
        ("x.txt", b"\n\n", "names no image"),
        ("x.txt", b"absent.png\n", r"entry 1: there is no file 'absent\.png'"),
        ("x.csv", b"\xff\xfe\x00", "cannot be read as a list"),
        ("x.zip", b"PK", "it is no picture by its name; expected a folder, a glob"),
        ("x.txt", b"x.txt\n", r"entry 1: 'x\.txt' is of no kind that is read"),
    ],
)
def test_sources_that_cannot_be_read(tmp_path, name, content, words):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ImageFolderError, match=words):
        levels_and_classes([tmp_path / name])


def test_what_is_not_read_is_not_left_out_in_silence(tmp_path, flat):
    (tmp_path / "more.zip").write_bytes(b"PK")
    for name, words in (("more.zip", "it is no picture by its name"), ("*.zip", "got 1 files, none of which is read")):
        with pytest.raises(ImageFolderError, match=words), gathered([str(flat), str(tmp_path / name)]):
            pass
    with gathered([str(flat), str(tmp_path / "*")]) as root:
        assert len(list(find_images(root))) == 2 * len(LEVELS)


def test_folders_named_by_class_index(tmp_path):
    root = folder(tmp_path / "val", {"0/a.png": 10, "2/a.png": 60, "11/a.png": 110})
    assert dict(levels_and_classes([root], num_classes=20)) == {10: 0, 60: 2, 110: 11}


def test_a_label_beyond_the_classes_is_refused(flat):
    (flat / "list.txt").write_text("0.png 7\n")
    with pytest.raises(ImageFolderError, match="go up to class 7, but the model has 4 classes"):
        levels_and_classes([flat / "list.txt"])


def test_some_images_outside_of_the_class_folders_are_an_error(tmp_path):
    root = folder(tmp_path / "val", {"cat/a.png": 10, "b.png": 60})
    with pytest.raises(ImageFolderError, match=r"1 images, first 'b\.png', are in no class folder, the others are"):
        levels_and_classes([root])


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("name", ["list.txt", "pictures.tar", "picture.jpg", "pipe"])
def test_a_pipe_is_told_as_such(name, tmp_path):
    os.mkfifo(tmp_path / name)
    with pytest.raises(ImageFolderError, match=rf"{name} is a pipe or a device; write what it gives to a file"):
        gathered([str(tmp_path / name)]).__enter__()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_pipe_among_pictures_is_not_waited_for(tmp_path):
    (tmp_path / "deep.png").write_bytes(png(60))
    Image.fromarray(np.full((4, 4), 60000, np.uint16)).save(tmp_path / "sixteen.png")
    os.mkfifo(tmp_path / "pipe.jpg")
    os.mkfifo(tmp_path / "pipe.png")
    (line,) = unusual_files(sorted(tmp_path.iterdir()))
    assert line.startswith("1 of 4 pictures looked at have 16 bits")
