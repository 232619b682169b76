"""A folder of hostile pictures among good ones, as calibration images and as images to classify.

    python tests/robustness/hostile_images.py [--many 100000]

The main job must tell the bad ones and use the rest (exit 0), or refuse the folder (exit 2) where there are too many;
`classify` must give one row for every file. Never a traceback, a hang, or a bad picture that is used in silence.
`--many N` also lists, splits and hashes a folder of N pictures, and one of 20,000 links to folders.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
WEIGHTS = ROOT / "examples" / "digits" / "resnet20_digits.safetensors"

BAD_NAME = os.fsdecode(b"bad \xe9\xff.jpg")
"""Not UTF-8: it cannot be written into JSON as it is, and must be told all the same."""


def write_hostile(folder: Path, good: Path) -> tuple[set[str], set[str]]:
    """Write pictures into `folder`; return the names of those that can be read, and of those that cannot."""
    from hostile_kinds import png_claiming

    folder.mkdir(parents=True, exist_ok=True)
    content = good.read_bytes()
    rng = np.random.default_rng(2)
    noise = rng.integers(0, 255, (40, 40, 3), np.uint8)
    picture = Image.fromarray(noise)
    bad = {
        "truncated.png": content[: len(content) // 2],
        "zero.jpg": b"",
        "text.jpg": b"not a picture",
        "script.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n(x) run\n",
        "bomb.png": png_claiming(60_000, 60_000),
        "svg.png": b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
    }
    for name, data in bad.items():
        (folder / name).write_bytes(data)
    (folder / BAD_NAME).write_bytes(b"not a picture")
    Image.fromarray(rng.random((9, 9), np.float32)).save(folder / "float.tiff")
    (folder / "gone.jpg").symlink_to("nowhere.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(folder / "pipe.jpg")
    (folder / "device.jpg").symlink_to("/dev/zero")
    unreadable = {BAD_NAME, "float.tiff", "gone.jpg", "loop.jpg", "pipe.jpg", "device.jpg"}
    if os.geteuid() != 0:  # root reads everything
        shutil.copy(good, folder / "secret.png")
        (folder / "secret.png").chmod(0)
        unreadable.add("secret.png")

    picture.resize((1, 1)).save(folder / "one.png")
    Image.fromarray(rng.integers(0, 255, (2, 30_000, 3), np.uint8)).resize((30_000, 40)).save(folder / "wide.jpg")
    Image.fromarray(rng.integers(0, 65535, (40, 40), np.uint16)).save(folder / "sixteen.png")
    picture.convert("CMYK").save(folder / "cmyk.jpg")
    picture.save(folder / "animated.gif", save_all=True, append_images=[picture.rotate(90)])
    picture.save(folder / "really-a-png.jpg", format="PNG")
    picture.convert("LA").save(folder / "transparent.png")
    (folder / "inside.jpg").mkdir()
    picture.save(folder / "inside.jpg" / "x.png")
    (folder / "inside.jpg" / "up").symlink_to(folder, target_is_directory=True)
    odd = [
        "ünïcødé 数字.png",
        "new\nline.png",
        "tab\tand [red]markup[bold].png",
        "-rf.png",
        "' or 1=1.png",
        "a" * 250 + ".png",
    ]
    odd_bytes = [name.encode() for name in odd] + [b"latin-1 \xe9\xff.png"]
    for name in odd_bytes:
        shutil.copy(good, os.path.join(os.fsencode(folder), name))
    readable = {"one.png", "wide.jpg", "sixteen.png", "cmyk.jpg", "animated.gif", "really-a-png.jpg", "transparent.png"}
    readable |= {"inside.jpg/x.png", *(os.fsdecode(name) for name in odd_bytes)}
    return readable, unreadable | set(bad)


def good_images(folder: Path) -> Path:
    """Write the digits and return the folder of calibration images."""
    sys.path.insert(0, str(ROOT / "examples" / "digits"))
    from write_images import write_images

    write_images(folder)
    return folder / "calib"


def calibrate(work: Path, calib: Path, *options: str) -> int:
    """Run the main job on a folder; return the exit code."""
    from resnet_export.main import main

    words = ["cifar_resnet20", "--weights", str(WEIGHTS), "--int8", "--calib", str(calib), "--effort", "0", "--force"]
    return main(
        [*words, "--num-calib", "10000", "--calib-cache", str(work / "cache"), "-o", str(work / "out"), *options]
    )


def read_each(folder: Path, readable: set[str], unreadable: set[str]) -> list[str]:
    """Read every picture on its own; return what went otherwise than it should."""
    from runtimes.errors import ImageReadError
    from runtimes.preprocessing.decode import read_image
    from runtimes.preprocessing.transform import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing, preprocess

    preprocessing = Preprocessing(36, (32, 32), Interpolation.BILINEAR, IMAGENET_MEAN, IMAGENET_STD)
    failures = []
    for name in sorted(readable | unreadable, key=os.fsencode):
        try:
            preprocess(preprocessing, read_image(folder / name))
            outcome = True
        except ImageReadError:
            outcome = False
        except Exception as err:  # any other end is what this looks for
            failures.append(f"{name!r}: {type(err).__name__}: {err}")
            continue
        if outcome != (name in readable):
            failures.append(f"{name!r}: {'read' if outcome else 'refused'}")
    return failures


def check_calibration(work: Path) -> list[str]:
    """Calibrate on a folder with few hostile pictures, and on one with many; return failures."""
    failures = []
    calib = good_images(work / "digits")
    hostile = calib / "hostile"
    readable, unreadable = write_hostile(hostile, next(calib.rglob("*.png")))
    failures += read_each(hostile, readable, unreadable)
    (code, seconds) = timed(lambda: calibrate(work, calib, "--quiet"))
    if code != 2:  # a dozen of 280 images is more than 1 %
        failures.append(f"many unreadable images: exit code {code}, expected 2")
    for name in unreadable - {BAD_NAME}:
        (hostile / name).unlink()
    code, more = timed(lambda: calibrate(work, calib))
    if code != 0:
        failures.append(f"one unreadable image: exit code {code}, expected 0")
    if seconds + more > 120:
        failures.append(f"took {seconds + more:.0f} s")
    return failures


def check_classify(work: Path) -> list[str]:
    """Classify the same pictures; every file must have its row, with a class or with a reason."""
    import csv

    from resnet_export.main import main

    folder = work / "classify"
    good = next((work / "digits" / "val").rglob("*.png"))
    readable, unreadable = write_hostile(folder, good)
    words = ["classify", "--bundle", work / "out", "--input", folder, "--output", work / "rows.csv", "--skip-errors"]
    code = main([str(word) for word in words])
    if code != 0:
        return [f"classify: exit code {code}"]
    with (work / "rows.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.DictReader(file))
    if len(rows) != len(readable) + len(unreadable):
        return [f"classify: {len(rows)} rows of {len(readable) + len(unreadable)} files"]
    return []


def check_many(work: Path, count: int, num_links: int = 20_000) -> list[str]:
    """List, split and hash a folder of `count` pictures, and one full of links to folders."""
    from calibration.observers.sample_images import image_list_sha256, split_images
    from runtimes.preprocessing.image_folder import find_images

    folder = work / "many"
    for place in range(100):
        (folder / str(place)).mkdir(parents=True)
    for place in range(count):
        (folder / str(place % 100) / f"{place}.png").write_bytes(b"%d" % place)
    paths, seconds = timed(lambda: find_images(folder))
    failures = [] if len(paths) == count else [f"{len(paths)} of {count} found"]
    split = split_images(folder, paths, num_calibration=count, hold_out=True)
    image_list_sha256(folder, split.calibration)
    links = work / "links"
    links.mkdir()
    for place in range(num_links):
        (links / f"link{place}").symlink_to(folder / str(place % 100), target_is_directory=True)
    linked, more = timed(lambda: find_images(links))
    if len(linked) != count:
        failures.append(f"{len(linked)} of {count} found behind links")
    print(f"{count} files listed in {seconds:.1f} s, behind {num_links:,} links in {more:.1f} s")
    return failures + ([f"links: {more:.0f} s"] if more > 30 else [])


def timed(call):
    """Return what `call` returns, and how long it took in seconds."""
    start = time.monotonic()
    return call(), time.monotonic() - start


def main() -> int:
    """Run all checks; print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--many", type=int, default=0, help="files of the large folder (long form: 100000)")
    options = parser.parse_args()
    sys.path[:0] = [str(HERE), str(ROOT)]
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        failures = check_calibration(work)
        failures += check_classify(work)
        failures += check_many(work, options.many) if options.many else []
    seconds = time.monotonic() - begin
    print(f"hostile images: {28 + options.many} files, {len(failures)} failures, {seconds:.0f} s")
    for failure in failures:
        print(f"  {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
