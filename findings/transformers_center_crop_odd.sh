#!/usr/bin/env bash
# Versions: transformers 5.24.0 (its Pillow backend; no torch), NumPy 2.4.6, Pillow 12.3.0; Python 3.11.
# Guess: the center crop of an image processor is torchvision's CenterCrop, with which nearly all of these networks were
#        trained and evaluated: both are asked for the same size, and `backend="pil"` is there to keep pixels as they were.
# Seen:  where an odd number of pixels is cut off, torchvision begins at the half rounded to even
#        (int(round((height - crop) / 2.0))) and transformers at the half rounded down. So 1 or 5 pixels are cut alike, and
#        with 3, 7 or 11 every picture is one row and one column away: a resize to 235 and a crop of 224, for example.
# Output seen: "cut 1: 0 0, cut 3: 1 2, cut 5: 2 2, cut 7: 3 4, cut 11: 5 6, cut 12: 6 6" (transformers, torchvision)
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check transformers==5.24.0 numpy==2.4.6 pillow==12.3.0
cat > "$folder/preprocessor_config.json" <<'JSON'
{"image_processor_type": "BitImageProcessor", "do_resize": false, "do_center_crop": true,
 "crop_size": {"height": 20, "width": 20}, "do_rescale": false, "do_normalize": false, "do_convert_rgb": true}
JSON
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import numpy as np
from transformers import AutoImageProcessor

processor = AutoImageProcessor.from_pretrained(sys.argv[1], backend="pil")
found = {}
for cut in (1, 3, 5, 7, 11, 12):
    size = 20 + cut
    rows = np.broadcast_to(np.arange(size, dtype=np.uint8)[:, None, None], (size, size, 3))  # each row holds its number
    (pixels,) = processor(np.ascontiguousarray(rows), return_tensors="np")["pixel_values"]
    found[cut] = (int(pixels[0, 0, 0]), int(round((size - 20) / 2.0)))  # torchvision: transforms.functional.center_crop
print(", ".join(f"cut {cut}: {theirs} {torchvision}" for cut, (theirs, torchvision) in found.items()))
assert found == {1: (0, 0), 3: (1, 2), 5: (2, 2), 7: (3, 4), 11: (5, 6), 12: (6, 6)}
PYTHON
