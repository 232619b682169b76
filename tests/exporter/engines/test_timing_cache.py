"""Timing caches against a stand-in config that keeps TensorRT's rules; TensorRT itself is not installable here."""

import pytest

from exporter.engines.timing_cache import attach_timing_cache, default_timing_cache, save_timing_cache
from runtimes.trt.library import TensorRtLibrary, TensorRtLog


class Cache:
    def __init__(self, blob):
        self.timings = set(blob.decode().split()) - {"GPU-A"}
        self.fits = not blob or blob.startswith(b"GPU-A")

    def combine(self, other, ignore_mismatch):
        if not other.fits:
            return False
        self.timings |= other.timings
        return True

    def serialize(self):
        return " ".join(["GPU-A", *sorted(self.timings)]).encode()


class Config:
    def __init__(self):
        self.cache = None

    def create_timing_cache(self, blob):
        return Cache(blob)

    def set_timing_cache(self, cache, ignore_mismatch):
        if not cache.fits and not ignore_mismatch:
            return False
        self.cache = cache
        return True


@pytest.fixture
def library():
    return TensorRtLibrary("tensorrt", None, None, TensorRtLog())


def build(library, path, timing):
    config = Config()
    cache = attach_timing_cache(library, config, path)
    assert config.cache is cache
    known = set(cache.timings)
    cache.timings.add(timing)
    save_timing_cache(library, config, cache, path)
    return known


def test_a_second_build_knows_the_first(library, tmp_path):
    path = tmp_path / "new" / "folder" / "x.timing"
    assert build(library, path, "conv1") == set()
    assert build(library, path, "conv2") == {"conv1"}
    assert path.read_bytes() == b"GPU-A conv1 conv2"
    assert [entry.name for entry in path.parent.iterdir()] == ["x.timing"]
    assert library.log.warnings() == ()


def test_a_cache_of_another_gpu_is_a_warning_and_is_replaced(library, tmp_path):
    path = tmp_path / "x.timing"
    path.write_bytes(b"GPU-B conv9")
    assert build(library, path, "conv1") == set()
    assert "another GPU" in library.log.warnings()[0]
    assert path.read_bytes() == b"GPU-A conv1"


def test_what_another_build_wrote_meanwhile_is_kept(library, tmp_path):
    path, config = tmp_path / "x.timing", Config()
    cache = attach_timing_cache(library, config, path)
    path.write_bytes(b"GPU-A other")
    cache.timings.add("mine")
    save_timing_cache(library, config, cache, path)
    assert path.read_bytes() == b"GPU-A mine other"


def test_a_disk_that_refuses_is_a_warning(library, tmp_path):
    (tmp_path / "file").write_text("")
    build(library, tmp_path / "file" / "x.timing", "conv1")
    assert "cannot be written" in library.log.warnings()[0]


def test_rtx_never_touches_a_cache(tmp_path):
    library = TensorRtLibrary("rtx", None, None, TensorRtLog())
    assert attach_timing_cache(library, None, tmp_path / "x") is None
    save_timing_cache(library, None, None, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_off_means_off(library):
    assert attach_timing_cache(library, None, None) is None


def test_default_place_names_version_and_gpu(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    path = default_timing_cache("10.3.0", "NVIDIA Orin (nvgpu)")
    assert str(path) == "/caches/resnet-export/tensorrt-10.3.0-NVIDIA-Orin-nvgpu-.timing"
