#!/usr/bin/env bash
# Versions: MNN 3.6.1 (MNN.cv, its OpenCV for devices), opencv-python-headless 5.0.0.93, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: MNN.cv.resize takes OpenCV's flags (INTER_CUBIC, INTER_AREA, INTER_LANCZOS4 are in MNN.cv with OpenCV's numbers),
#        and computes them, or refuses one that it does not have.
# Seen:  INTER_LINEAR is OpenCV's to one level. Every other flag is nearest neighbor, all three the same picture, and
#        INTER_NEAREST itself picks the pixel at the center where OpenCV picks the first. Nothing is said. So a device that
#        shrinks with INTER_AREA, as a training with OpenCV did, feeds the network every third pixel instead of means.
# Output seen: "stripes of 0 and 240 shrunk to a third, OpenCV's INTER_AREA 80 to 160: MNN's linear as OpenCV's True; cubic, area, lanczos4 as MNN's nearest True; area 0 to 240"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check MNN==3.6.1 opencv-python-headless==5.0.0.93 numpy==2.4.6
"$folder/venv/bin/python" - "$folder" <<'PYTHON' | tail -1
import sys

import cv2
import MNN.cv
import numpy as np

random = np.random.default_rng(0)
stripes = np.tile((np.arange(240, dtype=np.uint8) % 2 * 240)[None, :, None], (240, 1, 3))
noise = cv2.resize(random.integers(0, 256, (24, 32, 3), np.uint8), (320, 240), interpolation=cv2.INTER_CUBIC)
FLAGS = ("INTER_NEAREST", "INTER_LINEAR", "INTER_CUBIC", "INTER_AREA", "INTER_LANCZOS4")
assert all(getattr(MNN.cv, flag) == getattr(cv2, flag) for flag in FLAGS)


def both(picture: np.ndarray, size: tuple[int, int], flag: str) -> tuple[np.ndarray, np.ndarray]:
    """Return what OpenCV and MNN make of a picture."""
    path = f"{sys.argv[1]}/picture.png"
    cv2.imwrite(path, picture)
    read = MNN.cv.imread(path)
    assert np.array_equal(np.array(read.read()), picture)
    ours = np.array(MNN.cv.resize(read, size, interpolation=getattr(MNN.cv, flag)).read())
    return cv2.resize(picture, size, interpolation=getattr(cv2, flag)), ours


small = {flag: both(noise, (100, 75), flag) for flag in FLAGS}
expected, linear = (pixels.astype(int) for pixels in small["INTER_LINEAR"])
same = np.abs(expected - linear).max() <= 1
nearest = all(np.array_equal(small[flag][1], small["INTER_NEAREST"][1]) for flag in ("INTER_CUBIC", "INTER_AREA", "INTER_LANCZOS4"))
theirs, area = both(stripes, (80, 80), "INTER_AREA")
print(
    f"stripes of 0 and 240 shrunk to a third, OpenCV's INTER_AREA {theirs.min()} to {theirs.max()}: MNN's linear as OpenCV's "
    f"{same}; cubic, area, lanczos4 as MNN's nearest {nearest}; area {area.min()} to {area.max()}"
)
assert same and nearest and area.max() == 240 and theirs.max() < 200, "the behaviour changed"
PYTHON
