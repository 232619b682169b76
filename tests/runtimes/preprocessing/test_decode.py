"""read_image against hand-made files; Pillow's own exif_transpose is the second source for orientation."""

from __future__ import annotations

import contextlib
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from runtimes.errors import ImageReadError
from runtimes.preprocessing import decode
from runtimes.preprocessing.decode import read_image, rgb_from_image

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def picture(width: int = 3, height: int = 2) -> Image.Image:
    """A picture in which no turn or flip goes unnoticed."""
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


def saved(path: Path, image: Image.Image, **options: object) -> Path:
    image.save(path, **options)
    return path


def png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(path: Path, *, color_type: int, depth: int, width: int, rows: list[bytes], extra: bytes = b"") -> Path:
    """Write a PNG by hand, for kinds that Pillow reads but does not write."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, color_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = png_chunk(b"IHDR", header) + extra + png_chunk(b"IDAT", body) + png_chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def colors(path: Path) -> list[tuple[int, ...]]:
    """The pixels, row by row."""
    image = read_image(path)
    assert image.mode == "RGB"
    return [tuple(pixel) for row in np.asarray(image).tolist() for pixel in row]


@pytest.mark.parametrize("extension", ["png", "bmp", "ppm", "tiff"])
def test_rgb_is_read_unchanged(tmp_path, extension):
    image = picture()
    assert np.array_equal(read_image(saved(tmp_path / f"x.{extension}", image)), image)


def test_lossless_webp_is_read_unchanged(tmp_path):
    assert np.array_equal(read_image(saved(tmp_path / "x.webp", picture(), lossless=True)), picture())


@pytest.mark.parametrize(("extension", "options"), [("avif", {"quality": 100, "subsampling": "4:4:4"}), ("jp2", {})])
def test_newer_formats_are_read_as_pillow_decodes_them(tmp_path, extension, options):
    if extension == "avif" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    path = saved(tmp_path / f"x.{extension}", picture(40, 30), **options)
    with Image.open(path) as image:
        assert np.array_equal(read_image(path), image.convert("RGB"))
    difference = np.asarray(read_image(path), float) - np.asarray(picture(40, 30), float)
    assert np.abs(difference).mean() < 2


def test_a_pillow_without_avif_says_what_it_reads(tmp_path, monkeypatch):
    path = tmp_path / "x.avif"
    path.write_bytes(b"\0\0\0\x1cftypavif" + bytes(64))
    monkeypatch.setattr(decode, "formats_here", lambda: ("JPEG", "PNG"))
    with pytest.raises(ImageReadError, match=r"x\.avif.*expected one of JPEG, PNG$"):
        read_image(path)


def test_jpeg_is_read_as_pillow_decodes_it(tmp_path):
    path = saved(tmp_path / "x.jpg", picture(40, 30))
    with Image.open(path) as image:
        assert np.array_equal(read_image(path), image)


def test_content_not_extension_decides(tmp_path):
    assert np.array_equal(read_image(saved(tmp_path / "x.JPEG", picture(), format="PNG")), picture())


def test_grey_and_one_bit(tmp_path):
    assert colors(saved(tmp_path / "l.png", Image.fromarray(np.array([[0, 77, 255]], np.uint8)))) == [
        (0, 0, 0),
        (77, 77, 77),
        WHITE,
    ]
    one_bit = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    for extension in ("png", "pbm", "tiff"):
        assert colors(saved(tmp_path / f"b.{extension}", one_bit)) == [(0, 0, 0), WHITE]


@pytest.mark.parametrize("extension", ["png", "webp", "tiff"])
def test_transparent_colors_are_laid_over_white(tmp_path, extension):
    values = np.array([[[255, 0, 0, 255], [255, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 128]]], np.uint8)
    path = saved(
        tmp_path / f"x.{extension}",
        Image.fromarray(values),
        **({"lossless": True, "exact": True} if extension == "webp" else {}),
    )
    assert colors(path) == [RED, WHITE, WHITE, (127, 127, 127)]


def test_grey_with_alpha_is_laid_over_white(tmp_path):
    image = Image.fromarray(np.array([[[10, 255], [10, 0], [0, 51]]], np.uint8), mode="LA")
    assert colors(saved(tmp_path / "x.png", image)) == [(10, 10, 10), WHITE, (204, 204, 204)]


def palette_image() -> Image.Image:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8)).convert("P")
    image.putpalette([*RED, *GREEN, *BLUE])
    return image


def test_palette(tmp_path):
    assert colors(saved(tmp_path / "x.png", palette_image())) == [RED, GREEN, BLUE]


def test_palette_with_one_transparent_index(tmp_path):
    assert colors(saved(tmp_path / "x.png", palette_image(), transparency=1)) == [RED, WHITE, BLUE]
    assert colors(saved(tmp_path / "x.gif", palette_image(), transparency=1)) == [RED, WHITE, BLUE]


def test_palette_with_an_alpha_for_each_index(tmp_path):
    path = saved(tmp_path / "x.png", palette_image(), transparency=bytes([255, 0, 102]))
    assert colors(path) == [RED, WHITE, (153, 153, 255)]


def test_transparent_color_of_rgb_and_grey(tmp_path):
    rgb = Image.fromarray(np.array([[RED, BLUE]], np.uint8))
    assert colors(saved(tmp_path / "rgb.png", rgb, transparency=RED)) == [WHITE, BLUE]
    grey = Image.fromarray(np.array([[9, 10]], np.uint8))
    assert colors(saved(tmp_path / "l.png", grey, transparency=9)) == [WHITE, (10, 10, 10)]


def test_cmyk_and_ycbcr(tmp_path):
    cmyk = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    assert colors(saved(tmp_path / "x.tiff", cmyk))[0] == RED
    red, green, blue = colors(saved(tmp_path / "x.jpg", cmyk, quality=100))[0]
    assert red > 250
    assert green < 5
    assert blue < 5
    ycbcr = picture(16, 16).convert("YCbCr")
    assert np.array_equal(rgb_from_image(ycbcr), ycbcr.convert("RGB"))


GREYS_16 = np.array([[0, 128, 129, 257, 32768, 65535]], np.uint16)
GREYS_8 = [
    0,
    0,
    1,
    1,
    128,
    255,
]  # round(x / 257), by hand: 128 / 257 = 0.498, 129 / 257 = 0.502, 32768 / 257 = 127.5+


@pytest.mark.parametrize("mode", ["I;16", "I;16B", "I"])
def test_16_bit_grey_is_scaled_not_clipped(mode):
    image = Image.fromarray(GREYS_16.astype({"I;16": "<u2", "I;16B": ">u2", "I": np.int32}[mode]))
    assert image.mode == mode
    assert np.asarray(rgb_from_image(image))[0, :, 1].tolist() == GREYS_8


@pytest.mark.parametrize("extension", ["png", "tiff"])
def test_16_bit_files(tmp_path, extension):
    path = saved(tmp_path / f"x.{extension}", Image.fromarray(GREYS_16))
    assert [pixel[2] for pixel in colors(path)] == GREYS_8


def test_16_bit_pgm(tmp_path):
    path = tmp_path / "x.pgm"
    path.write_bytes(b"P5 6 1 65535\n" + GREYS_16.astype(">u2").tobytes())
    assert [pixel[2] for pixel in colors(path)] == GREYS_8


def test_every_16_bit_value_is_rounded_to_nearest():
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    got = np.asarray(rgb_from_image(Image.fromarray(values)))[..., 0]
    assert np.array_equal(got, np.rint(values / 257.0))


def test_16_bit_grey_with_a_transparent_value(tmp_path):
    rows = [struct.pack(">2H", 4660, 4661)]
    key = png_chunk(b"tRNS", struct.pack(">H", 4660))
    path = png(tmp_path / "x.png", color_type=0, depth=16, width=2, rows=rows, extra=key)
    assert colors(path) == [WHITE, (18, 18, 18)]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (np.array([[0.0, 1.0]], np.float32), "floating point"),
        (np.array([[0, 65536]], np.int32), "from 0 to 65536"),
        (np.array([[-1, 5]], np.int32), "from -1 to 5"),
    ],
)
def test_pixels_of_unknown_range_are_refused(tmp_path, values, reason):
    path = saved(tmp_path / "x.tiff", Image.fromarray(values))
    with pytest.raises(ImageReadError, match=reason) as caught:
        read_image(path)
    assert str(path) in str(caught.value)
    assert "8-bit or 16-bit" in str(caught.value)


def test_lab_is_refused(tmp_path):
    with pytest.raises(ImageReadError, match="Lab"):
        read_image(saved(tmp_path / "x.tiff", Image.new("LAB", (2, 2))))


@pytest.mark.parametrize("extension", ["gif", "webp", "png", "tiff"])
def test_first_frame_of_an_animation(tmp_path, extension):
    frames = [Image.new("RGB", (4, 4), color) for color in (RED, GREEN, BLUE)]
    options = {"lossless": True} if extension == "webp" else {}
    path = saved(tmp_path / f"x.{extension}", frames[0], save_all=True, append_images=frames[1:], **options)
    assert set(colors(path)) == {RED}


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("extension", ["jpg", "png", "webp", "tiff"])
def test_exif_orientation(tmp_path, extension, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path / f"x.{extension}", picture(17, 9), exif=exif)
    got = read_image(path)
    with Image.open(path) as image:
        assert np.array_equal(got, ImageOps.exif_transpose(image).convert("RGB"))
    assert got.size == ((9, 17) if orientation >= 5 else (17, 9))
    assert np.array_equal(rgb_from_image(got), got), "a second call must not turn the picture again"


def test_orientation_6_by_hand(tmp_path):
    """The camera was turned left: the file's left column is the picture's top row, from right to left."""
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.array([[RED, GREEN], [BLUE, WHITE]], np.uint8))
    assert colors(saved(tmp_path / "x.png", image, exif=exif)) == [BLUE, RED, WHITE, GREEN]


def test_orientation_is_applied_to_palette_images(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 3
    path = saved(tmp_path / "x.png", palette_image(), exif=exif, transparency=0)
    assert colors(path) == [BLUE, GREEN, WHITE]


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0garbage", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0II*\0\xff\xff\xff\x7f"]
)
@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_does_not_cost_the_picture(tmp_path, exif):
    path = saved(tmp_path / "x.jpg", picture(16, 16), exif=exif)
    assert read_image(path).size == (16, 16)


def test_orientation_is_applied_although_another_tag_is_bad(tmp_path):
    """Pillow's exif_transpose fails on this file: it rewrites the other tag (a value out of its range)."""
    tags = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0) + struct.pack(">HHIi", 0x012D, 4, 1, -1)
    exif = b"Exif\0\0MM\0*\0\0\0\x08" + struct.pack(">H", 2) + tags + bytes(4)
    path = saved(tmp_path / "x.jpg", picture(24, 16), exif=exif)
    with Image.open(path) as image:
        expected = image.transpose(Image.Transpose.ROTATE_270)
        with pytest.raises(struct.error):
            ImageOps.exif_transpose(image)
    assert np.array_equal(read_image(path), expected)


def test_opened_image_is_left_alone():
    exif = Image.Exif()
    exif[0x0112] = 6
    image = picture()
    image.info["exif"] = exif.tobytes()
    before = image.copy()
    turned = rgb_from_image(image)
    assert turned.size == (2, 3)
    assert (image.size, image.mode, image.info) == (before.size, before.mode, before.info)
    assert np.array_equal(image, before)


def refused(path: Path, reason: str) -> None:
    with pytest.raises(ImageReadError, match=reason) as caught:
        read_image(path)
    assert repr(str(path)) in str(caught.value)
    assert caught.value.__cause__ is not None


def test_missing_file(tmp_path):
    refused(tmp_path / "nothing.jpg", "no such file")


def test_broken_link(tmp_path):
    (tmp_path / "x.jpg").symlink_to(tmp_path / "nothing.jpg")
    refused(tmp_path / "x.jpg", "no such file")


def test_folder(tmp_path):
    refused(tmp_path, "folder")


def test_pipe_does_not_wait(tmp_path):
    os.mkfifo(tmp_path / "x.jpg")
    refused(tmp_path / "x.jpg", "pipe")


def test_empty_file(tmp_path):
    (tmp_path / "x.jpg").touch()
    refused(tmp_path / "x.jpg", "0 bytes")


def test_permission_denied(tmp_path, monkeypatch):
    """Simulated, because root may read everything."""
    path = saved(tmp_path / "x.png", picture())

    def denied(self, *args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", denied)
    refused(path, "permission denied")


@pytest.mark.parametrize("content", [b"x", b"404 Not Found" * 100, b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"])
def test_not_an_image(tmp_path, content):
    (tmp_path / "x.jpg").write_bytes(content)
    refused(tmp_path / "x.jpg", "not an image|damaged")


def test_postscript_is_not_run(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n")
    refused(tmp_path / "x.jpg", "not an image")


@pytest.mark.parametrize("extension", ["jpg", "png", "gif", "bmp", "webp", "tiff", "ppm"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.9])
def test_truncated(tmp_path, extension, kept):
    path = saved(tmp_path / f"x.{extension}", picture(64, 64))
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    refused(path, "damaged|not an image")


@pytest.mark.parametrize("extension", ["jpg", "png", "gif", "bmp", "webp", "tiff", "ppm"])
def test_damaged_bytes_are_read_or_refused(tmp_path, extension):
    """A checksum may be absent, so damage may go unnoticed, but no other error may escape. Seed 0."""
    path = saved(tmp_path / f"x.{extension}", picture(24, 24))
    content = np.frombuffer(path.read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    for _ in range(100):
        damaged = content.copy()
        damaged[rng.integers(0, len(damaged), 8)] = rng.integers(0, 256, 8)
        path.write_bytes(damaged.tobytes())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(ImageReadError):
                assert read_image(path).mode == "RGB"


@pytest.mark.parametrize("limit", [50, 30])  # 64 pixels: above the limit (a warning), above twice the limit (an error)
def test_decompression_bomb(tmp_path, monkeypatch, limit):
    path = saved(tmp_path / "x.png", picture(8, 8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(path, "pixels.*MAX_IMAGE_PIXELS")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64)
    assert read_image(path).size == (8, 8)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_image(path).size == (8, 8)


def test_bomb_warning_turned_into_an_error_by_the_user(tmp_path, monkeypatch):
    path = saved(tmp_path / "x.png", picture(8, 8))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refused(path, "too many pixels")


@pytest.mark.parametrize("name", ["写真 é.png", "two\nlines.png", "percent %s {x}.png", "-rf.png", "\udcff.png"])
def test_odd_names(tmp_path, name):
    assert read_image(saved(tmp_path / name, picture())).size == (3, 2)
    (tmp_path / name).write_bytes(b"x")
    refused(tmp_path / name, "not an image")


def test_file_is_closed(tmp_path, monkeypatch):
    """Whether the image is good, cut short or not an image at all."""
    good = saved(tmp_path / "good.png", picture(32, 32))
    (tmp_path / "cut.png").write_bytes(good.read_bytes()[:900])
    (tmp_path / "text.png").write_bytes(b"text")
    opened = []
    original = Path.open

    def recording(self, *args, **options):
        opened.append(original(self, *args, **options))
        return opened[-1]

    monkeypatch.setattr(Path, "open", recording)
    read_image(good)
    for name in ("cut.png", "text.png"):
        with pytest.raises(ImageReadError):
            read_image(tmp_path / name)
    assert [file.closed for file in opened] == [True, True, True]
