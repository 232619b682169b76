"""Factors that were laid into a graph are found again, whatever else is wrong with its constants."""

from functools import partial

import numpy as np
import onnx
import pytest

from calibration.diagnostics.recover_channel_scales import layer_constants, recover_factors
from calibration.qdq.insert_qdq import insert_qdq
from calibration.ranges.collect_ranges import calibrate
from calibration.refinement.channel_groups import find_channel_groups
from calibration.refinement.cross_layer_equalization import scale_channels
from exporter.graph.onnx_graph import array_from_initializer, initializer_from_array
from runtimes.ort.adapter import OrtRuntime

SEED = 8
open_exact = partial(OrtRuntime, exact_qdq=True)


@pytest.fixture(scope="module", params=[pytest.param("small_network", marks=pytest.mark.slow), "bottleneck_network"])
def scaled(request):
    """(reference, Q/DQ copy with scaled channels, the factors)."""
    network = request.getfixturevalue(request.param)
    generator = np.random.default_rng(SEED)
    factors = {
        group: np.exp(generator.uniform(0, 1.5, group.num_channels)) for group in find_channel_groups(network.model)
    }
    assert factors
    model = scale_channels(network.model, factors).model
    table = calibrate(model, [network.calibration[:8]], open_runtime=OrtRuntime)
    return network.model, insert_qdq(model, table).model, factors


def edited(model, name, edit):
    result = onnx.ModelProto.FromString(model.SerializeToString())
    (constant,) = [tensor for tensor in result.graph.initializer if tensor.name == name]
    constant.CopyFrom(initializer_from_array(name, edit(array_from_initializer(constant))))
    return result


def worst_error(reference, candidate, factors):
    found = recover_factors(reference, layer_constants(reference, candidate, open_exact))
    assert found.keys() == factors.keys()
    return max(float(np.abs(np.log(found[group] / factors[group])).max()) for group in factors)


def test_factors_are_found_through_int8(scaled):
    assert worst_error(*scaled) < 0.02


def test_a_model_that_was_not_scaled_has_factors_of_one(scaled):
    reference, _, factors = scaled
    ones = {group: np.ones(group.num_channels) for group in factors}
    assert worst_error(reference, reference, ones) < 1e-6


@pytest.mark.parametrize("place", [0, 1])
def test_a_layer_of_other_scale_does_not_pass_for_a_factor(scaled, place):
    reference, candidate, factors = scaled
    scales = [tensor.name for tensor in candidate.graph.initializer if tensor.name.endswith("weight.scale")]
    broken = edited(candidate, scales[place], lambda scale: scale * np.float32(4))
    assert worst_error(reference, broken, factors) < 0.05


def test_a_bias_or_a_weight_that_was_lost_does_not_hide_the_factors(scaled):
    reference, candidate, factors = scaled
    biases = [node.input[2] for node in candidate.graph.node if node.op_type == "Conv" and len(node.input) > 2]
    broken = edited(candidate, biases[1], np.zeros_like)
    assert worst_error(reference, broken, factors) < 0.05
    weight = next(node for node in reference.graph.node if node.name == "layer1.1.conv2" or node.op_type == "Gemm")
    flipped = edited(candidate, weight.input[1], lambda values: np.ascontiguousarray(values[::-1]))
    assert worst_error(reference, flipped, factors) < 0.2
