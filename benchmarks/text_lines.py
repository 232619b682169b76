"""Write pictures of text lines for networks that read them, half of them upside down: the same in every run.

    python benchmarks/text_lines.py FOLDER        (FOLDER/calib: 128 lines, FOLDER/val: 94)

Words of this repository's LICENSE in Pillow's own font, every second line before a gradient instead of one color.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WORDS = (Path(__file__).resolve().parent.parent / "LICENSE").read_text(encoding="utf-8").split()
PARTS = {"calib": 128, "val": 94}
SIZE = (384, 96)


def main() -> None:
    generator = random.Random(0)
    for part, count in PARTS.items():
        folder = Path(sys.argv[1]) / part
        folder.mkdir(parents=True)
        for number in range(count):
            line(generator, gradient=number % 2 == 1).save(folder / f"{number:03d}.png")


def line(generator: random.Random, *, gradient: bool) -> Image.Image:
    """Return one to three words, dark on light, 384 x 96."""
    light, dark = (tuple(generator.randint(*levels) for _ in range(3)) for levels in ((150, 255), (0, 110)))
    picture = Image.new("RGB", SIZE, light)
    if gradient:
        across = Image.linear_gradient("L").resize(SIZE).point([level // 3 for level in range(256)])
        picture.paste((255, 255, 255), mask=across)
    words = " ".join(generator.choice(WORDS) for _ in range(generator.randint(1, 3)))[:22]
    font = ImageFont.load_default(size=generator.randint(28, 44))
    ImageDraw.Draw(picture).text((10, 20), words, font=font, fill=dark)
    return picture.rotate(180) if generator.random() < 0.5 else picture


if __name__ == "__main__":
    main()
