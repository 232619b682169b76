"""TensorRT's calibration cache: the text from which a build takes activation scales instead of calibrating.

    TRT-100300-EntropyCalibration2
    input: 3c010a14
    conv1: 3d0a4d02

A line is a tensor's name and its scale, the bits of a float32 in hexadecimal, most significant first; scale =
amax / 127. TensorRT reads a cache only if the first line is the one that this version and this kind of calibrator
write. So a bundle's cache says for which version it was written, and the builder rewrites the first line.

Source: caches in public repositories, with 8.4.1 (TRT-8401), 8.6.0 (TRT-8600) and 10.14.1 (TRT-101401); the number is
NV_TENSORRT_VERSION, NvInferVersion.h. Scale and byte order: NVIDIA's sampleINT8 and qdq-translator.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping

ALGORITHM = "EntropyCalibration2"
"""Of IInt8EntropyCalibrator2, the calibrator that DLA needs."""

_LINE = re.compile(r"(.+): ([0-9a-f]{1,8})")


def cache_header(version: str) -> str:
    """Return the first line for a TensorRT version such as "8.6.1" or "10.3.0".

    Raises:
        ValueError: If the version does not begin with three numbers.
    """
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", version)
    if found is None:
        raise ValueError(f"TensorRT version: got {version!r}, expected three numbers such as 10.3.0")
    major, minor, patch = map(int, found.groups())
    number = major * 10_000 + minor * 100 + patch if major >= 10 else major * 1000 + minor * 100 + patch
    return f"TRT-{number}-{ALGORITHM}"


def cache_from_scales(scales: Mapping[str, float], version: str) -> str:
    """Return the cache of a TensorRT version, such as "10.3.0", with scales by tensor rounded to float32.

    Raises:
        ValueError: If a scale is not finite and > 0, or a name holds a line break.
    """
    lines = [cache_header(version)]
    for name, scale in scales.items():
        if not (math.isfinite(scale) and scale > 0):
            raise ValueError(f"{name!r}: got scale {scale}, expected a finite number > 0")
        if not name or name.splitlines() != [name]:
            raise ValueError(f"tensor name {name!r}: a name with a line break cannot be in a calibration cache")
        lines.append(f"{name}: {struct.pack('>f', scale).hex()}")
    return "\n".join(lines) + "\n"


def scales_from_cache(text: str) -> dict[str, float]:
    """Return tensor name to scale.

    Raises:
        ValueError: If the text is no calibration cache; the message names the line.
    """
    header, *lines = text.splitlines() or [""]
    if re.fullmatch(rf"TRT-\d+-{ALGORITHM}", header) is None:
        raise ValueError(f"first line: got {header!r}, expected TRT-<version>-{ALGORITHM}")
    scales: dict[str, float] = {}
    for number, line in enumerate(lines, start=2):
        found = _LINE.fullmatch(line)
        if found is None:
            raise ValueError(f"line {number}: got {line!r}, expected <tensor>: <8 hexadecimal digits>")
        (scales[found[1]],) = struct.unpack(">f", bytes.fromhex(found[2].zfill(8)))
    return scales


def cache_for_version(text: str, version: str) -> str:
    """Return a cache with the same scales and the first line of `version`.

    Raises:
        ValueError: If the text is no calibration cache.
    """
    return cache_from_scales(scales_from_cache(text), version)
