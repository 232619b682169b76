"""Grey of 16 and 12 bits in TIFFs written by hand: one picture, whatever 0 stands for; or a refusal that says why."""

import struct

import numpy as np
import pytest
from PIL import Image

from runtimes.errors import ImageReadError
from runtimes.preprocessing import grey16
from runtimes.preprocessing.decode import read_image

Y, X = np.mgrid[0:6, 0:8]
GREY = (X * 30 + Y).astype(np.uint8)
WIDE = GREY.astype(np.uint16) * 257


def tiff(data, *, bits, white_is_zero=False, big=False, signed=False, compression=1, without=(), tiled=False):
    """Return a grey TIFF of one strip (or tile) of `data`."""
    order, mark = (">", b"MM") if big else ("<", b"II")
    height, width = GREY.shape
    tags = {256: (3, width), 257: (3, height), 258: (3, bits), 259: (3, compression), 262: (3, int(not white_is_zero))}
    tags |= {277: (3, 1), 339: (3, 2 if signed else 1)}
    place, size = (324, 325) if tiled else (273, 279)
    tags |= {place: (4, 8), size: (4, len(data))}
    tags |= {322: (3, 16), 323: (3, 16)} if tiled else {278: (3, height)}
    entries = b""
    for tag, (kind, value) in sorted(tags.items()):
        if tag not in without:
            packed = struct.pack(f"{order}HH", value, 0) if kind == 3 else struct.pack(f"{order}I", value)
            entries += struct.pack(f"{order}HHI", tag, kind, 1) + packed
    head = mark + struct.pack(f"{order}HI", 42, 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(tags) - len(without)) + entries + bytes(4)


def levels(path, content):
    path.write_bytes(content)
    image = np.asarray(read_image(path))
    assert np.ptp(image, axis=2).max() == 0
    return image[..., 0]


def test_sixteen_bits_with_0_as_white_or_black(tmp_path):
    black = tiff(WIDE.astype("<u2").tobytes(), bits=16)
    white = tiff((65535 - WIDE).astype("<u2").tobytes(), bits=16, white_is_zero=True)
    eight = tiff((255 - GREY).tobytes(), bits=8, white_is_zero=True)
    for content in (black, white, eight):
        assert np.array_equal(levels(tmp_path / "x.tif", content), GREY)


def test_the_other_byte_order(tmp_path):
    black = tiff(WIDE.astype(">u2").tobytes(), bits=16, big=True)
    assert np.array_equal(levels(tmp_path / "x.tif", black), GREY)
    white = tiff((65535 - WIDE).astype(">u2").tobytes(), bits=16, big=True, white_is_zero=True)
    (tmp_path / "x.tif").write_bytes(white)
    with pytest.raises(ImageReadError, match="TIFF of a kind that is not read"):  # Pillow 13.0 does not know it
        read_image(tmp_path / "x.tif")


@pytest.mark.parametrize("white_is_zero", [False, True])
def test_compressed_and_tiled(tmp_path, white_is_zero):
    stored = (65535 - WIDE if white_is_zero else WIDE).astype("<u2")
    path = tmp_path / "x.tif"
    Image.fromarray(stored).save(path, compression="tiff_lzw", tiffinfo={262: int(not white_is_zero)})
    assert np.array_equal(np.asarray(read_image(path))[..., 0], GREY)
    tile = np.zeros((16, 16), "<u2")
    tile[:6, :8] = stored
    content = tiff(tile.tobytes(), bits=16, white_is_zero=white_is_zero, tiled=True)
    assert np.array_equal(levels(path, content), GREY)


def test_packed_twelve_bits_have_a_white_of_their_own(tmp_path):
    twelve = np.rint(GREY / 255 * 4095).astype(np.uint16)
    pairs = twelve.reshape(-1, 2)
    packed = np.stack([pairs[:, 0] >> 4, (pairs[:, 0] & 15) << 4 | pairs[:, 1] >> 8, pairs[:, 1] & 255], 1)
    assert np.array_equal(levels(tmp_path / "x.tif", tiff(packed.astype(np.uint8).tobytes(), bits=12)), GREY)


@pytest.mark.parametrize("big", [False, True])
def test_signed_levels_are_refused_by_name(tmp_path, big):
    content = tiff((WIDE // 4).astype(">i2" if big else "<i2").tobytes(), bits=16, big=big, signed=True)
    (tmp_path / "x.tif").write_bytes(content)
    with pytest.raises(ImageReadError, match="grey values are signed"):
        read_image(tmp_path / "x.tif")


def test_a_missing_photometric_reads_as_pillow_reads_eight_bits(tmp_path):
    """The tag is required; whoever leaves it out gets one reading for all depths."""
    sixteen = levels(tmp_path / "x.tif", tiff(WIDE.astype("<u2").tobytes(), bits=16, without=(262,)))
    eight = levels(tmp_path / "x.tif", tiff(GREY.tobytes(), bits=8, without=(262,)))
    assert np.array_equal(sixteen, eight)


@pytest.mark.parametrize(("shift", "bits"), [(4, 12), (6, 10), (8, 8)])
@pytest.mark.parametrize("kind", ["png", "tif"])
def test_data_of_fewer_bits_in_a_16_bit_file_is_told_once(tmp_path, logged, monkeypatch, shift, bits, kind):
    monkeypatch.setattr(grey16, "_told", set())
    Image.fromarray((WIDE >> shift) | 1 << (bits - 1)).save(tmp_path / f"x.{kind}")
    read_image(tmp_path / f"x.{kind}")
    read_image(tmp_path / f"x.{kind}")
    (message,) = logged.messages
    assert f"x.{kind}" in message
    assert f"{bits}-bit data in a 16-bit file" in message


def test_a_whole_range_and_a_black_picture_say_nothing(tmp_path, logged, monkeypatch):
    monkeypatch.setattr(grey16, "_told", set())
    for values in (WIDE, np.zeros_like(WIDE)):
        Image.fromarray(values).save(tmp_path / "x.png")
        read_image(tmp_path / "x.png")
    assert not logged.messages
