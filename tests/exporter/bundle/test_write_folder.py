import errno
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import exporter.bundle.write_folder
from exporter.bundle.write_folder import bundle_folder, check_output, exchange, file_entries, put_right, write_json
from exporter.errors import ExportError, OutputExistsError

ROOT = Path(__file__).parents[3]
OLD = {"tool": {"name": "resnet-export", "version": "0"}, "schema_version": 0}


def old_bundle(folder):
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps(OLD))
    (folder / "model.onnx").write_bytes(b"old")
    return folder


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def assert_only(folder, *names):
    """Nothing else, hidden files included, is left in `folder`."""
    assert {path.name for path in folder.iterdir()} == set(names)


# May it be written?


def test_free_places_pass(tmp_path):
    (tmp_path / "empty").mkdir()
    for place in ("new", "deep/er/new", "empty"):
        check_output(tmp_path / place, force=False)
        check_output(tmp_path / place, force=True)
    assert_only(tmp_path, "empty")


def test_relative_output(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_output(Path("new"), force=False)
    check_output(Path("."), force=False)
    old_bundle(tmp_path / "old")
    with pytest.raises(OutputExistsError, match=r"^old exists; --force replaces it"):
        check_output(Path("old"), force=False)


def test_bundle_is_replaced_with_force_only(tmp_path):
    output = old_bundle(tmp_path / "bundle")
    with pytest.raises(OutputExistsError, match=r"bundle exists; --force replaces it, -o/--output writes elsewhere"):
        check_output(output, force=False)
    check_output(output, force=True)
    assert content(output)["model.onnx"] == b"old"


@pytest.mark.parametrize(
    "manifest",
    [
        None,
        "",
        "not json",
        "[]",
        "{}",
        '{"name": "my web app", "icons": []}',
        '{"tool": "resnet-export"}',
        '{"tool": {"name": "webpack"}}',
    ],
)
@pytest.mark.parametrize("force", [True, False])
def test_foreign_folder_is_left_alone(tmp_path, manifest, force):
    output = tmp_path / "precious"
    output.mkdir()
    (output / "thesis.tex").write_text("x")
    if manifest is not None:
        (output / "manifest.json").write_text(manifest)
    with pytest.raises(OutputExistsError, match=r"precious exists and is not a bundle .*left alone even with --force"):
        check_output(output, force=force)
    assert (output / "thesis.tex").read_text() == "x"


def test_folder_named_like_the_manifest_is_foreign(tmp_path):
    (tmp_path / "precious" / "manifest.json").mkdir(parents=True)
    with pytest.raises(OutputExistsError, match="not a bundle"):
        check_output(tmp_path / "precious", force=True)


@pytest.mark.parametrize("force", [True, False])
def test_file_in_the_way(tmp_path, force):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputExistsError, match="file exists and is not a folder"):
        check_output(tmp_path / "file", force=force)
    with pytest.raises(ExportError, match=r"inside cannot be written: .*file is not a folder; choose another"):
        check_output(tmp_path / "file" / "inside", force=force)


@pytest.mark.parametrize("target", ["bundle", "file", "nothing"])
def test_symbolic_link_in_the_way(tmp_path, target):
    old_bundle(tmp_path / "bundle")
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / target)
    with pytest.raises(OutputExistsError, match="link exists and is a link"):
        check_output(tmp_path / "link", force=True)


def test_parent_that_cannot_be_written():
    """Not even by root, who is said to have the right to."""
    with pytest.raises(ExportError, match=r"/proc/deep/new cannot be written: nothing can .*; choose another -o"):
        check_output(Path("/proc/deep/new"), force=False)


def test_asking_leaves_nothing_behind(tmp_path):
    check_output(tmp_path / "deep" / "new", force=False)
    assert not list(tmp_path.iterdir())


def test_a_name_that_is_too_long_for_what_is_written_beside_it(tmp_path):
    with pytest.raises(ExportError, match=r"cannot be written: nothing can be written there: File name too long"):
        check_output(tmp_path / ("n" * 250), force=False)


def test_folder_that_cannot_be_read(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()

    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(ExportError, match=r"closed cannot be looked at: .*Permission denied"):
        check_output(tmp_path / "closed", force=True)


def test_name_that_is_too_long(tmp_path):
    with pytest.raises(ExportError):
        check_output(tmp_path / ("x" * 5000), force=False)


# Written whole


def write(output, name="model.onnx", data=b"new"):
    with bundle_folder(output) as folder:
        assert folder != output
        assert folder.parent == output.parent
        assert list(folder.iterdir()) == []
        (folder / name).write_bytes(data)


def test_new_bundle(tmp_path):
    write(tmp_path / "bundle")
    assert content(tmp_path / "bundle") == {"model.onnx": b"new"}
    assert_only(tmp_path, "bundle")


def test_missing_parents_are_made(tmp_path):
    write(tmp_path / "a" / "b" / "bundle")
    assert content(tmp_path / "a" / "b" / "bundle") == {"model.onnx": b"new"}
    assert_only(tmp_path / "a" / "b", "bundle")


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_parents_that_were_made_for_nothing_go_again(tmp_path, error):
    (tmp_path / "there").mkdir()
    with pytest.raises((ExportError, KeyboardInterrupt)), bundle_folder(tmp_path / "there/a/b/bundle"):
        raise error
    assert_only(tmp_path, "there")
    assert_only(tmp_path / "there")


def test_a_parent_that_somebody_else_uses_meanwhile_stays(tmp_path):
    def fail():
        (tmp_path / "a/other").touch()
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(ExportError), bundle_folder(tmp_path / "a/b/bundle"):
        fail()
    assert_only(tmp_path / "a", "other")


def test_relative_output_and_a_change_of_folder_on_the_way(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    with bundle_folder(Path("bundle")) as folder:
        os.chdir("elsewhere")
        (folder / "x").touch()
    assert_only(tmp_path, "bundle", "elsewhere")


def test_empty_folder_and_old_bundle_are_replaced_whole(tmp_path):
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty")
    write(old_bundle(tmp_path / "bundle"), name="other.onnx")
    assert content(tmp_path / "empty") == {"model.onnx": b"new"}
    assert content(tmp_path / "bundle") == {"other.onnx": b"new"}
    assert_only(tmp_path, "bundle", "empty")


@pytest.mark.parametrize(("mask", "expected"), [(0o022, 0o755), (0o077, 0o700), (0o002, 0o775)])
def test_permissions_follow_the_umask(tmp_path, mask, expected):
    before = os.umask(mask)
    try:
        write(tmp_path / "bundle")
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "bundle").stat().st_mode) == expected
    assert stat.S_IMODE((tmp_path / "bundle" / "model.onnx").stat().st_mode) == expected & 0o666


# Or not at all


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), SystemExit(1), ExportError("bad")])
@pytest.mark.parametrize("exists", [True, False])
def test_failure_inside_leaves_what_was_there(tmp_path, error, exists):
    output = tmp_path / "bundle"
    if exists:
        old_bundle(output)

    def fail():
        with bundle_folder(output) as folder:
            (folder / "model.onnx").write_bytes(b"half")
            raise error

    with pytest.raises(type(error)) as caught:
        fail()
    assert caught.value is error
    assert_only(tmp_path, *(["bundle"] if exists else []))
    if exists:
        assert content(output) == {"manifest.json": json.dumps(OLD).encode(), "model.onnx": b"old"}


def test_full_disk_is_an_export_error_and_leaves_the_old(tmp_path):
    output = old_bundle(tmp_path / "bundle")

    def fail():
        with bundle_folder(output) as folder:
            (folder / "half").write_bytes(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(
        ExportError, match=r"bundle cannot be written: .*No space left on device; the old bundle, if any"
    ):
        fail()
    assert_only(tmp_path, "bundle")
    assert content(output)["model.onnx"] == b"old"


def test_parent_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ExportError, match="cannot be written"), bundle_folder(tmp_path / "file" / "bundle"):
        pytest.fail("not reached")
    assert_only(tmp_path, "file")


@pytest.fixture
def two_steps(monkeypatch):
    """A file system where two folders cannot change places in one step."""
    monkeypatch.setattr(exporter.bundle.write_folder, "exchange", lambda one, other: False)


def failing_rename(monkeypatch, fails, error):
    """Let the renames whose place, from 0, is in `fails` raise `error` instead; return what was asked for."""
    asked, real = [], Path.rename

    def rename(self, target):
        asked.append((self.name, Path(target).name))
        if len(asked) - 1 in fails:
            raise error
        return real(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    return asked


@pytest.mark.parametrize("error", [OSError(errno.EIO, "I/O error"), KeyboardInterrupt()])
@pytest.mark.parametrize("place", [0, 1])
def test_failing_rename_brings_the_old_bundle_back(tmp_path, two_steps, monkeypatch, place, error):
    output = old_bundle(tmp_path / "bundle")
    asked = failing_rename(monkeypatch, {place}, error)
    with pytest.raises(ExportError if isinstance(error, OSError) else KeyboardInterrupt):
        write(output)
    assert asked[0] == ("bundle", "old")
    assert asked[1:] == ([] if place == 0 else [(asked[1][0], "bundle"), ("old", "bundle")])
    assert content(output)["model.onnx"] == b"old"
    assert_only(tmp_path, "bundle")


def test_old_bundle_that_cannot_be_moved_back_is_not_deleted(tmp_path, two_steps, monkeypatch):
    output = old_bundle(tmp_path / "bundle")
    failing_rename(monkeypatch, {1, 2}, OSError(errno.EIO, "I/O error"))
    with pytest.raises(ExportError, match=r"old bundle cannot be moved back .*: it is now ") as caught:
        write(output)
    (aside,) = tmp_path.iterdir()
    assert content(aside / "old")["model.onnx"] == b"old"
    assert str(aside / "old") in str(caught.value)


def test_interrupt_between_the_two_renames_brings_the_old_bundle_back(tmp_path, two_steps, monkeypatch):
    output, real = old_bundle(tmp_path / "bundle"), Path.rename

    def rename(self, target):
        real(self, target)
        if Path(target).name == "old":
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        write(output)
    assert content(output)["model.onnx"] == b"old"
    assert_only(tmp_path, "bundle")


def test_interrupt_after_the_second_rename_leaves_the_new_bundle(tmp_path, two_steps, monkeypatch):
    output, real = old_bundle(tmp_path / "bundle"), Path.rename

    def rename(self, target):
        real(self, target)
        if Path(target) == output:
            raise KeyboardInterrupt

    monkeypatch.setattr(Path, "rename", rename)
    with pytest.raises(KeyboardInterrupt):
        write(output)
    assert content(output) == {"model.onnx": b"new"}
    assert_only(tmp_path, "bundle")


def test_two_folders_change_places_in_one_step(tmp_path, monkeypatch):
    output = old_bundle(tmp_path / "bundle")
    monkeypatch.setattr(Path, "rename", lambda *_: pytest.fail("a rename leaves a moment without a bundle"))
    write(output)
    assert content(output) == {"model.onnx": b"new"}
    assert_only(tmp_path, "bundle")


def test_exchange_says_where_it_cannot(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError):
        exchange(tmp_path / "a", tmp_path / "b")
    monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: object())
    assert not exchange(tmp_path / "a", tmp_path / "b")


KILLED = """
import os, signal, sys
from pathlib import Path
import exporter.bundle.write_folder
from exporter.bundle.write_folder import bundle_folder
step, output = sys.argv[1], Path(sys.argv[2])
real = Path.rename
def rename(self, target):
    real(self, target)
    if Path(target).name == "old":
        os.kill(os.getpid(), signal.SIGKILL)
if step == "between":
    exporter.bundle.write_folder.exchange = lambda *_: False
    Path.rename = rename
if step == "exchanged":
    exporter.bundle.write_folder.sync = lambda path: path == output.parent and os.kill(os.getpid(), signal.SIGKILL)
with bundle_folder(output) as folder:
    (folder / "model.onnx").write_bytes(b"new")
    if step == "writing":
        os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("step", "kept"), [("writing", b"old"), ("between", b"old"), ("exchanged", b"new")])
def test_killed_at_any_step_one_whole_bundle_is_there_after_the_next_look(tmp_path, step, kept):
    output = old_bundle(tmp_path / "bundle")
    done = subprocess.run([sys.executable, "-c", KILLED, step, output], cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) > 1
    assert (step == "between") != output.exists()
    put_right(output)
    assert content(output)["model.onnx"] == kept
    assert_only(tmp_path, "bundle")


def test_another_bundle_that_stepped_aside_is_not_taken(tmp_path):
    aside = tmp_path / ".resnet-export-bundle-b-old-abcdefgh"
    old_bundle(aside / "old")
    put_right(tmp_path / "bundle")
    assert_only(tmp_path, aside.name)
    put_right(tmp_path / "bundle-b")
    assert_only(tmp_path, "bundle-b")


def test_a_bundle_that_came_meanwhile_is_replaced_with_force_only(tmp_path):
    def run(force):
        with bundle_folder(tmp_path / "bundle", force=force) as folder:
            (folder / "model.onnx").write_bytes(b"late")
            if not (tmp_path / "bundle").exists():
                old_bundle(tmp_path / "bundle")

    with pytest.raises(OutputExistsError, match="--force replaces it"):
        run(force=False)
    assert content(tmp_path / "bundle")["model.onnx"] == b"old"
    run(force=True)
    assert content(tmp_path / "bundle") == {"model.onnx": b"late"}
    assert_only(tmp_path, "bundle")


@pytest.mark.parametrize("what", ["folder", "file", "link"])
def test_what_comes_there_meanwhile_is_left_alone(tmp_path, what):
    output, elsewhere = tmp_path / "bundle", tmp_path / "elsewhere"
    elsewhere.mkdir()

    def fail():
        with bundle_folder(output):
            if what == "folder":
                output.mkdir()
                (output / "thesis.tex").write_text("x")
            elif what == "file":
                output.write_text("x")
            else:
                output.symlink_to(elsewhere)

    with pytest.raises(OutputExistsError):
        fail()
    assert_only(tmp_path, "bundle", "elsewhere")
    assert what != "folder" or content(output) == {"thesis.tex": b"x"}


# Files


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_without_numbers_that_others_cannot_read(tmp_path, value):
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "report.json", {"rows": [{"top1": value}]})
    assert_only(tmp_path)


def test_json_is_readable_utf8(tmp_path):
    write_json(tmp_path / "report.json", {"b": "é", "a": [1]})
    text = (tmp_path / "report.json").read_bytes().decode("utf-8")
    assert json.loads(text) == {"b": "é", "a": [1]}
    assert text.startswith('{\n  "b": "é"')
    assert text.endswith("}\n")


def test_entries_of_every_file_but_the_manifest(tmp_path):
    for name, data in (("b", b"abc"), ("a", b""), ("manifest.json", b"{}")):
        (tmp_path / name).write_bytes(data)
    entries = file_entries(tmp_path)
    assert list(entries) == ["a", "b"]
    assert entries["b"].size_bytes == 3
    assert (
        entries["b"].sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )  # FIPS 180-2, "abc"


def test_json_with_a_file_name_that_is_not_utf8(tmp_path):
    """The name of a folder given with --calib goes into the manifest; it used to end the run with an internal error."""
    name = os.fsdecode(b"\xe9\xff")
    write_json(tmp_path / "report.json", {"calib": name})
    assert json.loads((tmp_path / "report.json").read_bytes().decode("utf-8")) == {"calib": name}
