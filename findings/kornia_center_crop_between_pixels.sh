#!/usr/bin/env bash
# Versions: kornia 0.9.0, torchvision 0.29.1, torch 2.14.1 (CPU); Python 3.11.
# Guess: kornia.geometry.transform.center_crop cuts pixels out, as torchvision's center_crop and kornia's own
#        augmentation.CenterCrop do; at most it begins one pixel elsewhere where an odd number is cut off.
# Seen:  it warps. Where the number of pixels cut off is odd it begins at half a pixel, and each pixel is the mean of four: a
#        blurred picture, shifted by half a pixel from training's. A checkerboard becomes grey. Where it is even the pixels are
#        the same but for 2e-6. Nothing warns; augmentation.CenterCrop slices.
# Output seen: "checkerboard, cut 4: values 0.0 to 1.0, cut 5: 0.5 to 0.5; augmentation.CenterCrop, cut 5: 0.0 to 1.0; torchvision, cut 5: 0.0 to 1.0"
#
# torch is a large download. With PEER_PYTHON=.../bin/python of an environment that has these versions nothing is installed.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python=${PEER_PYTHON:-$folder/venv/bin/python}
if [ -z "${PEER_PYTHON:-}" ]; then
    python3 -m venv "$folder/venv"
    "$python" -m pip install -q --disable-pip-version-check kornia==0.9.0 torchvision==0.29.1 torch==2.14.1
fi
"$python" - 2>/dev/null <<'PYTHON'
import kornia
import torch
from torchvision.transforms.v2.functional import center_crop

places = torch.arange(13)
board = ((places[:, None] + places) % 2).float()[None, None]


def ends(image: torch.Tensor) -> tuple[float, float]:
    inside = image[..., 1:-1, 1:-1]
    return round(float(inside.min()), 3), round(float(inside.max()), 3)


even, odd = (ends(kornia.geometry.transform.center_crop(board, (size, size))) for size in (9, 8))
sliced, usual = ends(kornia.augmentation.CenterCrop(8)(board)), ends(center_crop(board, [8, 8]))
print(
    f"checkerboard, cut 4: values {even[0]} to {even[1]}, cut 5: {odd[0]} to {odd[1]}; augmentation.CenterCrop, cut 5: "
    f"{sliced[0]} to {sliced[1]}; torchvision, cut 5: {usual[0]} to {usual[1]}"
)
assert (even, odd, sliced, usual) == ((0.0, 1.0), (0.5, 0.5), (0.0, 1.0), (0.0, 1.0)), "the behaviour changed"
PYTHON
