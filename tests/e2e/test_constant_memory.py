"""Calibration memory does not grow with the number of images: peak RSS of fresh processes, 64 images and 256 or 512.

With RESNET_EXPORT_LONG_FORMS=1, as `make robustness` runs it, 2048 or 4096.

At 32 x 32 whole tensors leave the session, at 64 x 64 they are reduced and sampled inside it.

The peak is VmHWM. `ru_maxrss` would be no evidence: Linux hands it on over fork and exec, so a child of a test session
that holds torch reports the session's peak whatever it does itself.
"""

from __future__ import annotations

import os
import subprocess
import sys

import onnx
import pytest
from graph_builder import make_resnet8

MAX_GROWTH = 1.05
TIMES = 8 if os.environ.get("RESNET_EXPORT_LONG_FORMS") else 1

# Neither torch nor the exporter is imported, so that what calibration itself takes weighs as much as it can.
CHILD = """
import re, sys
from pathlib import Path
import numpy as np
import onnx
from calibration import calibrate
from runtimes import OrtRuntime

def batches(num_images, side):
    random = np.random.default_rng(0)
    for _ in range(num_images // 16):
        yield random.standard_normal((16, 3, side, side), dtype=np.float32)

table = calibrate(onnx.load(sys.argv[1]), batches(int(sys.argv[2]), int(sys.argv[3])), open_runtime=OrtRuntime)
assert table.num_images == int(sys.argv[2])
assert "torch" not in sys.modules
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
"""


def peak_kib(path, num_images: int, side: int) -> int:
    arguments = [str(path), str(num_images), str(side)]
    as_users = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}  # see the Makefile
    command = [sys.executable, "-c", CHILD, *arguments]
    run = subprocess.run(command, capture_output=True, text=True, check=True, env=as_users)
    return int(run.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="VmHWM is Linux's")
@pytest.mark.parametrize(("side", "num_images"), [(32, 512 * TIMES), (64, 256 * TIMES)])
def test_hundreds_of_images_take_no_more_memory_than_64(tmp_path, side, num_images):
    path = tmp_path / "model.onnx"
    onnx.save(make_resnet8(side), path)
    few, many = peak_kib(path, 64, side), peak_kib(path, num_images, side)
    print(f"peak RSS: {few / 1024:.0f} MiB for 64 images, {many / 1024:.0f} MiB for {num_images}")
    assert many <= MAX_GROWTH * few
