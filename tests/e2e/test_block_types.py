"""Every block type of the field, small: FP32 equals PyTorch, FP16 is finite, INT8 is placed well, all three build."""

from __future__ import annotations

import json
from collections import Counter
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import onnx
import pytest
from block_models import BLOCKS, SIZE, loaded, photographs, trained
from shared_exports import export_shared
from standins.real_bindings import CACHE, BindingsUnavailableError, bindings_folder, forwarding, run_with_bindings

from calibration.methods.dialect import ZeroPoints
from calibration.methods.effort import DEFAULT_EFFORT, EFFORTS
from calibration.pipeline.quantize_model import quantize
from calibration.placement.for_tensorrt import ATTENTION, GATE
from calibration.placement.residual_adds import LAYER_NORM, NO_CONV
from calibration.qdq.insert_qdq import QuantizedModel, insert_qdq
from calibration.qdq.offsets import take_offsets
from calibration.ranges.collect_ranges import calibrate
from exporter.engines.build import build_engine
from exporter.engines.build_options import BuildOptions
from exporter.graph.onnx_graph import index_graph, tensor_shapes
from exporter.passes.convert_opset import convert_opset
from exporter.passes.float16 import float16_from_float32
from exporter.passes.float16_qdq import float16_qdq_from_float32
from exporter.tracing.check_export import check_against_pytorch
from exporter.tracing.export import ExportedModel
from runtimes.ort.adapter import OrtRuntime
from runtimes.pytorch import TorchRuntime
from runtimes.trt.build_log import layers_from_log
from runtimes.trt.engine_layers import BUILD_LOG, NetworkProducts, layers_from_inspector, layers_to_json
from runtimes.trt.int8_coverage import NOT_LISTED, int8_coverage
from runtimes.trt.tensorrt_library import load_library

BUILT = ("basic", "preactivation", "sk", "convnext", "hiera")


@cache
def exported(name: str) -> ExportedModel:
    return export_shared(loaded(trained(name)))


@cache
def quantized(name: str) -> QuantizedModel:
    model = exported(name).onnx
    return insert_qdq(model, calibrate(model, [photographs(16)], open_runtime=OrtRuntime))


@cache
def with_pads(name: str) -> onnx.ModelProto:
    """INT8 whose tensors all have zero points that can have one; ranges alone."""
    model = exported(name).onnx
    table = calibrate(model, [photographs(16)], open_runtime=OrtRuntime, zero_points=ZeroPoints.PADS)
    return take_offsets(insert_qdq(model, table).model, model)


@cache
def refined(name: str, effort: int) -> QuantizedModel:
    exact = partial(OrtRuntime, exact_qdq=True)
    batches = [photographs(16)]
    model = exported(name).onnx
    return quantize(model, batches, open_runtime=OrtRuntime, open_exact=exact, effort=EFFORTS[effort]).quantized


def logits(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    with OrtRuntime(model, exact_qdq=True) as runtime:
        return runtime.run({"input": images})["logits"]


def sqnr_db(reference: np.ndarray, candidate: np.ndarray) -> float:
    return float(10 * np.log10((reference**2).sum() / ((reference - candidate) ** 2).sum()))


def ops(name: str) -> Counter:
    return Counter(node.op_type for node in exported(name).onnx.graph.node)


@pytest.mark.parametrize("name", BLOCKS)
def test_float32_equals_pytorch(name):
    found = exported(name)
    with TorchRuntime(found.module) as reference:
        report = check_against_pytorch(reference, found.onnx, photographs(7), open_runtime=OrtRuntime)
    assert report.relative < 1e-5
    assert len(found.folding.kept) == ops(name)["BatchNormalization"]
    assert not {"Shape", "Expand", "Gelu", "InstanceNormalization", "Identity", "Dropout"} & set(ops(name))


@pytest.mark.parametrize("name", BLOCKS)
def test_float16_is_finite_and_close(name):
    model = exported(name).onnx
    images = photographs(8, seed=1)
    half = logits(float16_from_float32(model).model, images)
    assert np.isfinite(half).all()
    assert sqnr_db(logits(model, images), half) > 45


@pytest.mark.parametrize("name", BLOCKS)
def test_int8_is_close_and_complete(name):
    """20 dB is noise of a tenth of the signal: random weights, 16 calibration images; trained networks do better."""
    images = photographs(16, seed=1)
    assert sqnr_db(logits(exported(name).onnx, images), logits(quantized(name).model, images)) > 20
    placement = quantized(name).placement
    weighted = ops(name)["Conv"] + ops(name)["Gemm"] + ops(name)["MatMul"]
    reasons = Counter(sentence.partition(": ")[2] for sentence in placement.skipped)
    assert set(reasons) <= {GATE, ATTENTION, LAYER_NORM, NO_CONV}
    assert len(placement.weights) == weighted - reasons[GATE] - reasons[ATTENTION]


@pytest.mark.parametrize("name", BLOCKS)
def test_the_default_effort_takes_every_block(name):
    """Every step finds its way through every block, moves no Q or DQ and loses nothing that counts (1 dB)."""
    model, images = exported(name).onnx, photographs(16, seed=1)
    expected = logits(model, images)
    plain = sqnr_db(expected, logits(quantized(name).model, images))
    found = refined(name, DEFAULT_EFFORT)
    assert found.placement == quantized(name).placement
    assert sqnr_db(expected, logits(found.model, images)) > plain - 1


@pytest.mark.parametrize("name", BLOCKS)
def test_zero_points_with_pads_find_their_way_through_every_block(name):
    model, images = exported(name).onnx, photographs(16, seed=1)
    onnx.checker.check_model(with_pads(name), full_check=True)
    expected = logits(model, images)
    plain, finer = (sqnr_db(expected, logits(each, images)) for each in (quantized(name).model, with_pads(name)))
    assert finer > plain - 1


@pytest.mark.tensorrt
@pytest.mark.parametrize("name", BUILT)
def test_tensorrt_rtx_builds_all_three(name, tmp_path: Path):
    """INT8 for chosen GPUs; for RTX's default ones, and of every block, the test below: INT8 with FP16 around it."""
    models = {
        "int8": quantized(name).model,
        "fp32": exported(name).onnx,
        "fp16": float16_from_float32(exported(name).onnx).model,
    }
    for precision, model in models.items():
        path = tmp_path / f"{precision}.onnx"
        onnx.save_model(model, path)
        chosen = ("8.6", "8.9") if precision == "int8" else ()
        products: list[NetworkProducts] = []
        options = BuildOptions(compute_capabilities=chosen)
        plan = build_engine(path, flavor="rtx", options=options, on_products=products.append)
        assert len(plan) > 10_000
        _assert_precision(name, precision, products[0])


def _assert_precision(name: str, precision: str, products: NetworkProducts) -> None:
    """Every convolution and matrix product is found in the builder's list, in the precision of the file."""
    entries = layers_from_log(load_library("rtx").log.layer_list)
    layers = layers_from_inspector(json.dumps(layers_to_json(entries, source=BUILD_LOG, products=products)))
    coverage = int8_coverage(layers)
    weighted = ops(name)["Conv"] + ops(name)["Gemm"] + ops(name)["MatMul"]
    assert len(coverage.precisions) == weighted
    assert NOT_LISTED not in coverage.count()
    if precision == "int8":
        assert coverage.fallen_back() == {}
        assert coverage.num_int8 == len(quantized(name).placement.weights) == len(products.quantized)
    else:
        assert coverage.count() == {precision.upper(): weighted}


@pytest.mark.tensorrt
@pytest.mark.slow
def test_real_tensorrt_bindings_build_blocks(tmp_path: Path):
    """TensorRT 11.4's own bindings, and TensorRT-RTX's parser and builder behind them, which the test above asks alone.

    One block for each kind of layer that the building code looks at: what the bindings take is the same for the others.
    """
    blocks = ("basic", "convnext", "dense", "depthwise", "se")
    try:
        folder = bindings_folder("11.4", CACHE)
        forwarding()
    except BindingsUnavailableError as err:
        pytest.skip(str(err))
    for name in blocks:
        onnx.save_model(quantized(name).model, tmp_path / f"{name}.onnx")
    script = """
import sys
from pathlib import Path
from exporter.engines.build import build_engine
from runtimes.trt.tensorrt_library import load_library
for file in sorted(Path(sys.argv[1]).glob("*.onnx")):
    print(file.stem, load_library("tensorrt").version, len(build_engine(file)) > 10_000)
"""
    done = run_with_bindings(folder, "-c", script, str(tmp_path), forward=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{name} 11.4.0.106 True" for name in blocks]


@pytest.mark.tensorrt
@pytest.mark.parametrize(
    ("name", "effort"), [*((name, None) for name in BLOCKS), *product(("bottleneck", "dense"), (1, 2))]
)
def test_tensorrt_rtx_builds_every_effort(name, effort, tmp_path: Path):
    """INT8 with FP16 scales is what strongly typed engines take; None has ranges alone and every zero point."""
    half = float16_qdq_from_float32(with_pads(name) if effort is None else refined(name, effort).model).model
    assert np.isfinite(logits(half, photographs(2))).all()
    onnx.save_model(half, tmp_path / "model.onnx")
    products: list[NetworkProducts] = []
    assert len(build_engine(tmp_path / "model.onnx", flavor="rtx", on_products=products.append)) > 10_000
    _assert_precision(name, "int8", products[0])


@pytest.mark.parametrize("name", ["preactivation", "dense", "option-a", "convnext"])
def test_opset_17_for_tensorrt_8(name):
    model = convert_opset(exported(name).onnx, 17)  # the last step of an export; tracing again would say no more
    images = photographs(2)
    np.testing.assert_allclose(logits(model, images), logits(exported(name).onnx, images), rtol=1e-4, atol=1e-5)
    for node in model.graph.node:
        assert not (node.op_type == "ReduceMean" and len(node.input) > 1), "TensorRT 8.6 reads no axes from an input"


# What TensorRT can fuse


def readers(name: str) -> dict[str, set[tuple[str, int]]]:
    found = quantized(name).placement.activations
    return {tensor: {(reader.node, reader.index) for reader in places} for tensor, places in found.items()}


def test_preactivation_stream_is_stored_once_in_int8():
    """The stream's pair serves BatchNormalization and shortcut; Conv + Add keeps its convolution unquantized."""
    model, found = exported("preactivation").onnx, readers("preactivation")
    placement = quantized("preactivation").placement
    assert len(placement.residual_adds) == placement.num_adds == 3
    assert {add.kernel for add in placement.residual_adds} == {"Conv"}
    shortcuts = {add.shortcut: add.name for add in placement.residual_adds}
    of_stream = [n for n in model.graph.node if n.op_type == "BatchNormalization" and n.input[0] in shortcuts]
    assert len(of_stream) == 1, "one identity block; the others take their shortcut from the activation"
    (norm,) = of_stream
    assert found[norm.input[0]] == {(norm.name, 0), (shortcuts[norm.input[0]], 1)}
    assert not any(add.main in found for add in placement.residual_adds)


def test_batchnorm_that_stays_holds_its_own_map():
    model = exported("dense").onnx
    index = index_graph(model.graph)
    for node in model.graph.node:
        if node.op_type == "BatchNormalization":
            mean, variance = (onnx.numpy_helper.to_array(index.initializer[node.input[place]]) for place in (3, 4))
            assert not mean.any()
            assert (variance == 1).all()
    reasons = {reason for _, reason in exported("dense").folding.kept}
    assert all("not from a convolution" in reason for reason in reasons)


def test_dense_block_shares_one_scale():
    """Every input of a dense block's Concats has the scale of the block, so that the Concat moves bytes."""
    result = quantized("dense")
    index = index_graph(result.model.graph)
    scales_of = {}
    for node in exported("dense").onnx.graph.node:
        if node.op_type == "Concat":
            for name in node.input:
                scale = onnx.numpy_helper.to_array(index.initializer[f"{name}.scale"])
                scales_of.setdefault(node.name.split(".dense")[1], set()).add(float(scale))
                assert f"{name}.dequantized" in index.producer
            quantized_node = next(other for other in result.model.graph.node if other.name == node.name)
            inputs = quantized_node.input
            if "block1" in node.name:  # the last block's last Concat leads to the global pool
                assert all(name.endswith(".dequantized") for name in inputs)
    assert scales_of
    assert len(result.placement.shared_scales) == 2


def test_inception_pools_share_the_scale_of_the_concat():
    placement = quantized("inception").placement
    index = index_graph(exported("inception").onnx.graph)
    kinds = [Counter(index.producer[name].op_type for name in group) for group in placement.shared_scales]
    assert {"Concat": 1, "Relu": 4, "MaxPool": 1} in kinds, "a Concat, its four branches, the pool behind it"


@pytest.mark.parametrize("name", ["se", "eca"])
def test_gates_stay_in_float_and_the_add_is_pointwise(name):
    placement = quantized(name).placement
    assert len(placement.residual_adds) == placement.num_adds == 2
    assert {add.kernel for add in placement.residual_adds} == {"Mul"}
    assert sum(sentence.endswith(GATE) for sentence in placement.skipped) == (4 if name == "se" else 2)
    shapes = tensor_shapes(exported(name).onnx)
    for tensor in placement.activations:
        assert len(shapes[tensor]) == 2 or shapes[tensor][2:] != (1, 1)


def test_option_a_shortcut_moves_int8_bytes():
    placement = quantized("option-a").placement
    (group,) = placement.shared_scales
    index = index_graph(exported("option-a").onnx.graph)
    assert [index.producer[name].op_type for name in group] == ["Relu", "Pad"]
    assert ("Slice", 0) in {
        (node.op_type, place)
        for node in exported("option-a").onnx.graph.node
        for place in (0,)
        if (node.name, place) in readers("option-a")[group[0]]
    }


def test_average_pool_of_a_resnet_d_shortcut_reads_int8():
    pools = [node for node in exported("resnet-d").onnx.graph.node if node.op_type == "AveragePool"]
    assert pools
    assert all((node.name, 0) in readers("resnet-d")[node.input[0]] for node in pools)


def test_depthwise_weights_have_one_scale_per_channel():
    model = quantized("depthwise").model
    index = index_graph(model.graph)
    depthwise = [node for node in exported("depthwise").onnx.graph.node if _groups(node) > 1]
    assert depthwise
    for node in depthwise:
        assert list(index.initializer[f"{node.input[1]}.scale"].dims) == [_groups(node)]


def _groups(node: onnx.NodeProto) -> int:
    return next((a.i for a in node.attribute if a.name == "group"), 1) if node.op_type == "Conv" else 1


@pytest.mark.parametrize("name", ["convnext", "hiera"])
def test_linear_layers_are_quantized_per_output_and_the_rest_is_not(name):
    placement = quantized(name).placement
    index = index_graph(exported(name).onnx.graph)
    linear = [node for node in exported(name).onnx.graph.node if node.op_type == "MatMul"]
    weighted = [node for node in linear if node.input[1] in index.initializer]
    axes = {weight.name: weight.axis for weight in placement.weights}
    assert weighted
    assert {axes[node.input[1]] for node in weighted} == {1}
    found = {node for uses in readers(name).values() for node, _ in uses}
    kinds = {node.name: node.op_type for node in exported(name).onnx.graph.node}
    assert {kinds[node] for node in found} <= {"Conv", "MatMul", "Gemm"}


def test_layer_scale_is_folded():
    """A convnext's Mul by `gamma` goes into the linear layer before it; those left are GELU's."""
    assert ops("convnext")["Mul"] == 2 * ops("convnext")["Erf"]


def test_standardized_weights_are_plain_constants():
    index = index_graph(exported("standardized").onnx.graph)
    convolutions = [node for node in exported("standardized").onnx.graph.node if node.op_type == "Conv"]
    assert convolutions
    assert all(node.input[1] in index.initializer for node in convolutions)


def test_every_image_size_is_that_of_the_graph():
    for name in BLOCKS:
        dims = exported(name).onnx.graph.input[0].type.tensor_type.shape.dim
        assert [dim.dim_value for dim in dims[2:]] == [SIZE, SIZE]
