"""Timing caches of four TensorRT versions, played by the stand-in: kept, replaced, never the reason for a lost plan."""

import pytest
from standins.cuda_standin import CudaStandin
from standins.tensorrt_standin import NO_TIMINGS, TIMINGS_HERE, VERSIONS, make_tensorrt

from exporter.engines.timing_cache import attach_timing_cache, default_timing_cache, save_timing_cache
from runtimes.trt.tensorrt_library import TensorRtLibrary, TensorRtLog


class Build:
    """One TensorRT that a config can be had of."""

    def __init__(self, version):
        self.standin = make_tensorrt(version, CudaStandin())
        trt = self.standin.module

        class Logger(trt.ILogger):
            def __init__(self):
                trt.ILogger.__init__(self)

        self.tensorrt = TensorRtLibrary("tensorrt", trt, Logger(), TensorRtLog())
        self.builder = trt.Builder(self.tensorrt.logger)

    def config(self):
        return self.builder.create_builder_config()

    def run(self, path, timing):
        """Time a kernel beside those that are known, and store; return those that were known."""
        config = self.config()
        timings = attach_timing_cache(self.tensorrt, config, path)
        known = set(timings.timing_cache._timings)
        timings.timing_cache._timings.add(timing)
        save_timing_cache(self.tensorrt, config, timings)
        return known


@pytest.fixture(params=VERSIONS)
def build(request):
    return Build(request.param)


def test_a_second_build_knows_the_first(build, tmp_path):
    path = tmp_path / "new" / "folder" / "x.timing"
    assert build.run(path, b"conv1") == set()
    assert build.run(path, b"conv2") == {b"conv1"}
    assert path.read_bytes() == b"GPU-A conv1 conv2"
    assert [entry.name for entry in path.parent.iterdir()] == ["x.timing"]
    assert build.tensorrt.log.warnings() == ()


@pytest.mark.parametrize("foreign", [b"GPU-B conv9", NO_TIMINGS + b" conv9"], ids=["refused", "None"])
def test_a_foreign_cache_is_a_warning_and_is_replaced(build, tmp_path, foreign):
    """Merged back, it would be refused at every later build, or its timings taken for this GPU's."""
    path = tmp_path / "x.timing"
    path.write_bytes(foreign)
    assert build.run(path, b"conv1") == set()
    (warning,) = build.tensorrt.log.warnings()
    assert "another GPU or version; it is replaced" in warning
    assert path.read_bytes() == b"GPU-A conv1"
    assert build.run(path, b"conv2") == {b"conv1"}


@pytest.mark.parametrize(
    ("meanwhile", "stored"),
    [
        (TIMINGS_HERE + b" other", b"GPU-A mine other"),
        (b"GPU-B other", b"GPU-A mine"),
        (NO_TIMINGS, b"GPU-A mine"),
    ],
    ids=["fits", "refused", "None"],
)
def test_what_another_build_wrote_meanwhile_is_kept_where_it_fits(build, tmp_path, meanwhile, stored):
    path, config = tmp_path / "x.timing", build.config()
    timings = attach_timing_cache(build.tensorrt, config, path)
    path.write_bytes(meanwhile)
    timings.timing_cache._timings.add(b"mine")
    save_timing_cache(build.tensorrt, config, timings)
    assert path.read_bytes() == stored
    assert bool(build.tensorrt.log.warnings()) is (meanwhile != TIMINGS_HERE + b" other")


def test_a_library_that_makes_no_cache_builds_without(build, tmp_path):
    build.standin.refuse.add("create_timing_cache")
    path = tmp_path / "x.timing"
    assert attach_timing_cache(build.tensorrt, build.config(), path) is None
    save_timing_cache(build.tensorrt, build.config(), None)
    assert "times every kernel anew" in build.tensorrt.log.warnings()[0]
    assert not path.exists()


def test_a_cache_that_cannot_be_had_back_is_a_warning(build, tmp_path):
    build.standin.refuse.add("serialize")
    build.run(tmp_path / "x.timing", b"conv1")
    assert "nothing is stored" in build.tensorrt.log.warnings()[0]


def test_a_disk_that_refuses_is_a_warning(build, tmp_path):
    (tmp_path / "file").write_text("")
    build.run(tmp_path / "file" / "x.timing", b"conv1")
    assert "cannot be written" in build.tensorrt.log.warnings()[0]


def test_rtx_never_touches_a_cache(tmp_path):
    library = TensorRtLibrary("rtx", None, None, TensorRtLog())
    assert attach_timing_cache(library, None, tmp_path / "x") is None
    save_timing_cache(library, None, None)
    assert not (tmp_path / "x").exists()


def test_off_means_off(build):
    assert attach_timing_cache(build.tensorrt, None, None) is None


def test_default_place_names_version_and_gpu(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    path = default_timing_cache("10.3.0", "NVIDIA Orin (nvgpu)")
    assert str(path) == "/caches/resnet-export/tensorrt-10.3.0-NVIDIA-Orin-nvgpu-.timing"
