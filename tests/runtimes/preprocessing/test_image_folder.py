"""find_images and class_of on hand-made folders of empty files, which nothing opens."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from PIL import Image

from runtimes.errors import ImageFolderError
from runtimes.preprocessing.image_folder import (
    IMAGE_EXTENSIONS,
    class_of,
    files_passed_over,
    find_images,
    passed_over_told,
)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in find_images(root)]


def test_images_in_folders_of_any_depth(tmp_path):
    touch(tmp_path, "b/2.png", "a/x/y/1.jpg", "b/1.jpg", "0.bmp", "a/notes.txt", "a/labels")
    assert found(tmp_path) == ["0.bmp", "a/x/y/1.jpg", "b/1.jpg", "b/2.png"]


def test_sorted_by_parts_not_by_text(tmp_path):
    """As text "a b/" and "a-/" sort before "a/", since space and hyphen come before the slash."""
    touch(tmp_path, "a/2.jpg", "a b/1.jpg", "a-/1.jpg", "A/1.jpg", "a/10.jpg", "ä/1.jpg")
    assert found(tmp_path) == ["A/1.jpg", "a/10.jpg", "a/2.jpg", "a b/1.jpg", "a-/1.jpg", "ä/1.jpg"]


def test_every_extension_in_any_case(tmp_path):
    names = [f"{index:02}{extension}" for index, extension in enumerate(IMAGE_EXTENSIONS)]
    upper = [f"{index:02}{extension.upper()}" for index, extension in enumerate(IMAGE_EXTENSIONS)]
    touch(tmp_path, *names, *upper, "x.JPeG", "x.jpg.txt", "jpg", "x.jpg~")
    assert sorted(found(tmp_path)) == sorted([*names, *upper, "x.JPeG"])


def test_hidden_files_and_folders_are_skipped(tmp_path):
    touch(tmp_path, "a/1.jpg", "a/._1.jpg", ".cache/2.jpg", "a/.jpg")
    assert found(tmp_path) == ["a/1.jpg"]


def test_a_hidden_root_is_what_was_asked_for(tmp_path):
    touch(tmp_path, ".data/a/1.jpg")
    assert found(tmp_path / ".data") == ["a/1.jpg"]


def test_folder_named_like_an_image(tmp_path):
    touch(tmp_path, "cat.jpg/1.png")
    assert found(tmp_path) == ["cat.jpg/1.png"]


def test_relative_root(tmp_path, monkeypatch):
    touch(tmp_path, "data/a/1.jpg")
    monkeypatch.chdir(tmp_path)
    assert find_images(Path("data")) == (Path("data/a/1.jpg"),)
    assert find_images(Path()) == (Path("data/a/1.jpg"),)


@pytest.mark.parametrize("name", ["写真", "é", "two\nlines", " ", "percent %s {x}", "\udcff"])
def test_odd_names(tmp_path, name):
    touch(tmp_path, f"{name}/{name}.jpg")
    assert found(tmp_path) == [f"{name}/{name}.jpg"]
    assert class_of(tmp_path, tmp_path / name / f"{name}.jpg") == name


def test_linked_folder_is_followed(tmp_path):
    touch(tmp_path, "elsewhere/1.jpg", "data/b/2.jpg")
    (tmp_path / "data/a").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert found(tmp_path / "data") == ["a/1.jpg", "b/2.jpg"]


def test_folder_with_two_links_is_read_once(tmp_path):
    touch(tmp_path, "elsewhere/1.jpg")
    (tmp_path / "data").mkdir()
    for name in ("z", "a", "m"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert found(tmp_path / "data") == ["a/1.jpg"]


def test_real_folder_keeps_its_path_although_a_link_comes_first(tmp_path):
    touch(tmp_path, "b/deep/1.jpg")
    (tmp_path / "a").symlink_to(tmp_path / "b" / "deep", target_is_directory=True)
    assert found(tmp_path) == ["b/deep/1.jpg"]


def test_link_loops_end(tmp_path):
    touch(tmp_path, "a/b/1.jpg", "2.jpg")
    (tmp_path / "a/b/up").symlink_to(tmp_path, target_is_directory=True)
    (tmp_path / "a/self").symlink_to(tmp_path / "a", target_is_directory=True)
    (tmp_path / "ring1").symlink_to(tmp_path / "ring2")
    (tmp_path / "ring2").symlink_to(tmp_path / "ring1")
    assert found(tmp_path) == ["2.jpg", "a/b/1.jpg"]


def test_root_may_be_a_link(tmp_path):
    touch(tmp_path, "real/a/1.jpg")
    (tmp_path / "link").symlink_to(tmp_path / "real", target_is_directory=True)
    assert find_images(tmp_path / "link") == (tmp_path / "link/a/1.jpg",)


def test_broken_links_are_left_to_read_image(tmp_path):
    """They are missing images, which must be counted, not passed over."""
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    assert found(tmp_path) == ["gone.jpg", "loop.jpg"]


def test_linked_files(tmp_path):
    touch(tmp_path, "elsewhere/1.jpg", "data/0.jpg")
    (tmp_path / "data/1.jpg").symlink_to(tmp_path / "elsewhere/1.jpg")
    assert found(tmp_path / "data") == ["0.jpg", "1.jpg"]


def test_missing_root(tmp_path):
    with pytest.raises(ImageFolderError, match=r"nothing.*no such folder"):
        find_images(tmp_path / "nothing")


def test_root_is_a_file(tmp_path):
    touch(tmp_path, "x.jpg")
    with pytest.raises(ImageFolderError, match=r"x\.jpg.*it is a file"):
        find_images(tmp_path / "x.jpg")


def test_unreadable_folder(tmp_path, monkeypatch):
    """Simulated, because root may read everything."""
    touch(tmp_path, "a/1.jpg", "secret/2.jpg")
    original = os.scandir

    def denied(path):
        if Path(path).name == "secret":
            raise PermissionError(13, "Permission denied", str(path))
        return original(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(ImageFolderError, match=r"secret.*permission denied"):
        find_images(tmp_path)


def test_empty_folder(tmp_path):
    with pytest.raises(ImageFolderError, match="got 0 other files"):
        find_images(tmp_path)


def test_folder_of_other_files(tmp_path):
    touch(tmp_path, "a/1.txt", "2.npz", ".hidden.jpg")
    with pytest.raises(
        ImageFolderError, match=r"got 2 other files \(1 \.npz, 1 \.txt\), expected .*\.jpeg, \.jpg, .*\.webp"
    ):
        find_images(tmp_path)


def test_endings_of_one_format_are_read_alike():
    """Pillow's own list of endings: whoever saved a picture as `.jfif` sees it read as his `.jpg` is."""
    for kind in ("JPEG", "TIFF", "AVIF"):
        known = {ending for ending, name in Image.registered_extensions().items() if name == kind}
        assert known - {".avifs"} <= set(IMAGE_EXTENSIONS)


def test_files_that_are_no_pictures_by_name_are_counted(tmp_path):
    touch(tmp_path, "1.jpg", "a/2.HEIC", "a/b/3.heic", "4.svg", "0017", "labels.txt", "Thumbs.db", ".hidden.heic")
    (tmp_path / "link").symlink_to(tmp_path / "a")
    others = files_passed_over(tmp_path)
    assert others == {".heic": 2, ".svg": 1, "": 1}
    assert passed_over_told("photos", others).startswith(
        "photos: 4 files are passed over, as their names are no picture's (2 .heic, 1 without an extension, 1 .svg); "
    )
    many = passed_over_told("photos", {f".{kind}": 1 for kind in "abcdefg"})
    assert "(1 .a, 1 .b, 1 .c, 1 .d, 1 .e and 2 more kinds)" in many


def test_nothing_to_tell_of_pictures_and_their_notes(tmp_path):
    touch(tmp_path, "1.jpg", "1.json", "README.md")
    assert files_passed_over(tmp_path) == {}


def test_class_of():
    root = Path("data")
    assert class_of(root, Path("data/cat/1.jpg")) == "cat"
    assert class_of(root, Path("data/cat/kitten/1.jpg")) == "cat"
    assert class_of(root, Path("data/1.jpg")) is None
    with pytest.raises(ValueError, match="subpath"):
        class_of(root, Path("other/cat/1.jpg"))


def test_thousands_of_links_are_followed_in_order_and_in_time(tmp_path):
    """Looking for the first link by going through all of them took 85 seconds for 20,000."""
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "x.png").touch()
    links = tmp_path / "links"
    links.mkdir()
    for place in range(4000):
        (links / f"{place:04}").symlink_to(tmp_path / "z", target_is_directory=True)
    start = time.process_time()
    assert find_images(links) == (links / "0000" / "x.png",)
    assert time.process_time() - start < 2.0, "linear: a tenth of that"
