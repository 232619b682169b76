"""rank: what the two figures are, and that it finds the layer that was broken on purpose."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from graph_builder import GraphBuilder, export_random
from onnx import ModelProto, numpy_helper

from calibration.errors import CalibrationError
from calibration.methods.dialect import Dialect
from calibration.methods.effort import EFFORTS
from calibration.mixed_precision.sensitivity import (
    Sensitivity,
    float_share,
    noise_to_signal,
    quantized_layer_names,
    rank,
)
from calibration.pipeline.quantize_model import CalibratedModel, scale_and_calibrate
from calibration.qdq.insert_qdq import insert_qdq
from exporter.graph.onnx_graph import copy_model
from exporter.networks.cifar_resnet import CifarResNet
from runtimes.ort.adapter import OrtRuntime

SEED = 20261128
SIZE = 24
open_exact = partial(OrtRuntime, exact_qdq=True)


def run(model: ModelProto, images: np.ndarray) -> np.ndarray:
    with open_exact(model) as runtime:
        return runtime.run({"input": images})["logits"]


def broken(model: ModelProto, block: str, factor: float = 1e4) -> ModelProto:
    """Make one channel between the block's convolutions far larger than the others; the float answers stay the same.

    The activation's scale then serves that channel alone, and the second convolution's weights for it are too small
    for the scale of the others.
    """
    result = copy_model(model)
    tensors = {tensor.name: tensor for tensor in result.graph.initializer}
    for name, index in (("conv1.weight", 0), ("conv1.bias", 0), ("conv2.weight", (slice(None), 0))):
        tensor = tensors[f"{block}.{name}"]
        values = numpy_helper.to_array(tensor).copy()
        values[index] *= factor if name.startswith("conv1") else 1 / factor
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    return result


@pytest.fixture(scope="module")
def images() -> np.ndarray:
    return np.random.default_rng(SEED).normal(size=(32, 3, SIZE, SIZE)).astype(np.float32)


@pytest.fixture(scope="module")
def resnet() -> ModelProto:
    import torch

    torch.manual_seed(SEED)
    return export_random(CifarResNet(8), size=SIZE)


def calibrated_from(model: ModelProto, images: np.ndarray, effort: int = 0, **options) -> CalibratedModel:
    return scale_and_calibrate(model, [images], open_runtime=OrtRuntime, effort=EFFORTS[effort], **options)


@pytest.fixture(scope="module")
def found(resnet, images) -> Sensitivity:
    return rank(calibrated_from(broken(resnet, "layer2.0"), images), [images[16:]], open_exact=open_exact)


@pytest.mark.parametrize(("effort", "dialect"), [(0, Dialect.ONNXRUNTIME), (1, Dialect.TENSORRT)])
def test_finds_the_broken_block_and_in_it_the_layer(resnet, images, dialect, effort):
    model = broken(resnet, "layer2.0")
    assert np.allclose(run(model, images), run(resnet, images), rtol=1e-3, atol=1e-4), "FP32 does not notice"
    calibrated = calibrated_from(model, images, effort, dialect=dialect)
    found = rank(calibrated, [images[16:]], open_exact=open_exact)
    assert found.blocks[0].unit.name == "layer2.0"
    assert found.layers[0].unit.name == "layer2.0.conv2"
    assert found.blocks[0].noise > 8 * abs(found.blocks[1].noise)  # 9.8 at effort 1, whose zero points help the block
    assert found.blocks[0].without.sqnr_db > found.whole.sqnr_db + 10
    assert found.blocks[1].without.sqnr_db < found.whole.sqnr_db + 3


def test_two_broken_blocks_are_both_found(resnet, images):
    """Leaving one of them in float wins little while the other is there: `alone` tells."""
    model = broken(broken(resnet, "layer1.0"), "layer3.0")
    found = rank(calibrated_from(model, images), [images[16:]], open_exact=open_exact)
    assert {cost.unit.name for cost in found.blocks[:2]} == {"layer1.0", "layer3.0"}


def test_figures_are_those_of_the_models_they_describe(resnet, images, found):
    """Both figures of one block, computed again from `insert_qdq` and NumPy; a value may round to another level."""
    calibrated = calibrated_from(broken(resnet, "layer2.0"), images)
    nodes = {node.name for node in calibrated.model.graph.node}
    reference = run(calibrated.model, images[16:]).astype(np.float64)
    cost = next(cost for cost in found.blocks if cost.unit.name == "layer3.0")
    block = set(cost.unit.nodes)
    for told, kept in ((cost.alone, nodes - block), (cost.without, block), (found.whole, set())):
        logits = run(insert_qdq(calibrated.model, calibrated.table, keep_float=kept).model, images[16:])
        noise = np.square(reference - logits).sum() / np.square(reference).sum()
        assert noise_to_signal(told) == pytest.approx(noise, rel=0.01)
    alone, without, whole = map(noise_to_signal, (cost.alone, cost.without, found.whole))
    assert cost.noise == pytest.approx((alone + whole - without) / 2, rel=1e-6)


def test_every_block_once_worst_first_and_shares_sum_to_one(found):
    assert sorted(cost.unit.name for cost in found.blocks) == ["fc", "layer1.0", "layer2.0", "layer3.0", "stem"]
    noises = [cost.noise for cost in found.blocks]
    assert noises == sorted(noises, reverse=True)
    assert sum(cost.share_of_macs for cost in found.blocks) == pytest.approx(1.0)
    assert {cost.unit.block for cost in found.layers} <= {cost.unit.name for cost in found.blocks[:3]}


def test_json_holds_what_a_plot_needs(found):
    content = found.to_json()
    assert [row["name"] for row in content["blocks"]] == [cost.unit.name for cost in found.blocks]
    assert set(content["blocks"][0]) == {"name", "block", "layers", "share_of_macs", "noise", "alone", "without"}
    assert content["whole"]["num_images"] == 16


def test_float_share_counts_layers_that_share_the_fate(resnet, images):
    calibrated = calibrated_from(resnet, images)
    assert float_share(calibrated, ()) == 0.0
    assert float_share(calibrated, [node.name for node in resnet.graph.node]) == 1.0
    conv1 = 16 * 3 * 9 * SIZE**2
    layer1 = 2 * 16 * 16 * 9 * SIZE**2
    layer2 = (16 * 32 * 9 + 32 * 32 * 9 + 16 * 32) * (SIZE // 2) ** 2
    layer3 = (32 * 64 * 9 + 64 * 64 * 9 + 32 * 64) * (SIZE // 4) ** 2
    total = conv1 + layer1 + layer2 + layer3 + 64 * 10
    assert float_share(calibrated, ["conv1", "relu"]) == pytest.approx(conv1 / total)
    assert "conv1" not in quantized_layer_names(calibrated, ["conv1"])


def test_no_image_and_nothing_to_rank_are_refused(resnet, images):
    with pytest.raises(CalibrationError, match="got no image"):
        rank(calibrated_from(resnet, images), [], open_exact=open_exact)
    graph = GraphBuilder()
    nothing = graph.model(graph.node("Relu", "logits", "input"))
    table = calibrated_from(resnet, images).table
    with pytest.raises(CalibrationError, match="nothing in the model is quantized"):
        rank(CalibratedModel(nothing, table, EFFORTS[0]), [images], open_exact=open_exact)
