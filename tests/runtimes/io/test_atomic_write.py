"""Files that appear whole: refused disks, killed writers, writers at work, two at once."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runtimes.io import atomic_write as whole_file
from runtimes.io.atomic_write import TEMPORARY, leftovers, remove_leftovers, unfinished_folder, write_whole

ROOT = Path(__file__).parents[3]


def hidden(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith("."))


def test_files_are_written_and_replaced(tmp_path):
    for content in (b"one", b"two"):
        write_whole([(tmp_path / "plan", content), (tmp_path / "plan.json", content * 2)])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"plan": b"two", "plan.json": b"twotwo"}
    assert (tmp_path / "plan").stat().st_mode & 0o777 == 0o644


def test_a_disk_that_is_full_for_the_second_file_leaves_both_old_files(tmp_path, monkeypatch):
    paths = [tmp_path / "plan", tmp_path / "plan.json"]
    write_whole([(path, b"old") for path in paths])
    synced = []

    def full(handle):
        synced.append(handle)
        if len(synced) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(whole_file.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_whole([(path, b"new") for path in paths])
    assert [path.read_bytes() for path in paths] == [b"old", b"old"]
    assert hidden(tmp_path) == []


def test_files_of_two_folders_cannot_be_whole_together(tmp_path):
    with pytest.raises(ValueError, match="2 folders"):
        write_whole([(tmp_path / "a" / "x", b""), (tmp_path / "b" / "x", b"")])


KILLED = """
import os, signal, sys
from pathlib import Path
from runtimes.io import atomic_write as whole_file
folder = Path(sys.argv[1])
if sys.argv[2] == "file":
    whole_file.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    whole_file.write_whole([(folder / "entry", b"half"), (folder / "other", b"half")])
with whole_file.unfinished_folder(folder / "bundle") as unfinished:
    (unfinished / "model.onnx").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_a_killed_writer_left_is_removed(tmp_path, what):
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, what], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(hidden(tmp_path)) == (2 if what == "file" else 1)
    remove_leftovers(tmp_path, ["bundl", "entr", "entry-x"])
    assert hidden(tmp_path), "of other files"
    remove_leftovers(tmp_path, ["bundle", "entry", "other"])
    assert hidden(tmp_path) == []


def test_a_writer_at_work_is_left_alone(tmp_path):
    with unfinished_folder(tmp_path / "bundle") as folder:
        (folder / "model.onnx").write_bytes(b"half")
        remove_leftovers(tmp_path)
        assert (folder / "model.onnx").exists()
    assert hidden(tmp_path) == []


def test_a_writer_whose_new_file_was_taken_for_a_leftover_makes_another(tmp_path, monkeypatch):
    """Between making the file and locking it, another process may find it without a lock."""
    real, sweeps = whole_file._held, []

    def swept_first(path):
        if not sweeps:
            sweeps.append(path)
            remove_leftovers(tmp_path)
            assert not path.exists()
        return real(path)

    monkeypatch.setattr(whole_file, "_held", swept_first)
    write_whole([(tmp_path / "entry", b"whole")])
    assert (tmp_path / "entry").read_bytes() == b"whole"
    assert hidden(tmp_path) == []


def test_without_locks_files_are_written_and_nothing_is_removed(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(whole_file.fcntl, "flock", refuse)
    (tmp_path / f"{TEMPORARY}entry-abcdefgh").write_bytes(b"perhaps at work")
    write_whole([(tmp_path / "entry", b"whole")])
    assert (tmp_path / "entry").read_bytes() == b"whole"
    assert hidden(tmp_path) == [f"{TEMPORARY}entry-abcdefgh"]


@pytest.mark.parametrize("name", [".bashrc", ".resnet-export-", ".resnet-exported-abcdefgh", ".x-abcdefgh", "x"])
def test_foreign_files_are_no_leftovers(tmp_path, name):
    (tmp_path / name).touch()
    assert list(leftovers(tmp_path)) == []


def test_a_link_is_no_leftover(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / f"{TEMPORARY}entry-abcdefgh").symlink_to("thesis")
    remove_leftovers(tmp_path)
    assert (tmp_path / f"{TEMPORARY}entry-abcdefgh").is_symlink()


def test_two_writers_never_mix_their_files(tmp_path):
    paths = [tmp_path / "plan", tmp_path / "plan.json"]
    mixed = []

    def write(content: bytes) -> None:
        for _ in range(20):
            write_whole([(path, content) for path in paths])
            with whole_file._turn(tmp_path):
                mixed.append(paths[0].read_bytes() != paths[1].read_bytes())

    threads = [threading.Thread(target=write, args=(content,)) for content in (b"a" * 10_000, b"b" * 10_000)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(mixed) == 40
    assert not any(mixed)
    assert hidden(tmp_path) == []
