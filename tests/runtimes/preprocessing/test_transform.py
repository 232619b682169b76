"""preprocessing against hand-computed values, then bit for bit against torchvision on real photographs."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from torchvision.models import ResNet18_Weights, ResNet50_Weights
from torchvision.transforms import functional as functional_v1
from torchvision.transforms import v2
from torchvision.transforms.functional import InterpolationMode

from runtimes.errors import ImageReadError
from runtimes.preprocessing.resize import KeepRatio
from runtimes.preprocessing.transform import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Interpolation,
    Preprocessing,
    normalize,
    pixels,
    preprocess,
)

RESNET = Preprocessing(256, (224, 224), Interpolation.BILINEAR, IMAGENET_MEAN, IMAGENET_STD)
RESNET_V2 = dataclasses.replace(RESNET, resize=232)
WEIGHTS = {
    "resnet50-v1": (RESNET, ResNet50_Weights.IMAGENET1K_V1),
    "resnet50-v2": (RESNET_V2, ResNet50_Weights.IMAGENET1K_V2),
    "resnet18": (RESNET, ResNet18_Weights.IMAGENET1K_V1),
}
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")
# (width, height): tall, wide, already resized, about as large as the crop, smaller, tiny.
SIZES = (
    (97, 411),
    (640, 101),
    (256, 256),
    (232, 300),
    (300, 257),
    (224, 224),
    (225, 223),
    (50, 60),
    (10, 7),
    (1, 1),
)
TORCH_INTERPOLATION = {
    Interpolation.NEAREST: InterpolationMode.NEAREST,
    Interpolation.BILINEAR: InterpolationMode.BILINEAR,
    Interpolation.BICUBIC: InterpolationMode.BICUBIC,
    Interpolation.BOX: InterpolationMode.BOX,
    Interpolation.HAMMING: InterpolationMode.HAMMING,
    Interpolation.LANCZOS: InterpolationMode.LANCZOS,
}


def photograph(name: str) -> Image.Image:
    return Image.fromarray(getattr(skimage.data, name)())


def noise(width: int, height: int) -> Image.Image:
    """Every pixel counts. Seed 0."""
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def images() -> list[Image.Image]:
    return [photograph(name) for name in PHOTOGRAPHS] + [noise(*size) for size in SIZES]


def by_torchvision(
    image: Image.Image,
    resize: int | list[int],
    crop: list[int],
    interpolation: InterpolationMode = InterpolationMode.BILINEAR,
) -> np.ndarray:
    """uint8 [H, W, 3] of Resize and CenterCrop; its two implementations must agree with each other first."""
    chain = v2.Compose([v2.Resize(resize, interpolation=interpolation), v2.CenterCrop(crop)])
    expected = np.asarray(chain(image))
    sides = [resize] if isinstance(resize, int) else resize
    resized = functional_v1.resize(image, sides, interpolation=interpolation)
    assert np.array_equal(expected, functional_v1.center_crop(resized, crop))
    return expected


@pytest.mark.parametrize("weights", WEIGHTS)
def test_resnet_weights_have_these_settings(weights):
    ours, enum = WEIGHTS[weights]
    theirs = enum.transforms()
    assert [ours.resize] == theirs.resize_size
    assert list(ours.input_size) == theirs.crop_size * 2
    assert TORCH_INTERPOLATION[ours.interpolation] == theirs.interpolation
    assert (list(ours.mean), list(ours.std)) == (theirs.mean, theirs.std)


@pytest.mark.parametrize("weights", WEIGHTS)
def test_same_pixels_and_values_as_torchvision(weights):
    ours, enum = WEIGHTS[weights]
    theirs = enum.transforms()
    for image in images():
        expected = by_torchvision(image, theirs.resize_size[0], theirs.crop_size * 2)
        assert np.array_equal(pixels(ours, image), expected), image.size
        got = preprocess(ours, image)
        assert got.dtype == np.float32
        assert got.flags.c_contiguous
        np.testing.assert_array_equal(got, theirs(image).numpy(), err_msg=str(image.size))


@pytest.mark.parametrize("interpolation", Interpolation)
def test_same_pixels_with_every_interpolation(interpolation):
    ours = dataclasses.replace(RESNET, resize=64, crop=(56, 56), interpolation=interpolation)
    for image in (photograph("chelsea"), noise(33, 47)):
        expected = by_torchvision(image, 64, [56, 56], TORCH_INTERPOLATION[interpolation])
        assert np.array_equal(pixels(ours, image), expected)


@pytest.mark.parametrize("crop", [(31, 32), (32, 31), (33, 64), (65, 20), (20, 71), (80, 80), (1, 1)])
@pytest.mark.parametrize("resize", [32, 33, (40, 50), (33, 32)])
def test_same_pixels_with_every_parity_of_crop_and_padding(resize, crop):
    ours = dataclasses.replace(RESNET, resize=resize, crop=crop)
    for size in ((32, 32), (33, 47), (64, 39)):
        expected = by_torchvision(noise(*size), resize if isinstance(resize, int) else list(resize), list(crop))
        assert np.array_equal(pixels(ours, noise(*size)), expected)


def test_many_sizes_are_cut_to_the_same_length():
    """int(size * long / short) for 200 random shapes, seed 1."""
    rng = np.random.default_rng(1)
    for width, height in rng.integers(1, 60, (200, 2)).tolist():
        image = noise(width, height)
        expected = by_torchvision(image, 20, [18, 25])
        got = pixels(dataclasses.replace(RESNET, resize=20, crop=(18, 25)), image)
        assert np.array_equal(got, expected), (width, height)


def test_same_values_for_all_256_levels():
    levels = np.repeat(np.arange(256, dtype=np.uint8), 3).reshape(16, 16, 3)
    tensor = torch.from_numpy(levels).permute(2, 0, 1)
    for mean, std in ((IMAGENET_MEAN, IMAGENET_STD), ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201))):
        spec = dataclasses.replace(RESNET, mean=mean, std=std)
        theirs = functional_v1.normalize(functional_v1.convert_image_dtype(tensor), list(mean), list(std))
        np.testing.assert_array_equal(normalize(spec, levels), theirs.numpy())


def test_normalize_by_hand():
    spec = dataclasses.replace(RESNET, mean=(0.5, 0.0, 1.0), std=(0.5, 1.0, 0.25))
    got = normalize(spec, np.array([[[255, 0, 51]], [[0, 255, 255]]], np.uint8))
    assert got.shape == (3, 2, 1)
    np.testing.assert_allclose(got[:, :, 0], [[1, -1], [0, 1], [-3.2, 0]], atol=1e-6)


@pytest.mark.parametrize("leading", [(), (1,), (5,), (2, 3), (0,)])
def test_normalize_of_a_batch_is_that_of_each_image(leading):
    batch = np.random.default_rng(2).integers(0, 256, (*leading, 6, 5, 3), dtype=np.uint8)
    before = batch.copy()
    got = normalize(RESNET, batch)
    assert got.shape == (*leading, 3, 6, 5)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    for index in np.ndindex(leading):
        assert np.array_equal(got[index], normalize(RESNET, batch[index]))
    assert np.array_equal(batch, before)


def test_normalize_of_a_view():
    wide = np.random.default_rng(3).integers(0, 256, (8, 10, 3), dtype=np.uint8)
    assert np.array_equal(normalize(RESNET, wide[::2, ::-2]), normalize(RESNET, wide[::2, ::-2].copy()))


@pytest.mark.parametrize(
    "wrong", [np.zeros((4, 4, 3), np.float32), np.zeros((3, 4, 4), np.uint8), np.zeros((4, 3), np.uint8)]
)
def test_normalize_refuses_other_layouts(wrong):
    with pytest.raises(ValueError, match=r"expected uint8 \[..., H, W, 3\]"):
        normalize(RESNET, wrong)


def test_pixels_by_hand():
    """A 4 x 2 picture, crop 2 x 3: offset (4 - 3) / 2 = 0.5 rounds to the even 0. Then padding with black."""
    columns = np.arange(4, dtype=np.uint8) + 1
    image = Image.fromarray(np.broadcast_to(columns[np.newaxis, :, np.newaxis], (2, 4, 3)).copy())
    crop = dataclasses.replace(RESNET, resize=None, crop=(2, 3))
    assert pixels(crop, image)[0, :, 0].tolist() == [1, 2, 3]
    padded = dataclasses.replace(RESNET, resize=None, crop=(3, 7))
    assert pixels(padded, image)[..., 1].tolist() == [[0, 1, 2, 3, 4, 0, 0]] * 2 + [[0] * 7]


def test_exact_resize_without_crop():
    spec = dataclasses.replace(RESNET, resize=(20, 30), crop=None)
    assert spec.input_size == (20, 30)
    image = photograph("coffee")
    expected = np.asarray(v2.Resize((20, 30))(image))
    assert np.array_equal(pixels(spec, image), expected)
    assert preprocess(spec, image).shape == (3, 20, 30)


def test_pixels_are_the_callers_own():
    image = noise(224, 224)
    got = pixels(dataclasses.replace(RESNET, resize=None), image)
    got[:] = 0
    assert np.asarray(image).any()


def test_pixels_refuses_other_modes():
    with pytest.raises(ValueError, match=r"mode L .*use read_image"):
        pixels(RESNET, Image.new("L", (8, 8)))
    with pytest.raises(ValueError, match=r"size \(0, 5\)"):
        pixels(RESNET, Image.new("RGB", (0, 5)))


def test_a_strip_is_refused_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr("runtimes.preprocessing.resize._MAX_RESIZED_PIXELS", 256 * 1000)
    assert pixels(RESNET, noise(10, 39)).shape == (224, 224, 3)
    with pytest.raises(ImageReadError, match="10 x 40 pixels; resized to 256 x 1024"):
        pixels(RESNET, noise(10, 40))


SPECS = [
    RESNET,
    dataclasses.replace(RESNET, resize=(32, 48), crop=None, interpolation=Interpolation.LANCZOS),
    dataclasses.replace(RESNET, resize=None, crop=(32, 48), mean=(0, 0, 0), std=(1, 1, 1)),
    dataclasses.replace(RESNET, resize=(32, 48), crop=(30, 40)),
    dataclasses.replace(RESNET, resize=KeepRatio(32, 48, inside=False), crop=(30, 40)),
    dataclasses.replace(RESNET, resize=KeepRatio(30, 40, inside=True), crop=(30, 40), fill=(124, 116, 104)),
]


@pytest.mark.parametrize(("inside", "expected"), [(True, (224, 37)), (False, (1340, 224))])
def test_a_box_keeps_the_ratio(inside, expected):
    """640 x 107 into 224 x 224: by width 37.45 high, by height 1339.8 wide; rounded to the nearest."""
    assert KeepRatio(224, 224, inside=inside).resized((640, 107)) == expected


def test_padding_has_the_fill_color():
    spec = dataclasses.replace(RESNET, resize=KeepRatio(4, 4, inside=True), crop=(4, 4), fill=(9, 8, 7))
    got = pixels(spec, Image.new("RGB", (8, 4), (1, 2, 3)))
    assert got[:, 0].tolist() == [[9, 8, 7], [1, 2, 3], [1, 2, 3], [9, 8, 7]]


def test_a_strip_that_would_vanish_is_refused():
    spec = dataclasses.replace(RESNET, resize=KeepRatio(8, 8, inside=True), crop=(8, 8))
    with pytest.raises(ImageReadError, match="1 x 100 pixels; resized to 0 x 8 nothing would be left"):
        pixels(spec, noise(1, 100))


@pytest.mark.parametrize("spec", SPECS)
def test_json_round_trip(spec):
    assert Preprocessing.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_json_says_everything():
    assert RESNET.to_json() == {
        "color_order": "RGB",
        "layout": "NCHW",
        "dtype": "float32",
        "scale": "1/255",
        "resize": {"shorter_side": 256},
        "crop": {"height": 224, "width": 224},
        "interpolation": "bilinear",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
    }
    exact = dataclasses.replace(RESNET, resize=(32, 48), crop=None).to_json()
    assert exact["resize"] == {"height": 32, "width": 48}
    assert exact["crop"] is None


@pytest.mark.parametrize("key", sorted(RESNET.to_json()))
def test_json_without_a_key_is_refused(key):
    data = RESNET.to_json()
    del data[key]
    with pytest.raises(ValueError, match=rf"missing \['{key}'\]; expected exactly"):
        Preprocessing.from_json(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": 2.2}, r"unknown \['gamma'\]"),
        ({"color_order": "BGR"}, "'color_order': got 'BGR', expected 'RGB'"),
        ({"layout": "NHWC"}, "'layout': got 'NHWC'"),
        ({"scale": 1}, "'scale': got 1"),
        ({"dtype": "float16"}, "'dtype': got 'float16'"),
        ({"interpolation": "cubic"}, "got 'cubic', expected one of nearest, bilinear"),
        ({"interpolation": ["bilinear"]}, "expected one of nearest"),
        ({"resize": 256}, "'resize' without 'shorter_side': got int"),
        ({"resize": {"shorter_side": 256, "height": 1}}, r"unknown \['height'\]"),
        ({"resize": {"shorter_side": "256"}}, "'256', expected a whole number"),
        ({"resize": {"shorter_side": 0}}, "0, expected a whole number"),
        ({"resize": {"height": 256}}, r"missing \['width'\]"),
        ({"crop": [224, 224]}, "'crop': got list"),
        ({"crop": {"height": 224, "width": 224.0}}, "crop: got"),
        ({"resize": {"inside": 5}}, "'resize' 'inside': got int"),
        ({"resize": {"inside": {"height": 5}}}, r"missing \['width'\]"),
        ({"resize": {"cover": {"height": 5, "width": 0}}}, "expected height and width > 0"),
        ({"resize": {"cover": {"height": 5, "width": 5}, "inside": {}}}, r"unknown \['cover'\]"),
        ({"crop": {"height": 224, "width": 224, "fill": [0, 0, 256]}}, r"fill: got \[0, 0, 256\]"),
        ({"crop": {"height": 224, "width": 224, "fill": [0, 0, 0]}}, "not all 0"),
        ({"crop": {"height": 224, "width": 224, "fill": "black"}}, "fill: got 'black'"),
        ({"crop": None}, "could not be batched"),
        ({"mean": [0.5, 0.5]}, "2 numbers of mean and 3 of std"),
        ({"mean": []}, "'mean': got"),
        ({"color_order": "BGR"}, "'color_order': got 'BGR', expected 'RGB' for 3 channels"),
        ({"mean": [0.5, 0.5, "0.5"]}, "mean: got"),
        ({"mean": [0.5, 0.5, True]}, "mean: got"),
        ({"std": None}, "'std': got None"),
        ({"std": [1, 1, 0]}, "std: got"),
    ],
)
def test_json_that_is_not_understood_is_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing.from_json({**RESNET.to_json(), **change})


def test_json_must_be_an_object():
    with pytest.raises(ValueError, match="got list, expected an object"):
        Preprocessing.from_json([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resize": 0}, "resize"),
        ({"resize": -1}, "resize"),
        ({"resize": True}, "resize"),
        ({"resize": 256.0}, "resize"),
        ({"resize": (1, 2, 3)}, "resize"),
        ({"resize": [256, 256]}, "resize"),
        ({"resize": (0, 5)}, "resize"),
        ({"crop": 224}, "crop"),
        ({"crop": (224, 0)}, "crop"),
        ({"crop": None}, "could not be batched"),
        ({"crop": None, "resize": None}, "could not be batched"),
        ({"mean": (0.5, 0.5)}, "mean"),
        ({"mean": (0.5, 0.5, float("nan"))}, "mean"),
        ({"mean": (0.5, 0.5, 1e39)}, "mean"),
        ({"std": (1.0, 1.0, 0.0)}, "std"),
        ({"std": (1.0, 1.0, -1.0)}, "std"),
        ({"std": (1.0, 1.0, 1e-60)}, "std"),
        ({"std": (1.0, 1.0, float("inf"))}, "std"),
        ({"fill": (0, 0, 256)}, "fill"),
        ({"fill": (0.5, 0.5, 0.5)}, "fill"),
        ({"fill": [1, 2, 3]}, "fill"),
        ({"fill": (1, 2, 3), "crop": None, "resize": (8, 8)}, "fill: .* without a crop"),
    ],
)
def test_wrong_values_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(RESNET, **change)


def test_interpolation_must_be_the_enum():
    with pytest.raises(TypeError, match="interpolation: got 'bilinear'"):
        dataclasses.replace(RESNET, interpolation="bilinear")
