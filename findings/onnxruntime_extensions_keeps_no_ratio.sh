#!/usr/bin/env bash
# Versions: onnxruntime-extensions 0.15.2 (pp_api.ImageProcessor, with which ONNX Runtime's samples prepare pictures), Pillow
#        12.3.0, NumPy 2.4.6; Python 3.11, x86-64.
# Guess: a Resize of keep_aspect_ratio 1 keeps the ratio: 120 x 90 to 64 x 64 is 85 x 64, what a CenterCrop behind it expects,
#        and 0 squashes. color_space "RGB" of DecodeImage gives three channels, whatever the file holds.
# Seen:  1, 0 and nothing are alike, Pillow's pixels of the squashed picture bit for bit; a setting that it does not know
#        ("shortest_edge") is refused, so this one looks heeded. A grey JPEG has one channel (a grey PNG three), and a Normalize
#        behind it takes the first mean and deviation for it: a tensor of [1, H, W]. Nothing warns.
# Output seen: "(90, 120) to (64, 64), keep_aspect_ratio 1 (64, 64) as squashed, 0 (64, 64) as squashed, none (64, 64) as squashed; shortest_edge refused; decoded {'color.png': (90, 120, 3), 'grey.png': (90, 120, 3), 'grey.jpg': (90, 120, 1)}, normalized (1, 90, 120)"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check onnxruntime_extensions==0.15.2 pillow==12.3.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - 2>"$folder/log" <<'PYTHON' || { tail -3 "$folder/log"; exit 1; }
import json

import numpy as np
from onnxruntime_extensions.pp_api import ImageProcessor
from PIL import Image

random = np.random.default_rng(0)
noise = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8))
picture = noise.resize((120, 90), Image.Resampling.BICUBIC)
picture.save("color.png")
picture.convert("L").save("grey.png")
picture.convert("L").save("grey.jpg")


def prepare(path: str, *steps: tuple[str, dict[str, object]]) -> np.ndarray:
    steps = (("DecodeImage", {"color_space": "RGB"}), *steps)
    listed = [{"operation": {"name": kind.lower(), "type": kind, "attrs": settings}} for kind, settings in steps]
    processor = ImageProcessor(json.dumps({"processor": {"name": "image_processing", "transforms": listed}}))
    return np.array(processor.to_numpy(processor.pre_process([path]), 0)[0])


def resized(**settings: int) -> np.ndarray:
    return prepare("color.png", ("Resize", {"interpolation": "CUBIC", "width": 64, "height": 64, **settings}))


squashed = np.asarray(picture.resize((64, 64), Image.Resampling.BICUBIC))
answers = {"1": resized(keep_aspect_ratio=1), "0": resized(keep_aspect_ratio=0), "none": resized()}
try:
    resized(shortest_edge=64)
    unknown = "taken"
except Exception as error:
    unknown = "refused" if "Invalid argument" in str(error) else repr(error)
normalize = ("Normalize", {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]})
shapes = {path: prepare(path).shape for path in ("color.png", "grey.png", "grey.jpg")}
tensor = prepare("grey.jpg", ("Rescale", {}), normalize, ("Permute3D", {"dims": [2, 0, 1]})).shape
same = {name: np.array_equal(answer, squashed) for name, answer in answers.items()}
words = ", ".join(f"{name} {answers[name].shape[:2]}{' as squashed' * same[name]}" for name in answers)
print(f"(90, 120) to (64, 64), keep_aspect_ratio {words}; shortest_edge {unknown}; decoded {shapes}, normalized {tensor}")
assert all(same.values()) and unknown == "refused", "the behaviour changed"
assert shapes["color.png"] == shapes["grey.png"] == (90, 120, 3) and shapes["grey.jpg"] == (90, 120, 1), "the behaviour changed"
assert tensor == (1, 90, 120), "the behaviour changed"
PYTHON
