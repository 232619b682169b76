"""Which images a run is over, and in which order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtimes.errors import ImageFolderError
from runtimes.preprocessing.image_list import list_images


def test_a_folder_as_find_images_orders_it(tmp_path):
    for name in ("b/2.png", "b/10.png", "a.jpg", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert list_images(tmp_path) == tuple(str(tmp_path / name) for name in ("a.jpg", "b/10.png", "b/2.png"))


def test_a_list_keeps_its_order_and_what_comes_twice(tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("b.png\r\n\na b.png\n/abs/größe.png\nb.png", encoding="utf-8")
    assert list_images(listed) == ("b.png", "a b.png", "/abs/größe.png", "b.png")


def test_names_with_newlines_and_without_utf8(tmp_path):
    """What `find -print0` writes: every name that a file can have."""
    names = [b"plain.png", b"two\nlines.png", b"latin-\xe9.png", "猫.png".encode()]
    listed = tmp_path / "list"
    listed.write_bytes(b"\0".join(names) + b"\0")
    assert [os.fsencode(name) for name in list_images(listed)] == names


def test_an_image_is_the_only_one(tmp_path):
    (tmp_path / "x.PNG").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert list_images(tmp_path / "x.PNG") == (str(tmp_path / "x.PNG"),)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_with_a_byte_order_mark(tmp_path, encoding):
    """Windows' editor and shell write it; UTF-16 has NUL bytes, which would part every letter from the next."""
    (tmp_path / "list.txt").write_text("größe.png\r\nb.png\r\n", encoding=encoding, newline="")
    assert list_images(tmp_path / "list.txt") == ("größe.png", "b.png")


@pytest.mark.parametrize(
    "content", [b"PK\x03\x04\n", b"a/b.jpg\0\0\x00000644\0\xff\xd8\xff\xe0\0\x10JFIF", b"PAR1\x15\4\n"]
)
def test_an_archive_or_a_table_is_no_list(tmp_path, content):
    """Not names of some hundred files that are not there."""
    (tmp_path / "photos").write_bytes(content)
    with pytest.raises(ImageFolderError, match="is no list of images: it holds bytes that are no text; expected"):
        list_images(tmp_path / "photos")


def test_half_a_letter_of_utf16(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfea")
    with pytest.raises(ImageFolderError, match=r"list\.txt cannot be read: 'utf-16.* truncated data"):
        list_images(tmp_path / "list.txt")


@pytest.mark.parametrize("content", ["", "\n\n", "\0\0"])
def test_a_list_of_nothing(tmp_path, content):
    (tmp_path / "list").write_text(content)
    with pytest.raises(ImageFolderError, match="names no image"):
        list_images(tmp_path / "list")


def test_an_empty_folder(tmp_path):
    with pytest.raises(ImageFolderError, match="no images in"):
        list_images(tmp_path)


def test_nothing_there(tmp_path):
    with pytest.raises(ImageFolderError, match="cannot be read: No such file"):
        list_images(Path(tmp_path / "missing"))
