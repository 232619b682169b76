#!/usr/bin/env bash
# Versions: pyvips 3.2.0 with pyvips-binary 8.18.7 (libvips), Pillow 12.3.0, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: pyvips' resize keeps a picture where it is, as Pillow's, OpenCV's and torchvision's do: centers of pixels on
#        centers, whether it shrinks or enlarges. Only the filter differs.
# Seen:  shrunk, a picture lies where Pillow's lies. Enlarged, it lies half of a new pixel further to the right and down
#        with kernel "linear" and "cubic" alike. A folder of small and large pictures that is brought to one size so has
#        two geometries, which training with Pillow did not have.
# Output seen: "pixels right of Pillow's, of the new ones: scale 0.25 0.0, 0.5 0.0, 2 0.5, 3 0.5, 4 0.5, 8 0.5"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pyvips==3.2.0 pyvips-binary==8.18.7 pillow==12.3.0 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import pyvips
from PIL import Image

WIDTH = 64
RAMP = np.tile(np.arange(WIDTH, dtype=np.float32) * 100, (16, 1))  # 100 a pixel: what is read tells where it was read


def shift(scale: float, resize) -> float:
    """Return how far a picture of pyvips lies right of Pillow's, in new pixels, away from the border."""
    ours = resize(pyvips.Image.new_from_array(RAMP), scale).numpy()
    theirs = np.asarray(Image.fromarray(RAMP).resize(ours.shape[1::-1], Image.Resampling.BILINEAR))
    middle = slice(ours.shape[1] // 4, ours.shape[1] * 3 // 4)
    return round(float((theirs - ours)[2, middle].mean()) / 100 * scale, 1) + 0.0


def linear(image: pyvips.Image, scale: float) -> pyvips.Image:
    return image.resize(scale, kernel="linear")


def cubic(image: pyvips.Image, scale: float) -> pyvips.Image:
    return image.resize(scale, kernel="cubic")


scales = (0.25, 0.5, 2, 3, 4, 8)
shifts = {scale: shift(scale, linear) for scale in scales}
assert shifts == {scale: shift(scale, cubic) for scale in scales}, "the behaviour changed"
print("pixels right of Pillow's, of the new ones: scale " + ", ".join(f"{scale} {by}" for scale, by in shifts.items()))
assert all(by == (0.5 if scale > 1 else 0) for scale, by in shifts.items()), "the behaviour changed"
PYTHON
