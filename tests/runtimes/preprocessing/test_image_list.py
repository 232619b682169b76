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
