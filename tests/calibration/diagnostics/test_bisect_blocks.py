"""The block that was broken is named, with what is wrong; healthy files name none."""

import json
import re
from functools import partial

import numpy as np
import onnx
import pytest

from calibration import quantize
from calibration.diagnostics.bisect_blocks import bisect_blocks
from calibration.errors import CalibrationError
from calibration.methods.builtin_methods import Max
from calibration.methods.dialect import Dialect, ZeroPoints
from calibration.methods.effort import EFFORTS
from calibration.qdq.insert_qdq import insert_qdq
from calibration.qdq.offsets import METADATA_KEY
from calibration.ranges.collect_ranges import calibrate
from exporter.graph.onnx_graph import array_from_initializer, initializer_from_array
from exporter.passes.add_pre_post import finish_graph
from exporter.passes.float16 import float16_from_float32
from exporter.passes.float16_qdq import float16_qdq_from_float32
from exporter.passes.pre_post_options import Finish
from runtimes.ort.adapter import OrtRuntime
from runtimes.preprocessing.transform import Interpolation, Preprocessing
from runtimes.side_by_side import SideBySide, Streams

open_exact = partial(OrtRuntime, exact_qdq=True)
BLOCKS = ("stem", *(f"layer{stage}.{place}" for stage in (1, 2, 3) for place in range(3)), "fc")


def as_the_command_makes_it(network):
    """INT8 with scaled channels and corrected biases."""
    batches = [network.calibration[:32]]
    return quantize(network.model, batches, open_runtime=OrtRuntime, open_exact=open_exact).quantized.model


@pytest.fixture(scope="module")
def healthy(digits_network):
    return as_the_command_makes_it(digits_network)


@pytest.fixture(scope="module")
def small(small_network):
    """For what the number of blocks says nothing of."""
    return as_the_command_makes_it(small_network)


@pytest.fixture(scope="module")
def images(digits_network):
    return [digits_network.held_out[:8]]


def bisect(network, candidate, images, precision="int8"):
    return bisect_blocks(network.model, candidate, images, precision=precision, open_exact=open_exact)


def edited(model, name, edit):
    result = onnx.ModelProto.FromString(model.SerializeToString())
    (constant,) = [tensor for tensor in result.graph.initializer if tensor.name == name]
    constant.CopyFrom(initializer_from_array(name, edit(array_from_initializer(constant))))
    return result


def times(factor):
    return lambda values: values * np.float32(factor)


def test_batches_side_by_side_give_the_same_figures(small_network, small):
    batches = np.array_split(small_network.held_out[:12], 4)
    side_by_side = SideBySide(partial(OrtRuntime, exact_qdq=True, num_threads=1), Streams(3, 1))
    one_by_one = bisect(small_network, small, batches)
    found = bisect_blocks(
        small_network.model,
        small,
        batches,
        precision="int8",
        open_exact=open_exact,
        side_by_side=side_by_side,
    )
    assert found == one_by_one


def test_a_healthy_file_is_left_in_peace(digits_network, healthy, images):
    found = bisect(digits_network, healthy, images)
    assert tuple(block.name for block in found.blocks) == BLOCKS
    assert found.suspects == ()
    assert all(block.own_sqnr_db > 30 for block in found.blocks)
    assert found.blocks[0].sqnr_db == pytest.approx(found.blocks[0].own_sqnr_db, abs=0.2)  # nothing came before it


def test_a_healthy_file_of_float16_scales_is_left_in_peace(digits_network, healthy, images):
    candidate = float16_qdq_from_float32(healthy).model
    found = bisect(digits_network, candidate, images, "int8-fp16")
    assert tuple(block.name for block in found.blocks) == BLOCKS
    assert found.suspects == ()


def test_a_healthy_file_in_the_other_dialect_too(small_network, images):
    table = calibrate(
        small_network.model,
        [small_network.calibration[:64]],
        open_runtime=OrtRuntime,
        method=Max(),
        dialect=Dialect.ONNXRUNTIME,
    )
    assert bisect(small_network, insert_qdq(small_network.model, table).model, images).suspects == ()


@pytest.fixture(scope="module", params=[1, 2], ids=["biases", "pads"])
def shifted(bottleneck_network, request):
    """INT8 of bottlenecks, where biases take the zero points of most tensors; with Pads, of all but the last."""
    network, effort = bottleneck_network, EFFORTS[request.param]
    return quantize(
        network.model, [network.calibration[:32]], open_runtime=OrtRuntime, open_exact=open_exact, effort=effort
    ).quantized.model


@pytest.mark.parametrize("pixels", [False, True])
def test_zero_points_in_the_biases_are_no_fault(bottleneck_network, shifted, pixels):
    images, candidate = [bottleneck_network.held_out[:8]], shifted
    if pixels:
        preprocessing = Preprocessing((8, 8), None, Interpolation.BILINEAR, (0.306,) * 3, (0.324,) * 3)
        candidate = finish_graph(shifted, Finish(uint8_input=True, softmax=False), preprocessing=preprocessing)
    assert json.loads(next(entry.value for entry in shifted.metadata_props if entry.key == METADATA_KEY))
    found = bisect(bottleneck_network, candidate, images)
    assert found.suspects == ()


def test_plain_int8_is_quantized_like_the_file(bottleneck_network, shifted, monkeypatch):
    seen = []

    def noted(*arguments, **options):
        seen.append((options["dialect"], options["zero_points"]))
        return calibrate(*arguments, **options)

    monkeypatch.setattr("calibration.diagnostics.bisect_blocks.calibrate", noted)
    network = bottleneck_network
    expected = []
    for dialect, effort, zero_points in (
        (Dialect.TENSORRT, 2, ZeroPoints.PADS),
        (Dialect.TENSORRT, 1, ZeroPoints.BIASES),
        (Dialect.TENSORRT, 0, ZeroPoints.NONE),
        (Dialect.ONNXRUNTIME, 1, ZeroPoints.NONE),
    ):
        expected.append((dialect, zero_points))
        result = quantize(
            network.model,
            [network.calibration[:32]],
            open_runtime=OrtRuntime,
            open_exact=open_exact,
            dialect=dialect,
            effort=EFFORTS[effort],
        )
        assert bisect(network, result.quantized.model, [network.held_out[:8]]).suspects == ()
    assert seen == expected


def test_what_is_broken_behind_a_zero_point_is_found(bottleneck_network, shifted):
    images = [bottleneck_network.held_out[:8]]
    for name, edit, cause in (
        ("2.conv3.weight.scale", times(4), "the weight of 2.conv3"),
        ("2.conv1.weight", np.zeros_like, "the weight of 2.conv1 is all zeros"),
    ):
        (first, *_) = bisect(bottleneck_network, edited(shifted, name, edit), images).suspects
        assert first.name == "2"
        assert cause in first.causes[0]


BREAKS = (
    {
        "stem": ("conv1.weight.scale", times(4), r"the weight of conv1 is (3\.9|4|4\.1) times"),
        "layer1.1": ("layer1.1.conv2.bias", np.zeros_like, "the bias of layer1.1.conv2 is missing"),
        "layer2.1": ("layer2.1.relu.scale", times(4), "the scale of layer2.1.relu"),
        "layer2.2": ("layer2.2.conv1.weight", lambda w: w.transpose(1, 0, 2, 3), r"axes are in order \[1, 0, 2, 3\]"),
        "layer3.1": ("layer3.0.relu_1.scale", times(4), "the scale of layer3.0.relu_1"),
        "fc": ("fc.weight", np.zeros_like, "the weight of fc is all zeros"),
    },
    {
        "layer1.0": ("layer1.0.conv2.weight", lambda w: w[::-1], "the weight of layer1.0.conv2 is another"),
        "layer2.1": ("layer2.1.conv1.weight.scale", times(4), r"the weight of layer2.1.conv1 is (3\.9|4|4\.1) times"),
        "layer3.1": ("layer3.1.relu.scale", times(0.1), "larger values are clipped"),
        "layer3.2": ("layer3.2.conv1.weight", lambda w: w.transpose(0, 1, 3, 2), r"axes are in order \[0, 1, 3, 2\]"),
        "fc": ("fc.bias", lambda bias: bias[::-1], "the bias of fc is another"),
    },
)
"""Block to (constant, what is done to it, what has to be said, a pattern); all of them at once in one file.

Weights are moved by some percent to make up for the error in what they read, so 4 times is 3.9 to 4.1 times.
"""


@pytest.mark.parametrize(("breaks", "precision"), [(BREAKS[0], "int8"), (BREAKS[1], "int8-fp16")])
def test_every_break_is_found_where_it_is_whatever_else_is_broken(digits_network, healthy, images, breaks, precision):
    broken = healthy
    for constant, edit, _ in breaks.values():
        broken = edited(broken, constant, edit)
    if precision == "int8-fp16":
        broken = float16_qdq_from_float32(broken).model
    found = bisect(digits_network, broken, images, precision)
    assert [suspect.name for suspect in found.suspects] == list(breaks)
    for suspect in found.suspects:
        assert re.search(breaks[suspect.name][2], "; ".join(suspect.causes))
    assert f"the error jumps at {next(iter(breaks))} (" in found.statement
    assert len(found.to_json()["causes"]) >= len(breaks)


@pytest.mark.parametrize("constant", ["conv1.weight.scale", "layer3.0.conv1.bias"])
def test_blocks_behind_a_break_are_not_blamed(digits_network, healthy, images, constant):
    edit = times(4) if constant.endswith("scale") else np.zeros_like
    found = bisect(digits_network, edited(healthy, constant, edit), images)
    assert len(found.suspects) == 1
    assert found.blocks[-1].sqnr_db < 15  # the error arrived at the end all the same


def test_ranges_of_noise_show_in_the_blocks(digits_network, images):
    noise = np.random.default_rng(3).uniform(-0.9, 2.1, (64, 3, 32, 32)).astype(np.float32)
    table = calibrate(digits_network.model, [noise], open_runtime=OrtRuntime)
    found = bisect(digits_network, insert_qdq(digits_network.model, table).model, images)
    assert len(found.suspects) > 3
    assert "larger values are clipped" in "; ".join(cause for block in found.suspects for cause in block.causes)


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_files_that_are_not_quantized(small_network, images, precision):
    candidate = small_network.model
    if precision == "fp16":
        candidate = float16_from_float32(candidate).model
    broken = edited(candidate, "layer2.0.conv2.weight", lambda weight: weight.transpose(1, 0, 2, 3))
    (suspect,) = bisect(small_network, broken, images, precision).suspects
    assert suspect.name == "layer2.0"
    assert "transposed" in suspect.causes[0]


def test_a_file_that_takes_pixels_is_compared_from_its_normalized_input_on(digits_network, healthy, images):
    preprocessing = Preprocessing((32, 32), None, Interpolation.BILINEAR, (0.306,) * 3, (0.324,) * 3)
    finish = Finish(uint8_input=True, softmax=True)
    broken = edited(healthy, "layer3.0.conv1.bias", np.zeros_like)
    pair = [finish_graph(model, finish, preprocessing=preprocessing) for model in (digits_network.model, broken)]
    found = bisect_blocks(*pair, images, precision="int8", open_exact=open_exact)
    assert [suspect.name for suspect in found.suspects] == ["layer3.0"]


def test_tensors_that_only_one_file_has_join_blocks(digits_network, healthy, images):
    renamed = edited(healthy, "layer1.1.conv2.bias", np.zeros_like)
    for node in renamed.graph.node:
        for names in (node.input, node.output):
            for place, name in enumerate(names):
                if name == "layer1.0.relu_1":
                    names[place] = "fused_away"
    del renamed.graph.value_info[:]
    found = bisect(digits_network, renamed, images)
    assert "layer1.0 + layer1.1" in [block.name for block in found.blocks]
    assert [suspect.name for suspect in found.suspects] == ["layer1.0 + layer1.1"]


def test_files_that_have_nothing_in_common_are_refused(digits_network, bottleneck_network, images):
    with pytest.raises(CalibrationError, match="same name"):
        bisect_blocks(digits_network.model, bottleneck_network.model, images, precision="fp32", open_exact=open_exact)
    with pytest.raises(CalibrationError, match="no image"):
        bisect(digits_network, digits_network.model, [], "fp32")
