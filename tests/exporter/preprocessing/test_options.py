import dataclasses

import pytest
from PIL import Image

from exporter.errors import PreprocessingError
from exporter.models.architecture import CIFAR_PREPROCESSING, IMAGENET_PREPROCESSING
from exporter.preprocessing.options import PreprocessingOptions, assumed_resize
from runtimes.preprocessing.resize import KeepRatio
from runtimes.preprocessing.transform import Interpolation, pixels

HALF = (0.5, 0.5, 0.5)


def test_nothing_said_changes_nothing():
    assert PreprocessingOptions().applied_to(IMAGENET_PREPROCESSING) == IMAGENET_PREPROCESSING


@pytest.mark.parametrize(
    ("resize", "crop", "side", "expected_resize", "expected_crop"),
    [
        (256, (224, 224), 112, 128, (112, 112)),  # the crop sees the same share
        ((32, 32), None, 64, (64, 64), None),
        ((256, 256), (224, 224), 448, (512, 512), (448, 448)),  # squash
        ((128, 64), (64, 32), 64, (128, 128), (64, 64)),
        (KeepRatio(256, 256, inside=True), (224, 224), 112, KeepRatio(128, 128, inside=True), (112, 112)),
        (None, (224, 224), 64, None, (64, 64)),
    ],
)
def test_another_input_size(resize, crop, side, expected_resize, expected_crop):
    old = dataclasses.replace(IMAGENET_PREPROCESSING, resize=resize, crop=crop)
    got = PreprocessingOptions(input_size=side).applied_to(old)
    assert (got.resize, got.crop) == (expected_resize, expected_crop)
    assert got.input_size == (side, side)


def test_an_exact_resize_needs_no_crop():
    got = PreprocessingOptions(resize=(96, 64)).applied_to(IMAGENET_PREPROCESSING)
    assert (got.resize, got.crop) == ((96, 64), None)


def test_statistics_and_interpolation():
    options = PreprocessingOptions(mean=HALF, std=(1, 2, 3), interpolation=Interpolation.BICUBIC)
    got = options.applied_to(CIFAR_PREPROCESSING)
    assert (got.mean, got.std, got.interpolation) == (HALF, (1, 2, 3), Interpolation.BICUBIC)


def test_what_makes_no_sense():
    with pytest.raises(PreprocessingError, match="preprocessing options: std"):
        PreprocessingOptions(std=(0, 1, 1)).applied_to(IMAGENET_PREPROCESSING)
    with pytest.raises(PreprocessingError, match="preprocessing options: std"):
        PreprocessingOptions(input_size=8, mean=HALF, std=(0, 1, 1)).complete("because")


def test_alone_they_must_say_everything():
    with pytest.raises(PreprocessingError, match=r"because; say .*: --input-size, --mean, --std"):
        PreprocessingOptions().complete("because")
    with pytest.raises(PreprocessingError, match=r"because; say .*: --std "):
        PreprocessingOptions(input_size=8, mean=HALF).complete("because")
    got = PreprocessingOptions(input_size=8, mean=HALF, std=HALF).complete("because")
    assert (got.resize, got.crop, got.interpolation) == (8, (8, 8), Interpolation.BILINEAR)
    exact = PreprocessingOptions(resize=(8, 9), mean=HALF, std=HALF).complete("because")
    assert exact.input_size == (8, 9)


@pytest.mark.parametrize(
    "options",
    [
        PreprocessingOptions(8, None, HALF, HALF),
        PreprocessingOptions(8, 10, HALF, HALF),
        PreprocessingOptions(None, (8, 9), HALF, HALF, Interpolation.BICUBIC),
        PreprocessingOptions(8, (9, 10), HALF, HALF),
    ],
)
def test_complete_options_are_not_changed_by_being_applied_again(options):
    complete = options.complete("because")
    assert options.applied_to(complete) == complete


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"mean": (123.675, 116.28, 103.53)},
            r"mean: got 123\.675, 116\.28, .* pixels from 0 to 1, .*--scale 1",
        ),
        ({"std": (58.395, 57.12, 57.375)}, "std: got 58.395, 57.12, 57.375 for pixels from 0 to 1"),
        ({"mean": (0.5, 0.5, 1.5)}, "mean: got 0.5, 0.5, 1.5"),
        ({"mean": (300.0,), "std": (1.0,), "scale": 1.0}, "mean: got 300 for pixels from 0 to 255"),
    ],
)
def test_statistics_of_another_scale_are_refused(options, words):
    with pytest.raises(PreprocessingError, match=words):
        PreprocessingOptions(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375), "scale": 1.0},
        {"mean": (1.0, 1.0, 1.0), "std": (1.0, 1.0, 1.0)},  # white is 0
        {"mean": (-1.0,), "std": (2.0,)},
        {"mean": (0.0,), "std": (1 / 255,)},
    ],
)
def test_statistics_of_their_scale_are_taken(options):
    assert PreprocessingOptions(**options).mean == options["mean"]


@pytest.mark.parametrize(
    ("resize", "size", "told"),
    [
        (16, 32, "16 pixels on its shorter side does not fill the crop of 32x32"),
        ((16, 64), 32, "16x64 does not fill the crop of 32x32"),
        ((1, 1), 32, "1x1 does not fill the crop"),
        (40, (32, 64), ""),
        (20, (32, 64), "20 pixels on its shorter side does not fill the crop of 32x64"),
        (32, 32, ""),
        ((40, 40), 32, ""),
        ((64, 64), None, ""),
    ],
)
def test_a_crop_larger_than_the_resized_picture_is_told(resize, size, told):
    """A wide picture may fill a wide crop; the pixels themselves are the second source."""
    options = PreprocessingOptions(size, resize, (0.0,) * 3, (1.0,) * 3)
    preprocessing = options.complete("because")
    white = Image.new("RGB", (100, 50) if size == (32, 64) else (50, 50), (255, 255, 255))
    assert bool((pixels(preprocessing, white) == 0).any()) == bool(told)
    found = assumed_resize(options, preprocessing)
    assert (told in found) if told else found is None
