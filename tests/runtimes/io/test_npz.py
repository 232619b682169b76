"""Arrays from outside: what NumPy wrote is read back; bombs, pickles and damage are refused with a bounded memory."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from runtimes.errors import BundleError
from runtimes.io.npz import load_npz

ROOT = Path(__file__).parents[3]


def test_what_numpy_writes_is_read_back_bit_for_bit(tmp_path):
    given = {
        "input": np.random.default_rng(1).normal(size=(2, 3, 4)).astype(np.float32),
        "pixels": np.asfortranarray(np.arange(6, dtype=np.uint8).reshape(2, 3)),
        "none": np.zeros((0, 5), np.float16),
        "one": np.array(7, np.int64),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "golden.npz", **given)
        read = load_npz(tmp_path / "golden.npz")
        assert list(read) == list(given)
        for name, array in given.items():
            np.testing.assert_array_equal(read[name], array)
            assert read[name].dtype == array.dtype
        read["input"][:] = 0  # the caller owns them


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_objects_are_refused_without_running_them(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.array([Bomb(tmp_path / "ran")], dtype=object))
    with pytest.raises(BundleError, match="expected numbers"):
        load_npz(tmp_path / "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("x.npy", pickle.dumps(Bomb(tmp_path / "ran")))
    with pytest.raises(BundleError, match="cannot be read"):
        load_npz(tmp_path / "b.npz")
    assert not (tmp_path / "ran").exists()


def member(shape: tuple[int, ...], data: bytes) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue() + data


@pytest.mark.parametrize(
    ("shape", "data"),
    [((10**7, 10**7), b"1234"), ((-1,), b"1234"), ((2,), b"1234"), ((1,), b"12345"), ((2**62, 2**62), b"")],
)
def test_sizes_are_compared_before_anything_is_allocated(tmp_path, shape, data):
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("x.npy", member(shape, data))
    with pytest.raises(BundleError, match="expected"):
        load_npz(tmp_path / "x.npz")


def test_a_zip_bomb_is_refused_in_little_memory(tmp_path):
    with (
        zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("x.npy", "w", force_zip64=True) as file,
    ):
        file.write(member((1 << 26,), b""))
        for _ in range(4):
            file.write(bytes(64 << 20))
    assert (tmp_path / "x.npz").stat().st_size < 16 << 20
    script = f"""
from pathlib import Path
from runtimes.errors import BundleError
from runtimes.io.npz import load_npz
try:
    load_npz(Path({str(tmp_path / "x.npz")!r}), max_bytes=128 << 20)
except BundleError as err:
    assert "would unpack to" in str(err), err
    print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < 150_000, "kilobytes"


def test_what_is_no_archive(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "text").write_text("PK")
    for name in ("pipe", "text", "missing", "."):
        with pytest.raises(BundleError):
            load_npz(tmp_path / name)
