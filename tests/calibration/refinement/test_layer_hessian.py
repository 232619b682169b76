"""The rows that a layer reads, against PyTorch's unfold and convolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from onnx import helper
from torch.nn import functional

from calibration.refinement import layer_hessian
from calibration.refinement.layer_hessian import RowSampler, has_rows, mean_rows, weight_from_rows, weight_rows

SEED = 20261129

CONVOLUTIONS = {
    "plain": {},
    "stride": {"strides": [2, 1]},
    "pads": {"pads": [1, 2, 3, 0]},
    "dilation": {"dilations": [2, 3], "pads": [2, 2, 2, 2]},
    "groups": {"group": 2, "pads": [1, 1, 1, 1]},
    "depthwise": {"group": 4, "strides": [2, 2], "pads": [0, 1, 0, 1]},
    "corners that read nothing": {"dilations": [12, 12], "pads": [12, 12, 12, 12]},
    "all": {"group": 2, "strides": [2, 3], "pads": [1, 0, 2, 3], "dilations": [1, 2]},
}


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(SEED)


def conv_node(**attributes):
    return helper.make_node("Conv", ["x", "w"], ["y"], name="conv", **attributes)


def hessians(node, batches, kernel, columns=slice(None)) -> np.ndarray:
    """Return x x^T summed over the sampled rows of all images."""
    images = [image for batch in batches for image in batch]
    sampler = RowSampler(node, kernel, num_images=len(images))
    rows = [sampler.rows(image, columns).astype(np.float64) for image in images]
    return sum(np.matmul(each.transpose(0, 2, 1), each) for each in rows)


def unfolded(images: np.ndarray, kernel: tuple[int, int], attributes: dict) -> np.ndarray:
    """Return [groups, images * positions, K] as torch.nn.functional.unfold has them."""
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    padded = functional.pad(torch.from_numpy(images), (left, right, top, bottom))
    columns = functional.unfold(
        padded, kernel, dilation=attributes.get("dilations", 1), stride=attributes.get("strides", 1)
    ).numpy()  # [n, C * kH * kW, positions]
    groups = attributes.get("group", 1)
    split = columns.reshape(len(images), groups, -1, columns.shape[2])
    return split.transpose(1, 0, 3, 2).reshape(groups, -1, split.shape[2])


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (2, 3)])
def test_hessians_are_those_of_unfold(random: np.random.Generator, kind: str, kernel: tuple[int, int]) -> None:
    attributes = CONVOLUTIONS[kind]
    images = random.normal(size=(3, 4, 11, 9)).astype(np.float32)
    rows = unfolded(images, kernel, attributes).astype(np.float64)
    found = hessians(conv_node(**attributes), [images[:1], images[1:]], kernel)
    assert_allclose(found, np.matmul(rows.transpose(0, 2, 1), rows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["all", "depthwise"])
def test_hessian_of_some_columns_is_a_block_of_the_whole(random: np.random.Generator, kind: str) -> None:
    images = random.normal(size=(3, 4, 11, 9)).astype(np.float32)
    node = conv_node(**CONVOLUTIONS[kind])
    whole = hessians(node, [images], (3, 3))
    for columns in (slice(0, 4), slice(4, 9)):
        assert_allclose(hessians(node, [images], (3, 3), columns), whole[:, columns, columns], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_rows_times_weight_rows_is_the_convolution(random: np.random.Generator, kind: str) -> None:
    attributes = CONVOLUTIONS[kind]
    groups = attributes.get("group", 1)
    image = random.normal(size=(4, 11, 9)).astype(np.float32)
    weight = random.normal(size=(8, 4 // groups, 3, 2)).astype(np.float32)
    node = conv_node(**attributes)
    rows = RowSampler(node, (3, 2), num_images=1).rows(image)
    product = np.matmul(rows, weight_rows(node, weight).transpose(0, 2, 1))  # [groups, positions, O / groups]
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    expected = functional.conv2d(
        functional.pad(torch.from_numpy(image), (left, right, top, bottom))[None],
        torch.from_numpy(weight),
        stride=attributes.get("strides", 1),
        dilation=attributes.get("dilations", 1),
        groups=groups,
    )[0]
    assert_allclose(product.transpose(0, 2, 1).reshape(8, -1), expected.reshape(8, -1).numpy(), atol=1e-4)


def test_a_sample_of_the_rows_is_spread_over_the_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a picture that is bright in one column only, a sample sees a like share; a stride of 8 would see 0 or 8 x."""
    monkeypatch.setattr(layer_hessian, "MAX_ROWS", 2 * 128)
    images = np.zeros((2, 1, 32, 32), np.float32)
    images[..., 5] = 1.0
    rows = RowSampler(conv_node(), (1, 1), num_images=2).rows(images[0])
    assert 128 <= rows.shape[1] < 256
    assert rows.mean() == pytest.approx(1 / 32, rel=0.35)
    assert_allclose(hessians(conv_node(), [images], (1, 1)), [[[2 * rows.sum()]]])


@pytest.mark.parametrize("transposed", [0, 1])
def test_gemm(random: np.random.Generator, transposed: int) -> None:
    node = helper.make_node("Gemm", ["x", "w"], ["y"], transB=transposed)
    inputs = random.normal(size=(6, 5)).astype(np.float32)
    weight = random.normal(size=(3, 5) if transposed else (5, 3)).astype(np.float32)
    assert_allclose(hessians(node, [inputs[:2], inputs[2:]], ()), (inputs.T @ inputs)[None], rtol=1e-5)
    rows = weight_rows(node, weight)
    assert rows.shape == (1, 3, 5)
    assert_allclose(inputs @ rows[0].T, inputs @ (weight.T if transposed else weight))


def test_matmul_of_three_axes(random: np.random.Generator) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    inputs = random.normal(size=(2, 7, 5)).astype(np.float32)
    weight = random.normal(size=(5, 3)).astype(np.float32)
    flat = inputs.reshape(-1, 5)
    assert_allclose(hessians(node, [inputs], ()), (flat.T @ flat)[None], rtol=1e-5, atol=1e-5)
    assert_array_equal(weight_rows(node, weight)[0], weight.T)


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (conv_node(), (6, 4, 3, 2)),
        (conv_node(group=2), (6, 2, 3, 3)),
        (conv_node(group=6), (6, 1, 3, 3)),
        (helper.make_node("Gemm", ["x", "w"], ["y"], transB=1), (6, 4)),
        (helper.make_node("Gemm", ["x", "w"], ["y"]), (4, 6)),
        (helper.make_node("MatMul", ["x", "w"], ["y"]), (4, 6)),
    ],
)
def test_weight_from_rows_undoes_weight_rows(random: np.random.Generator, node, shape: tuple[int, ...]) -> None:
    levels = random.integers(-127, 128, shape).astype(np.int8)
    again = weight_from_rows(node, weight_rows(node, levels), shape)
    assert_array_equal(again, levels)
    assert again.flags.c_contiguous


def test_layers_whose_rows_are_not_known_are_told() -> None:
    assert has_rows(conv_node(), 4)
    assert has_rows(helper.make_node("Gemm", ["x", "w"], ["y"]), 2)
    assert not has_rows(conv_node(), 3), "one spatial axis"
    assert not has_rows(conv_node(auto_pad="SAME_UPPER"), 4)


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("kernel", [(3, 3), (1, 1), (2, 3)])
def test_the_mean_row_is_that_of_all_positions(random: np.random.Generator, kind: str, kernel: tuple[int, int]) -> None:
    attributes = CONVOLUTIONS[kind]
    images = random.normal(size=(2, 4, 11, 9)).astype(np.float32)
    expected = [unfolded(image[None], kernel, attributes).mean(axis=1) for image in images]
    assert_allclose(mean_rows(conv_node(**attributes), images, kernel), expected, atol=1e-6)


def test_the_mean_row_of_a_matmul_is_over_all_axes_but_the_last(random: np.random.Generator) -> None:
    images = random.normal(size=(3, 5, 7, 6)).astype(np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    assert_allclose(mean_rows(node, images, ()), images.mean(axis=(1, 2))[:, None], atol=1e-6)
