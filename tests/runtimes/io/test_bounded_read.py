from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtimes.io.bounded_read import read_json_file, read_plain_file


def test_a_plain_file_up_to_the_limit(tmp_path):
    (tmp_path / "x").write_bytes(b"12345")
    assert read_plain_file(tmp_path / "x", 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_plain_file(tmp_path / "x", 4)


def test_what_would_block_or_never_end_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="it is a folder, pipe or device"):
            read_plain_file(path, 100)


@pytest.mark.parametrize("content", [b"", b"\xff", b"{", b"[" * 100_000, b"9" * 5000])
def test_what_is_no_json(tmp_path, content):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011 - the words are the parser's
        read_json_file(tmp_path / "x.json")
