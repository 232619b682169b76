from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from runtimes.io.cache_dir import user_cache_folder, write_cache_file


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    for name in ("RESNET_EXPORT_CACHE", "XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/somebody")


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "/home/somebody/.cache/resnet-export"),
        ("linux", {"XDG_CACHE_HOME": "/caches"}, "/caches/resnet-export"),
        ("linux", {"XDG_CACHE_HOME": "", "RESNET_EXPORT_CACHE": ""}, "/home/somebody/.cache/resnet-export"),
        ("linux", {"XDG_CACHE_HOME": "/caches", "RESNET_EXPORT_CACHE": "/own"}, "/own"),
        ("darwin", {}, "/home/somebody/Library/Caches/resnet-export"),
        ("win32", {"LOCALAPPDATA": "/local"}, "/local/resnet-export"),
    ],
)
def test_the_platforms_place_unless_told_otherwise(monkeypatch, platform, variables, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert user_cache_folder() == Path(expected)


def test_a_file_is_written_into_a_new_folder_and_replaced(tmp_path):
    path = tmp_path / "a" / "b" / "entry"
    write_cache_file(path, b"one")
    write_cache_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["entry"]


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "entry"
    write_cache_file(path, b"one")

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", interrupted)
        with pytest.raises(KeyboardInterrupt):
            write_cache_file(path, b"two")
    assert path.read_bytes() == b"one"
    assert os.listdir(tmp_path) == ["entry"]
