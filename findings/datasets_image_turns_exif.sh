#!/usr/bin/env bash
# Versions: datasets 5.2.0 (Hugging Face), Pillow 12.3.0, NumPy 2.4.6; Python 3.11.
# Guess: an Image column decodes as PIL.Image.open does, which is what torchvision's ImageFolder, timm's readers and
#        webdataset's "pil" give: the pixels of the file, its EXIF orientation left to who wants it. So a network trained
#        from `imagefolder` and one trained from ImageFolder on the same folder saw the same pictures.
# Seen:  it turns them: a JPEG of a telephone held upright (orientation 6) is 40 x 60 from the dataset and 60 x 40 from
#        Image.open, and the tag is gone. With decode=False the bytes are as they were. And an array of int32 that does
#        not fit is cut to 8 bits by wrapping, 300 becomes 44, though with a warning of "Downcasting".
# Output seen: "orientation 6: Image.open (60, 40), dataset (40, 60), tag left None; orientation 1: (60, 40); int32 300 becomes 44"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check datasets==5.2.0 pillow==12.3.0 numpy==2.4.6
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - "$folder" <<'PYTHON'
import sys
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

datasets.disable_progress_bars()
TAG = 0x112
folder = Path(sys.argv[1], "pictures")
for orientation in (1, 6):
    (folder / f"class{orientation}").mkdir(parents=True)
    picture = Image.fromarray(np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3).astype(np.uint8))
    exif = Image.Exif()
    exif[TAG] = orientation
    picture.save(folder / f"class{orientation}" / "picture.jpg", exif=exif)

rows = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train")
upright, turned = sorted((row["image"] for row in rows), key=lambda image: image.size[1])
with Image.open(folder / "class6" / "picture.jpg") as opened:
    size = opened.size
raw = rows.cast_column("image", datasets.Image(decode=False))
assert all(row["image"]["bytes"] or row["image"]["path"] for row in raw)
large = datasets.Features({"image": datasets.Image()})
(wrapped,) = datasets.Dataset.from_dict({"image": [np.full((4, 6, 3), 300, np.int32)]}, features=large)["image"]
print(
    f"orientation 6: Image.open {size}, dataset {turned.size}, tag left {turned.getexif().get(TAG)}; "
    f"orientation 1: {upright.size}; int32 300 becomes {np.asarray(wrapped).max()}"
)
assert size == upright.size == (60, 40) and turned.size == (40, 60) and np.asarray(wrapped).max() == 44, "the behaviour changed"
PYTHON
