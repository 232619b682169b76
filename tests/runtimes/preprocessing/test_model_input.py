"""Every form of a picture, and the faster ways of preparation: how far they are from torchvision's pixels."""

from __future__ import annotations

import dataclasses
import io
import sys

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torchvision.models import ResNet50_Weights
from torchvision.transforms import v2
from torchvision.transforms.functional import InterpolationMode

from runtimes.errors import ImageReadError, InputMismatchError, MissingDependencyError
from runtimes.preprocessing.image_input import rgb_image
from runtimes.preprocessing.model_input import Preparation
from runtimes.preprocessing.transform import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing

PREPROCESSING = Preprocessing(256, (224, 224), Interpolation.BILINEAR, IMAGENET_MEAN, IMAGENET_STD)
OPENCV_BOUND = {"mean": 0.3, "max": 8}
"""Grey levels of 255; measured 0.22 and 5 on six photographs up to 32 megapixels (docs/runtimes.md)."""
DRAFT_BOUND = {"mean": 0.6, "max": 48}
"""Grey levels; measured 0.50 and 38: a hard edge between black and white differs most."""


def photograph(name: str, times: int = 1) -> Image.Image:
    image = Image.fromarray(getattr(skimage.data, name)())
    return image.resize((image.width * times, image.height * times), Image.Resampling.BICUBIC) if times > 1 else image


def jpeg(image: Image.Image, **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=92, **options)
    return stream.getvalue()


def by_torchvision(content: bytes) -> np.ndarray:
    """Return uint8 [224, 224, 3]: ResNet-50's own transforms, short of the normalization."""
    image = v2.functional.resize(Image.open(io.BytesIO(content)).convert("RGB"), [256], InterpolationMode.BILINEAR)
    return np.array(v2.functional.center_crop(image, [224, 224]))


def far(got: np.ndarray, expected: np.ndarray) -> dict[str, float]:
    difference = np.abs(got.astype(int) - expected)
    return {"mean": float(difference.mean()), "max": int(difference.max())}


def within(bound: dict[str, float], measured: dict[str, float]) -> bool:
    return all(measured[key] <= bound[key] for key in bound)


class TestForms:
    @pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
    def test_bit_for_bit_torchvision(self, name, tmp_path):
        content = jpeg(photograph(name))
        path = tmp_path / "é.jpg"
        path.write_bytes(content)
        decoded = np.array(Image.open(io.BytesIO(content)))
        expected = by_torchvision(content)
        pixels = Preparation(PREPROCESSING).pixels
        for given in (path, str(path), content, bytearray(content), memoryview(content), Image.open(path)):
            assert np.array_equal(pixels(given), expected)
        assert np.array_equal(pixels(decoded, channels="RGB"), expected)
        assert np.array_equal(pixels(decoded[..., ::-1], channels="BGR"), expected)
        assert np.array_equal(pixels(torch.from_numpy(decoded), channels="RGB"), expected)

    def test_the_model_gets_what_torchvision_gives(self):
        content = jpeg(photograph("chelsea"))
        preparation = Preparation(PREPROCESSING)
        got = preparation.batch([preparation.pixels(content)] * 2)
        expected = ResNet50_Weights.IMAGENET1K_V1.transforms()(Image.open(io.BytesIO(content)))
        assert got.dtype == np.float32
        assert got.flags.c_contiguous
        assert np.array_equal(got, np.stack([expected.numpy()] * 2))

    def test_a_model_that_takes_pixels(self):
        preparation = Preparation(PREPROCESSING, takes_pixels=True)
        pixels = preparation.pixels(photograph("coffee"))
        assert np.array_equal(preparation.batch([pixels]), pixels[np.newaxis])

    def test_an_array_is_not_changed_and_not_held(self):
        array = np.array(photograph("coffee"))
        before = array.copy()
        image = rgb_image(array, channels="RGB")
        assert np.array_equal(array, before)
        array[:] = 0
        assert np.array_equal(np.array(image), before)

    @pytest.mark.parametrize(
        ("given", "options", "error", "message"),
        [
            (np.zeros((4, 4, 3), np.uint8), {}, ValueError, 'say channels="RGB", or "BGR"'),
            (np.zeros((4, 4, 3), np.uint8), {"channels": "GRB"}, ValueError, "channels: got 'GRB'"),
            (
                np.zeros((4, 4, 3), np.float32),
                {"channels": "RGB"},
                InputMismatchError,
                r"float32 \[4, 4, 3\], expected",
            ),
            (
                np.zeros((3, 4, 4), np.uint8),
                {"channels": "RGB"},
                InputMismatchError,
                r"expected pixels uint8 \[H, W, 3\]",
            ),
            (np.zeros((4, 4), np.uint8), {"channels": "RGB"}, InputMismatchError, "expected pixels"),
            (np.zeros((2, 4, 4, 3), np.uint8), {"channels": "RGB"}, InputMismatchError, "several as a list"),
            (np.zeros((0, 4, 3), np.uint8), {"channels": "BGR"}, InputMismatchError, "expected pixels"),
            (b"", {}, ImageReadError, "there are no bytes"),
            (b"no image", {}, ImageReadError, "of 8 bytes in memory: it is not an image"),
            ("gone.jpg", {}, ImageReadError, "there is no such file"),
            ("gone.jpg", {"channels": "RGB"}, ValueError, "is for arrays"),
            ([1], {"channels": "RGB"}, TypeError, "got list, expected a path"),
            (Image.new("F", (4, 4)), {}, ImageReadError, "floating point"),
            (3, {}, TypeError, "got int, expected a path"),
            (None, {}, TypeError, "got NoneType"),
        ],
    )
    def test_what_is_no_picture(self, given, options, error, message):
        with pytest.raises(error, match=message):
            Preparation(PREPROCESSING).pixels(given, **options)

    def test_an_array_on_another_device(self):
        class OnGpu:
            def __dlpack__(self, **options):
                raise BufferError("this is on a GPU")

            def __dlpack_device__(self):
                return (2, 0)

        with pytest.raises(InputMismatchError, match=r"cannot read by DLPack .* copy it to main memory"):
            rgb_image(OnGpu(), channels="RGB")


class TestDraft:
    @pytest.mark.parametrize("name", ["chelsea", "retina"])
    def test_within_its_bound(self, name):
        content = jpeg(photograph(name, 4 if name == "chelsea" else 2))
        got = Preparation(PREPROCESSING, draft=True).pixels(content)
        difference = far(got, by_torchvision(content))
        assert difference["max"] > 0, "nothing was reduced"
        assert within(DRAFT_BOUND, difference), difference

    def test_small_pictures_and_other_formats_are_exact(self):
        preparation = Preparation(PREPROCESSING, draft=True)
        stream = io.BytesIO()
        photograph("chelsea", 4).save(stream, "PNG", compress_level=0)
        for content in (jpeg(photograph("chelsea")), stream.getvalue()):
            assert np.array_equal(preparation.pixels(content), by_torchvision(content))

    def test_a_picture_on_its_side(self):
        """Exactly (400, 100) pixels are wanted of a JPEG whose rows are columns: its height counts, not its width."""
        exif = Image.Exif()
        exif[0x0112] = 6
        content = jpeg(photograph("rocket", 3), exif=exif)
        exact = dataclasses.replace(PREPROCESSING, resize=(400, 100), crop=None)
        got = Preparation(exact, draft=True).pixels(content)
        assert within(DRAFT_BOUND, far(got, Preparation(exact).pixels(content)))


class TestOpenCv:
    @pytest.fixture(autouse=True)
    def _needs_opencv(self):
        pytest.importorskip("cv2", reason="OpenCV is not installed")

    @pytest.mark.parametrize(("name", "times"), [("astronaut", 4), ("coffee", 3), ("retina", 1), ("rocket", 4)])
    def test_within_its_bound(self, name, times):
        content = jpeg(photograph(name, times))
        difference = far(Preparation(PREPROCESSING, backend="opencv").pixels(content), by_torchvision(content))
        assert within(OPENCV_BOUND, difference), difference

    @pytest.mark.parametrize("interpolation", Interpolation)
    def test_every_interpolation(self, interpolation):
        spec = dataclasses.replace(PREPROCESSING, interpolation=interpolation)
        content = jpeg(photograph("coffee", 4))
        difference = far(Preparation(spec, backend="opencv").pixels(content), Preparation(spec).pixels(content))
        assert within({"mean": 0.5, "max": 12}, difference), difference

    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_orientation(self, orientation):
        exif = Image.Exif()
        exif[0x0112] = orientation
        content = jpeg(photograph("rocket"), exif=exif)
        got = Preparation(PREPROCESSING, backend="opencv").pixels(content)
        assert within(OPENCV_BOUND, far(got, Preparation(PREPROCESSING).pixels(content)))

    @pytest.mark.parametrize("size", [(7, 10), (100, 3000), (3001, 1777), (224, 224), (1, 1)])
    def test_every_shape_padding_and_blocks_at_the_edge(self, size):
        spec = dataclasses.replace(PREPROCESSING, resize=200, fill=(200, 100, 0))
        noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8))
        array = np.array(noise.resize((size[1], size[0])))
        got = Preparation(spec, backend="opencv").pixels(array, channels="RGB")
        expected = Preparation(spec).pixels(array, channels="RGB")
        assert within({"mean": 1.5, "max": 14}, far(got, expected)), far(got, expected)

    def test_bgr_and_rgb_are_the_same(self):
        array = np.array(photograph("coffee", 3))
        pixels = Preparation(PREPROCESSING, backend="opencv").pixels
        assert np.array_equal(pixels(array, channels="RGB"), pixels(array[..., ::-1], channels="BGR"))

    def test_what_opencv_reads_otherwise_is_read_by_pillow(self, tmp_path):
        """Transparency lies over white; a CMYK JPEG has Pillow's colors; a cut file is an error."""
        fast, exact = Preparation(PREPROCESSING, backend="opencv").pixels, Preparation(PREPROCESSING).pixels
        clear = tmp_path / "clear.png"
        Image.new("RGBA", (300, 300), (200, 0, 0, 128)).save(clear)
        cmyk = tmp_path / "cmyk.jpg"
        photograph("chelsea").convert("CMYK").save(cmyk)
        for path in (clear, cmyk):
            assert np.array_equal(fast(path), exact(path))
        for broken in (jpeg(photograph("chelsea"))[:5000], b"", b"no image"):
            with pytest.raises(ImageReadError):
                fast(broken)
        with pytest.raises(ImageReadError, match="no such file"):
            fast(tmp_path / "gone.jpg")

    def test_draft(self):
        content = jpeg(photograph("coffee", 4))
        got = Preparation(PREPROCESSING, backend="opencv", draft=True).pixels(content)
        assert within(DRAFT_BOUND, far(got, by_torchvision(content)))


def test_without_opencv_the_backend_is_refused_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingDependencyError, match="pip install opencv-python-headless"):
        Preparation(PREPROCESSING, backend="opencv")
