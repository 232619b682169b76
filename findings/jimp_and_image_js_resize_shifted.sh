#!/usr/bin/env bash
# Versions: jimp 1.6.1, image-js 1.7.0, sharp 0.35.5 beside them (Node.js 20), Pillow 12.3.0, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: resize by bilinear or bicubic interpolation keeps a picture where it is, as Pillow's, OpenCV's and torchvision's do,
#        centers of pixels on centers, whatever they do against aliasing: a ramp of 4 levels a pixel shrinks to the same ramp in all.
# Seen:  sharp's shrunk ramp is Pillow's, and both of Jimp's where no mode is named. Its ResizeStrategy.BILINEAR begins at the
#        corner: at a quarter of the size the picture lies 1.5 old pixels further right and down, at twice the size half
#        a new one further left and up. image-js takes half a pixel from a position that it never added half of a new one
#        to, bilinear and bicubic: half a new pixel further right and down at every size, 2 old ones at a quarter. So a
#        network served from JavaScript sees pictures that lie elsewhere than those of its calibration. Nothing says so.
# Output seen: "further right than Pillow's, in old pixels, 64 to 16 and 64 to 128: jimp +0.00 and +0.00, jimp bilinear +1.50 and -0.25, image-js bilinear +2.00 and +0.25, image-js bicubic +2.00 and +0.25, sharp linear +0.00 and +0.25"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pillow==12.3.0 numpy==2.4.6
cd "$folder"
npm install --silent --ignore-scripts --no-audit --no-fund --prefix "$folder" jimp@1.6.1 image-js@1.7.0 sharp@0.35.5 >/dev/null
cat > resize.mjs <<'JS'
import fs from "node:fs";
import { Image } from "image-js";
import { Jimp, ResizeStrategy } from "jimp";
import sharp from "sharp";
const size = 64;
const ramp = Buffer.alloc(size * size * 4, 255);
for (let index = 0; index < size * size; index++) ramp.fill(4 * (index % size), 4 * index, 4 * index + 3);
const jimp = (width, mode) => {
  const picture = Jimp.fromBitmap({ data: Buffer.from(ramp), width: size, height: size });
  return picture.resize({ w: width, h: width, ...mode }).bitmap.data;
};
const imageJs = (width, interpolationType) => {
  const picture = new Image(size, size, { data: new Uint8Array(ramp), colorModel: "RGBA" });
  return picture.resize({ width, height: width, interpolationType }).getRawImage().data;
};
const sharpLinear = (width) => {
  const picture = sharp(ramp, { raw: { width: size, height: size, channels: 4 } });
  return picture.resize(width, width, { kernel: "linear" }).raw().toBuffer();
};
const rows = {};
for (const width of [16, 128]) {
  const pictures = {
    "jimp": jimp(width, {}),
    "jimp bilinear": jimp(width, { mode: ResizeStrategy.BILINEAR }),
    "image-js bilinear": imageJs(width, "bilinear"),
    "image-js bicubic": imageJs(width, "bicubic"),
    "sharp linear": await sharpLinear(width),
  };
  for (const [name, data] of Object.entries(pictures)) {
    (rows[name] ??= {})[width] = Array.from({ length: width }, (_, column) => data[4 * column]);
  }
}
fs.writeFileSync("rows.json", JSON.stringify(rows));
JS
cat > compare.py <<'PYTHON'
import json
from pathlib import Path

import numpy as np
from PIL import Image

ramp = Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1)))
right: dict[str, list[float]] = {}
for name, rows in json.loads(Path("rows.json").read_text(encoding="utf-8")).items():
    right[name] = []
    for width in (16, 128):
        pillow = np.asarray(ramp.resize((width, width), Image.Resampling.BILINEAR))[0].astype(np.float64)
        middle = slice(width // 4, -width // 4)
        right[name].append(float(np.mean((pillow - np.array(rows[str(width)], np.float64))[middle])) / 4)
words = ", ".join(f"{name} {shrunk:+.2f} and {enlarged:+.2f}" for name, (shrunk, enlarged) in right.items())
print(f"further right than Pillow's, in old pixels, 64 to 16 and 64 to 128: {words}")
assert np.allclose(right["jimp"], 0, atol=0.1) and abs(right["sharp linear"][0]) < 0.1, "the behaviour changed"
assert np.allclose(right["jimp bilinear"], [1.5, -0.25], atol=0.1), "the behaviour changed"
assert right["image-js bilinear"][0] > 1.8 and right["image-js bicubic"][0] > 1.8, "the behaviour changed"
assert right["image-js bilinear"][1] > 0.2 and right["image-js bicubic"][1] > 0.2, "the behaviour changed"
PYTHON
node resize.mjs 2>"$folder/log" >&2 || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" compare.py
