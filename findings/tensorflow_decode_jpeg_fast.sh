#!/usr/bin/env bash
# Versions: tensorflow-cpu 2.19.0, Pillow 12.3.0, NumPy 2.1.3; Python 3.11, Linux x86-64.
# Guess: tf.io.decode_jpeg gives Pillow's pixels: both are libjpeg-turbo, dct_method is "a hint" whose default "maps to a
#        system-specific default", and libjpeg-turbo's own default is the accurate one. So a network trained in PyTorch reads
#        the same pictures in a TensorFlow pipeline (KerasHub's ports, TFDS, TF Serving's "image bytes in").
# Seen:  the default is INTEGER_FAST, whatever the colors' resolution: pixels are up to 4 levels off, 1.0 in the mean, more
#        than the rounding of an INT8 input costs. decode_image has no such argument and is always fast. With
#        dct_method="INTEGER_ACCURATE" every pixel is Pillow's.
# Output seen: "levels from Pillow, most and mean: default 4 1.01, INTEGER_FAST 4 1.01, INTEGER_ACCURATE 0 0.0, decode_image 4 1.01"
#
# 230 MB of downloads.
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check tensorflow-cpu==2.19.0 pillow==12.3.0 numpy==2.1.3
"$folder/venv/bin/python" - 2>/dev/null <<'PYTHON'
import io

import numpy as np
import tensorflow as tf
from PIL import Image

y, x = np.mgrid[:240, :320]
waves = [128 + 90 * np.sin(x / 7) + 30 * np.cos(y / 5), 128 + 90 * np.cos(y / 9 + x / 30), 128 + 60 * np.sin((x + y) / 11)]
picture = Image.fromarray(np.clip(np.stack(waves, -1), 0, 255).astype(np.uint8))
stream = io.BytesIO()
picture.save(stream, "JPEG", quality=90)
expected = np.asarray(Image.open(stream)).astype(int)
decoders = {
    "default": tf.io.decode_jpeg,
    "INTEGER_FAST": lambda data: tf.io.decode_jpeg(data, dct_method="INTEGER_FAST"),
    "INTEGER_ACCURATE": lambda data: tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE"),
    "decode_image": tf.io.decode_image,
}
apart = {name: abs(decode(stream.getvalue()).numpy() - expected) for name, decode in decoders.items()}
told = {name: (int(each.max()), round(float(each.mean()), 2)) for name, each in apart.items()}
print("levels from Pillow, most and mean: " + ", ".join(f"{name} {most} {mean}" for name, (most, mean) in told.items()))
assert told["INTEGER_ACCURATE"] == (0, 0) and told["default"] == told["INTEGER_FAST"] == told["decode_image"]
assert told["default"][0] >= 4, "the behaviour changed"
PYTHON
