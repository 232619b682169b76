#!/usr/bin/env bash
# Versions: datasets 5.2.0 (Hugging Face), Pillow 12.3.0, NumPy 2.4.6; Python 3.11.
# Guess: Dataset.map stores the picture that the function gives back, and Dataset.from_dict the one that it is given, whether
#        it was changed in place or made anew; a JPEG that was read from bytes keeps those bytes, or its pixels.
# Seen:  it is stored by the name of its file. paste() and thumbnail() change a picture in place, and it keeps that name: what
#        is stored is the file as it was. A face that map() painted over is uncovered in what map() gives back, and in
#        the Parquet file written of it; thumbnails are full size. After convert("RGB"), even of a picture that is RGB, it
#        is a new picture, without a name, and all is kept. A JPEG that has no name (from a zip, tar or web request) is
#        written anew at Pillow's quality of 75, over its own 95: 55 levels off here. Nothing warns.
# Output seen: "covered corner, mean: imagefolder 126, after map 126, in Parquet 126, with convert first 0, from_dict 126; thumbnail of (128, 96) given back as (64, 48), stored as (128, 96); levels off: read from a file 0, from bytes 55"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check datasets==5.2.0 pillow==12.3.0 numpy==2.4.6
cd "$folder"
HF_HOME="$folder/home" HF_HUB_OFFLINE=1 "$folder/venv/bin/python" -W ignore - 2>"$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import io
from pathlib import Path

import numpy as np
from datasets import Dataset, Features, Image as ImageColumn, load_dataset
from PIL import Image

random = np.random.default_rng(0)
path = Path("pictures/someone/portrait.jpg")
path.parent.mkdir(parents=True)
noise = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
noise.resize((128, 96), Image.Resampling.BICUBIC).save(path, quality=95)


def cover(row: dict[str, Image.Image]) -> dict[str, Image.Image]:
    row["image"].paste((0, 0, 0), (0, 0, 64, 64))
    return row


def convert_and_cover(row: dict[str, Image.Image]) -> dict[str, Image.Image]:
    return cover({"image": row["image"].convert("RGB")})


def shrink(row: dict[str, Image.Image]) -> dict[str, Image.Image]:
    row["image"].thumbnail((64, 64))
    given_back.append(row["image"].size)
    return row


def stored(picture: Image.Image) -> Image.Image:
    return Dataset.from_dict({"image": [picture]}, features=Features({"image": ImageColumn()}))[0]["image"]


def corner(picture: Image.Image) -> int:
    return round(float(np.asarray(picture)[:64, :64].mean()))


def distance(one: Image.Image, other: Image.Image) -> int:
    return int(np.abs(np.asarray(one).astype(int) - np.asarray(other)).max())


given_back: list[tuple[int, int]] = []
folder = load_dataset("imagefolder", data_dir="pictures", split="train", cache_dir="cache")
covered = folder.map(cover)
covered.to_parquet("covered.parquet")
parquet = Dataset.from_parquet("covered.parquet", cache_dir="cache")
given = cover({"image": Image.open(path)})["image"]
assert corner(given) == 0
corners = {
    "imagefolder": corner(folder[0]["image"]),
    "after map": corner(covered[0]["image"]),
    "in Parquet": corner(parquet[0]["image"]),
    "with convert first": corner(folder.map(convert_and_cover)[0]["image"]),
    "from_dict": corner(stored(given)),
}
size = folder.map(shrink)[0]["image"].size
from_file = distance(stored(Image.open(path)), Image.open(path))
from_bytes = distance(stored(Image.open(io.BytesIO(path.read_bytes()))), Image.open(path))
print(
    f"covered corner, mean: {', '.join(f'{name} {mean}' for name, mean in corners.items())}; thumbnail of (128, 96) given "
    f"back as {given_back[0]}, stored as {size}; levels off: read from a file {from_file}, from bytes {from_bytes}"
)
kept = corners["imagefolder"]
assert kept > 100 and list(corners.values()) == [kept, kept, kept, 0, kept], "the behaviour changed"
assert given_back[0] == (64, 48) and size == (128, 96) and from_file == 0 and from_bytes > 20, "the behaviour changed"
PYTHON
