#!/usr/bin/env bash
# Versions: nvidia-dali-cuda120 2.4.0 (its CPU operators, no GPU), Pillow 12.3.0, NumPy 2.4.6; Python 3.11, Linux x86-64.
# Guess: fn.resize(resize_shorter=256), which the ImageNet pipelines of DALI's users put in place of torchvision's Resize(256),
#        gives the size that torchvision gives and, at that size, Pillow's bilinear pixels to one level, as
#        fn.resize(resize_x=..., resize_y=...) does; fn.crop at the center begins where CenterCrop begins.
# Seen:  the longer side is rounded where torchvision's is cut off: 243 x 321 to 121 is 160 wide, not 159. And both sides
#        shrink by the shorter side's factor exactly, so that a fraction of a column beyond the border is read, or one left
#        out: pixels are up to 10 levels from Pillow's of the very same size. subpixel_scale=False makes them equal to
#        one. A crop of which an odd number is cut off begins at the half rounded up, torchvision's at the half rounded to
#        even. Nothing is logged.
# Output seen: "width (DALI, torchvision): 121 (160, 159), 160 (211, 211), 256 (338, 338); levels from Pillow at the same size: 121 5, 160 10, 256 3; both sides given 1, subpixel_scale=False 1; crop begins: cut 13 (7, 6), cut 15 (8, 8), cut 17 (9, 8), cut 20 (10, 10), cut 21 (11, 10)"
#
# 420 MB of downloads.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check numpy==2.4.6 pillow==12.3.0 makefun==1.16.0 \
    packaging==26.3 six==1.17.0 astunparse==1.6.3 gast==0.7.0 optree==0.20.0 nvtx==0.2.17
"$folder/venv/bin/pip" install -q --disable-pip-version-check --no-deps nvidia-dali-cuda120==2.4.0
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
from nvidia.dali import fn, pipeline_def, types
from PIL import Image

random = np.random.default_rng(0)
small = Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8))
PICTURE = np.asarray(small.resize((321, 243), Image.Resampling.BICUBIC))
COLUMNS = np.tile(np.arange(30, dtype=np.uint8)[None, :, None], (30, 1, 3))  # tells which column a crop begins at


def made(build) -> np.ndarray:
    """Return what a DALI pipeline on the CPU makes of nothing but constants."""

    @pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def pipeline():
        return build()

    running = pipeline()
    running.build()
    return np.asarray(running.run()[0].at(0))


def levels(pixels: np.ndarray) -> int:
    """Return the largest difference from Pillow at the same size."""
    pillow = Image.fromarray(PICTURE).resize(pixels.shape[1::-1], Image.Resampling.BILINEAR)
    return int(np.abs(pixels.astype(int) - np.asarray(pillow)).max())


def resized(**how: object) -> np.ndarray:
    return made(lambda: fn.resize(types.Constant(PICTURE), interp_type=types.INTERP_LINEAR, **how))


shorter = {side: resized(resize_shorter=side) for side in (121, 160, 256)}
widths = {side: (pixels.shape[1], int(side * 321 / 243)) for side, pixels in shorter.items()}
exact = resized(resize_x=211, resize_y=160), resized(resize_shorter=160, subpixel_scale=False)
begins = {
    cut: (int(made(lambda cut=cut: fn.crop(types.Constant(COLUMNS), crop=(30 - cut, 30 - cut)))[0, 0, 0]), round(cut / 2.0))
    for cut in (13, 15, 17, 20, 21)
}
print(
    "width (DALI, torchvision): " + ", ".join(f"{side} {width}" for side, width in widths.items())
    + "; levels from Pillow at the same size: " + ", ".join(f"{side} {levels(pixels)}" for side, pixels in shorter.items())
    + f"; both sides given {levels(exact[0])}, subpixel_scale=False {levels(exact[1])}"
    + "; crop begins: " + ", ".join(f"cut {cut} {first}" for cut, first in begins.items())
)
assert widths[121] == (160, 159) and levels(shorter[160]) > 5 and max(map(levels, exact)) <= 1, "the behaviour changed"
assert begins[13] == (7, 6) and begins[15] == (8, 8) and begins[17] == (9, 8) and begins[20] == (10, 10), "the behaviour changed"
PYTHON
