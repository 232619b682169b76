import struct

import pytest

from runtimes.trt.calibration_cache import cache_for_version, cache_from_scales, cache_header, scales_from_cache

PUBLISHED = "TRT-8401-EntropyCalibration2\ninput: 3caa54fc\n371: 3caa54fc\n404: 3d5c11b5\n"
"""The beginning of a cache that TensorRT 8.4.1 wrote, as published in a post about Segformer."""


@pytest.mark.parametrize(
    ("version", "number"), [("8.4.1.5", 8401), ("8.6.0", 8600), ("7.0.0", 7000), ("10.14.1.48", 101401)]
)
def test_header_is_what_tensorrt_writes(version, number):
    assert cache_header(version) == f"TRT-{number}-EntropyCalibration2"


def test_published_cache_is_read_and_written_alike():
    scales = scales_from_cache(PUBLISHED)
    assert list(scales) == ["input", "371", "404"]
    assert scales["input"] == pytest.approx(0.0207925, rel=1e-5)
    assert cache_from_scales(scales, "8.4.1") == PUBLISHED


def test_known_scale():
    """3c00f9f4 is 1 / 127.03, as an NVIDIA forum thread computes it."""
    assert scales_from_cache("TRT-8600-EntropyCalibration2\nx: 3c00f9f4")["x"] == pytest.approx(0.00787209, rel=1e-6)


def test_scales_come_back_to_the_bit():
    scales = {"input": 1 / 127, "a: b": 3.4e38, "layer1.0.add": 1.2e-38, "tiny": 1e-41}
    rounded = {name: struct.unpack("f", struct.pack("f", scale))[0] for name, scale in scales.items()}
    assert scales_from_cache(cache_from_scales(scales, "10.3.0")) == rounded


def test_only_the_first_line_is_the_versions():
    other = cache_for_version(PUBLISHED, "10.3.0")
    assert other.splitlines()[0] == "TRT-100300-EntropyCalibration2"
    assert other.splitlines()[1:] == PUBLISHED.splitlines()[1:]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_that_is_none(scale):
    with pytest.raises(ValueError, match="expected a finite number > 0"):
        cache_from_scales({"x": scale}, "8.6.1")


@pytest.mark.parametrize("name", ["a\nb", "", "a\rb"])
def test_a_name_that_would_be_two_lines(name):
    with pytest.raises(ValueError, match="line break"):
        cache_from_scales({name: 1.0}, "8.6.1")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line: got ''"),
        ("TRT-8601-MinMaxCalibration\nx: 3c00f9f4", "first line"),
        ("TRT-8601-EntropyCalibration2\nx 3c00f9f4", "line 2"),
        ("TRT-8601-EntropyCalibration2\nx: 3c00f9f4\ny: 3c00f9f4g", "line 3"),
    ],
)
def test_what_is_no_cache(text, message):
    with pytest.raises(ValueError, match=message):
        scales_from_cache(text)


def test_what_is_no_version():
    with pytest.raises(ValueError, match="three numbers"):
        cache_header("10")
