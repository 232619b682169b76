"""Honest images of every kind pass without a word; every kind of broken input is named for what it is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from PIL import Image

from calibration.observers.input_statistics import InputCollector
from calibration.observers.judge_input import InputWarningKind, judge_input
from runtimes.preprocessing.transform import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Interpolation,
    Preprocessing,
    pixels,
    preprocess,
)

SIZE = 96
IMAGENET = Preprocessing((SIZE, SIZE), None, Interpolation.BILINEAR, IMAGENET_MEAN, IMAGENET_STD)
CROPPED = Preprocessing(256, (224, 224), Interpolation.BILINEAR, IMAGENET_MEAN, IMAGENET_STD)
DIGITS = Preprocessing((32, 32), None, Interpolation.BILINEAR, (0.306,) * 3, (0.324,) * 3)

Kind = InputWarningKind


def statistics_of(images, batch=7):
    collector = InputCollector()
    images = np.asarray(images, np.float32)
    for first in range(0, len(images), batch):
        collector.add(images[first : first + batch])
    return collector.statistics()


def warnings_of(images, preprocessing=IMAGENET):
    return {warning.kind for warning in judge_input(statistics_of(images), preprocessing)}


def crops(picture, count, seed=0):
    """Return random quarters of a picture."""
    generator = np.random.default_rng(seed)
    picture = np.stack([picture] * 3, axis=-1) if picture.ndim == 2 else picture[..., :3]
    height, width = picture.shape[0] // 2, picture.shape[1] // 2
    places = zip(generator.integers(0, height, count), generator.integers(0, width, count), strict=True)
    return [Image.fromarray(picture[top : top + height, left : left + width]) for top, left in places]


@pytest.fixture(scope="module")
def photographs():
    import skimage.data

    names = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina")
    return [crop for name in names for crop in crops(getattr(skimage.data, name)(), 8)]


@pytest.fixture(scope="module")
def bytes_of(photographs):
    """Pixels 0-255, float32 [48, 3, 96, 96]."""
    return np.stack([pixels(IMAGENET, photo) for photo in photographs]).transpose(0, 3, 1, 2).astype(np.float32)


@pytest.fixture(scope="module")
def prepared(photographs):
    return np.stack([preprocess(IMAGENET, photo) for photo in photographs])


def normalized(values):
    return (values - np.reshape(IMAGENET_MEAN, (3, 1, 1))) / np.reshape(IMAGENET_STD, (3, 1, 1))


class TestHonestImages:
    @pytest.mark.parametrize("preprocessing", [IMAGENET, CROPPED], ids=["96", "224"])
    def test_photographs(self, photographs, preprocessing):
        assert warnings_of([preprocess(preprocessing, photo) for photo in photographs], preprocessing) == set()

    @pytest.mark.parametrize("name", ["camera", "coins", "moon", "page", "clock", "brick", "grass", "gravel"])
    def test_one_grey_scene_or_texture_over_and_over(self, name):
        """Text, low contrast (moon), a lawn whose neighboring pixels agree least of all."""
        import skimage.data

        images = [preprocess(CROPPED, crop) for crop in crops(getattr(skimage.data, name)(), 40)]
        assert warnings_of(images, CROPPED) == set()

    @pytest.mark.parametrize("preprocessing", [DIGITS, IMAGENET], ids=["own", "imagenet"])
    def test_grey_digits(self, preprocessing):
        from sklearn.datasets import load_digits

        grey = np.rint(load_digits().images[:100] * 255 / 16).astype(np.uint8)
        images = [preprocess(preprocessing, Image.fromarray(digit).convert("RGB")) for digit in grey]
        assert warnings_of(images, preprocessing) == set()

    def test_drawings_on_white(self):
        """Discs and bars in plain colors, most of the picture white."""
        from PIL import ImageDraw

        generator = np.random.default_rng(2)
        images = []
        for _ in range(48):
            picture = Image.new("RGB", (144, 144), "white")
            draw = ImageDraw.Draw(picture)
            for _ in range(4):
                left, top, width, height = (int(value) for value in generator.integers(10, 70, 4))
                shape = draw.ellipse if generator.random() < 0.5 else draw.rectangle
                shape((left, top, left + width, top + height), fill=tuple(map(int, generator.integers(0, 256, 3))))
            images.append(preprocess(IMAGENET, picture))
        assert warnings_of(images) == set()

    def test_dark_scans(self, bytes_of):
        assert warnings_of(normalized(bytes_of // 8 / 255)) == set()

    def test_blue_and_orange_photographs_in_the_right_order_are_no_bgr(self, bytes_of):
        assert warnings_of(normalized(bytes_of * np.reshape([0.6, 0.8, 1.0], (3, 1, 1)) / 255)) == set()

    def test_networks_that_take_0_to_255_or_0_to_1(self, photographs):
        for std in (1 / 255, 1.0):
            own = dataclasses.replace(IMAGENET, mean=(0.0,) * 3, std=(std,) * 3)
            assert warnings_of([preprocess(own, photo) for photo in photographs], own) == set()

    def test_without_a_preprocessing_nothing_is_said_about_scales(self, bytes_of):
        assert warnings_of(bytes_of, None) == set()


class TestBrokenInput:
    @pytest.mark.parametrize("side", [224, 256, 300, 512])
    def test_noise_pictures_also_after_a_resize(self, side):
        generator = np.random.default_rng(3)
        pictures = [generator.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(33)]
        images = [preprocess(CROPPED, Image.fromarray(picture)) for picture in pictures]
        assert warnings_of(images, CROPPED) == {Kind.NOISE}

    def test_normal_noise_as_arrays(self):
        noise = np.random.default_rng(4).standard_normal((33, 3, SIZE, SIZE))
        assert warnings_of(noise, None) == {Kind.NOISE}
        assert warnings_of(noise) == {Kind.NOISE, Kind.WRONG_NORMALIZATION}, "beyond what a pixel can be"

    def test_pixels_left_on_0_to_255(self, bytes_of):
        (warning,) = judge_input(statistics_of(bytes_of), IMAGENET)
        assert warning.kind is Kind.WRONG_NORMALIZATION
        assert "from 0 to 255" in warning.seen
        assert "0-255" in warning.advice

    @pytest.mark.parametrize("half", [False, True])
    def test_pixels_left_on_0_to_1(self, bytes_of, half):
        """Also where the scale should be -1 to 1, mean and std 0.5, into which 0 to 1 falls."""
        expected = dataclasses.replace(IMAGENET, mean=(0.5,) * 3, std=(0.5,) * 3) if half else IMAGENET
        (warning,) = judge_input(statistics_of(bytes_of / 255), expected)
        assert warning.kind is Kind.WRONG_NORMALIZATION
        assert "0-1" in warning.advice

    @pytest.mark.parametrize(
        "spoil",
        [
            lambda values: normalized(normalized(values / 255)),
            lambda values: normalized(values / 255 / 255),
            lambda values: normalized(values),
            lambda values: values / 255 - np.reshape(IMAGENET_MEAN, (3, 1, 1)) * 255,
        ],
        ids=["normalized twice", "divided twice", "not divided", "mean on 0-255"],
    )
    def test_other_mistakes_of_scale(self, bytes_of, spoil):
        assert warnings_of(spoil(bytes_of)) == {Kind.WRONG_NORMALIZATION}

    def test_mean_and_std_given_on_the_scale_0_to_255(self, photographs):
        wrong = dataclasses.replace(IMAGENET, mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))
        images = [preprocess(wrong, photo) for photo in photographs]
        assert warnings_of(images, wrong) == {Kind.WRONG_NORMALIZATION}

    def test_constant_images(self, prepared):
        levels = np.random.default_rng(5).uniform(-1.5, 2.0, 20)
        constant = np.broadcast_to(levels.reshape(-1, 1, 1, 1), (20, 3, SIZE, SIZE))
        assert warnings_of(np.concatenate([prepared, constant])) == {Kind.CONSTANT}
        assert warnings_of(constant) == {Kind.CONSTANT, Kind.TOO_FEW}
        assert warnings_of(np.full((40, 3, 8, 8), 0.3)) == {Kind.CONSTANT, Kind.TOO_FEW}, "not said to lie on 0 to 1"

    def test_a_few_constant_images_are_tolerated(self, prepared):
        assert warnings_of(np.concatenate([prepared, np.zeros((4, 3, SIZE, SIZE))])) == set()

    def test_one_image_many_times(self, prepared):
        assert warnings_of(np.repeat(prepared[:1], 40, axis=0)) == {Kind.COPIES, Kind.TOO_FEW}

    def test_neighbouring_frames(self):
        """A camera that moves by one pixel from frame to frame."""
        import skimage.data

        photo = Image.fromarray(skimage.data.astronaut())
        frames = [preprocess(IMAGENET, photo.crop((place, place, place + 300, place + 300))) for place in range(80)]
        assert Kind.COPIES in warnings_of(frames)

    def test_too_few(self, prepared):
        assert warnings_of(prepared[:20]) == {Kind.TOO_FEW}


class TestBgr:
    @staticmethod
    def landscapes(count, sky=(0.45, 0.60, 0.85), ground=(0.65, 0.48, 0.28)):
        """Blue above brown, with the photographs' kind of spread; RGB on the scale 0-1."""
        generator = np.random.default_rng(6)
        images = np.empty((count, 3, SIZE, SIZE))
        for image in images:
            horizon = int(generator.integers(SIZE // 4, SIZE // 2))
            for rows, color in ((slice(None, horizon), sky), (slice(horizon, None), ground)):
                tint = np.array(color) * generator.uniform(0.6, 1.15) + generator.normal(0, 0.05, 3)
                image[:, rows] = tint[:, np.newaxis, np.newaxis]
            image += 0.1 * np.cumsum(generator.normal(0, 0.1, (SIZE, SIZE)), axis=1)
        return np.clip(images, 0, 1)

    def test_landscapes_with_red_and_blue_swapped(self):
        images = self.landscapes(100)
        assert warnings_of(normalized(images)) == set()
        assert warnings_of(normalized(images[:, ::-1])) == {Kind.BGR}

    def test_a_few_images_are_no_evidence(self):
        few = judge_input(statistics_of(normalized(self.landscapes(31)[:, ::-1])), IMAGENET)
        assert Kind.BGR not in {warning.kind for warning in few}

    def test_one_sign_alone_is_no_evidence(self):
        """An aquarium: blue all over, and more so above."""
        images = self.landscapes(100, sky=(0.2, 0.5, 0.9), ground=(0.1, 0.4, 0.7))
        assert warnings_of(normalized(images)) == set()

    def test_grey_images_have_no_order(self):
        grey = self.landscapes(100).mean(axis=1, keepdims=True).repeat(3, axis=1)
        assert warnings_of(normalized(grey)) == set()
