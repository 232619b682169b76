#!/usr/bin/env bash
# Versions: @huggingface/transformers 4.3.1 (transformers.js, in Node.js, with its sharp 0.35.5), Pillow 12.3.0, NumPy 2.4.6;
#        Python 3.11, x86-64.
# Guess: an image processor of transformers.js prepares a picture as the Python processor of the same name and settings does
#        (which resizes by Pillow): its filter by its number, 1 Lanczos, 2 bilinear, 3 bicubic, to a few levels.
# Seen:  1 is Pillow's where it shrinks. 2 and 3, which nearly all configurations name, are an affine transformation by libvips
#        from corner to corner: no filter before shrinking, so that pixels are picked out and fine texture becomes another
#        one (37 levels off in the mean at a quarter of the size), and the picture lies one and a half old pixels further right
#        and down at a quarter, half a new pixel further left and up at twice the size. A network, its INT8 ranges and its
#        accuracy measured in Python see other pictures than the same files do on a Node server. Nothing says so.
# Output seen: "240 x 180 to 64 x 48, levels off in the mean: Lanczos 0.4, bilinear 36.6, bicubic 39.2; further right than Pillow's, in old pixels, 64 to 16: Lanczos -0.00, bilinear +1.50, bicubic +1.50; 64 to 128: Lanczos +0.25, bilinear -0.25, bicubic -0.25"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check pillow==12.3.0 numpy==2.4.6
cd "$folder"
# Without install scripts: those of its ONNX Runtime fetch GPU libraries, which are not needed here.
npm install --silent --ignore-scripts --no-audit --no-fund --prefix "$folder" @huggingface/transformers@4.3.1 >/dev/null
cat > pictures.py <<'PYTHON'
import numpy as np
from PIL import Image

random = np.random.default_rng(0)
noise = Image.fromarray(random.integers(0, 256, (60, 80, 3), dtype=np.uint8))
noise.resize((240, 180), Image.Resampling.BICUBIC).save("texture.png")
Image.fromarray(np.tile(np.arange(0, 256, 4, dtype=np.uint8), (64, 1))).convert("RGB").save("ramp.png")
PYTHON
cat > resize.mjs <<'JS'
import fs from "node:fs";
import { RawImage, ViTImageProcessor } from "@huggingface/transformers";
for (const [picture, width, height] of [["texture", 64, 48], ["ramp", 16, 16], ["ramp", 128, 128]]) {
  for (const resample of [1, 2, 3]) {
    const processor = new ViTImageProcessor({
      do_resize: true, size: { width, height }, resample, do_rescale: true, rescale_factor: 1 / 255, do_normalize: false,
    });
    const { pixel_values: { data, dims } } = await processor(await RawImage.read(`${picture}.png`));
    if (dims.join() !== `1,3,${height},${width}`) throw new Error(`shape ${dims}`);
    fs.writeFileSync(`${picture}_${width}_${resample}.bin`, Buffer.from(data.buffer, data.byteOffset, data.byteLength));
  }
}
JS
cat > compare.py <<'PYTHON'
import numpy as np
from PIL import Image

names = {1: "Lanczos", 2: "bilinear", 3: "bicubic"}


def both(picture: str, width: int, height: int, resample: int) -> tuple[np.ndarray, np.ndarray]:
    """Levels from transformers.js and from Pillow, [3, height, width]."""
    node = np.fromfile(f"{picture}_{width}_{resample}.bin", np.float32).reshape(3, height, width) * 255
    image = Image.open(f"{picture}.png").resize((width, height), Image.Resampling(resample))
    return node.astype(np.float64), np.asarray(image).astype(np.float64).transpose(2, 0, 1)


def shift(width: int, resample: int) -> float:
    """How far right of Pillow's the ramp lies, in pixels of the old picture: 4 levels are one."""
    node, pillow = both("ramp", width, width, resample)
    middle = slice(width // 4, -width // 4)
    return float(np.mean((node - pillow)[:, middle, middle])) / -4


off = {name: np.abs(np.subtract(*both("texture", 64, 48, number))).mean() for number, name in names.items()}
right = {width: {name: shift(width, number) for number, name in names.items()} for width in (16, 128)}
words = ", ".join(f"{name} {mean:.1f}" for name, mean in off.items())
moved = "; ".join(f"64 to {width}: {', '.join(f'{name} {by:+.2f}' for name, by in row.items())}" for width, row in right.items())
print(f"240 x 180 to 64 x 48, levels off in the mean: {words}; further right than Pillow's, in old pixels, {moved}")
assert off["Lanczos"] < 2 and min(off["bilinear"], off["bicubic"]) > 20, "the behaviour changed"
assert abs(right[16]["Lanczos"]) < 0.1, "the behaviour changed"
assert all(right[16][name] > 1 and right[128][name] < -0.2 for name in ("bilinear", "bicubic")), "the behaviour changed"
PYTHON
"$folder/venv/bin/python" pictures.py
node resize.mjs 2>"$folder/log" >&2 || { tail -3 "$folder/log"; exit 1; }
"$folder/venv/bin/python" compare.py
