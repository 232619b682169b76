"""How far the faster ways of preparation are from the training's pixels, on photographs; the table of docs/runtimes.md.

    python benchmarks/preprocessing.py [--write]

Six photographs of scikit-image as JPEG of quality 92, at their own size and four times enlarged (bicubic), prepared
for ResNet-50's first weights (bilinear, 256) and second (232); differences in grey levels of 255 from Pillow's, which
are torchvision's bit for bit. No times here: benchmarks/runtime.py takes them.
"""

from __future__ import annotations

import argparse
import io
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

from runtimes.preprocessing.model_input import Preparation
from runtimes.preprocessing.transform import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing

DOCUMENT = Path(__file__).parents[1] / "docs" / "runtimes.md"
BEGIN, END = "<!-- benchmarks/preprocessing.py begins -->", "<!-- benchmarks/preprocessing.py ends -->"
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina")
FIRST = Preprocessing(256, (224, 224), Interpolation.BILINEAR, IMAGENET_MEAN, IMAGENET_STD)
SPECIFICATIONS = {
    "bilinear": FIRST,
    "bilinear, 232": replace(FIRST, resize=232),
    "bicubic": replace(FIRST, interpolation=Interpolation.BICUBIC),
}
WAYS = {"draft=True": {"draft": True}, 'backend="opencv"': {"backend": "opencv"}}
WAYS['backend="opencv", draft=True'] = {"backend": "opencv", "draft": True}


def jpegs() -> list[bytes]:
    found = []
    for name in PHOTOGRAPHS:
        photograph = Image.fromarray(getattr(skimage.data, name)())
        for times in (1, 4):
            stream = io.BytesIO()
            size = (photograph.width * times, photograph.height * times)
            photograph.resize(size, Image.Resampling.BICUBIC).save(stream, "JPEG", quality=92)
            found.append(stream.getvalue())
    return found


def table() -> str:
    pictures = jpegs()
    rows = []
    for way, options in WAYS.items():
        for name, specification in SPECIFICATIONS.items():
            exact, fast = Preparation(specification), Preparation(specification, **options)
            every = [np.abs(fast.pixels(content).astype(int) - exact.pixels(content)).ravel() for content in pictures]
            equal = sum(not difference.any() for difference in every)
            means = [difference.mean() for difference in every]
            largest = np.concatenate(every)
            rows.append(
                f"| `{way}` | {name} | {equal} of {len(every)} | {np.mean(means):.2f} | {max(means):.2f} | "
                f"{np.percentile(largest, 99):.0f} | {largest.max()} |"
            )
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("pillow", "opencv-python-headless"))
    head = "| | resize | equal pictures | mean | worst picture's mean | 99 % of pixels within | at most |"
    return "\n".join([f"{versions}.", "", head, "|---|---|---|---|---|---|---|", *rows])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put the table into docs/runtimes.md")
    arguments = parser.parse_args()
    text = table()
    print(text)
    if arguments.write:
        before, begin, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
        _, end, after = rest.partition(END)
        if not begin or not end:
            raise SystemExit(f"{DOCUMENT} lacks {BEGIN} or {END}; nothing was written")
        DOCUMENT.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
