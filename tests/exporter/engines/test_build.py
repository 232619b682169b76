import dataclasses
import importlib.util
import json
import sys

import numpy as np
import onnx
import pytest
import torch
from graph_builder import export_loaded_module, make_resnet18
from onnx import TensorProto, helper
from standins.cuda_standin import CudaStandin
from standins.tensorrt_standin import VERSIONS, make_tensorrt
from torch import nn

import exporter.engines.build
from calibration import calibrate, insert_qdq
from exporter.engines.build import build_engine
from exporter.engines.build_options import BuildOptions
from exporter.errors import EngineBuildError, ExportError
from exporter.models.architecture import CIFAR_PREPROCESSING
from exporter.models.check_images import load_check_images
from exporter.models.torchvision_source import IMAGENET_PREPROCESSING
from exporter.networks.cifar_resnet import CifarResNet
from exporter.passes.float16 import float16_from_float32
from exporter.passes.float16_qdq import float16_qdq_from_float32
from runtimes.bundle.manifest import DEFAULT_BATCH, BatchRange
from runtimes.errors import MissingDependencyError
from runtimes.ort.adapter import OrtRuntime
from runtimes.trt.build_log import layers_from_log
from runtimes.trt.engine_layers import BUILD_LOG, layers_from_inspector, layers_to_json
from runtimes.trt.int8_coverage import int8_coverage
from runtimes.trt.tensorrt_library import load_library

needs_rtx = [
    pytest.mark.tensorrt,
    pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"),
]


def marked(test):
    for mark in needs_rtx:
        test = mark(test)
    return test


def with_statistics(module, seed=0):
    torch.manual_seed(seed)
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            nn.init.normal_(child.running_mean, std=0.3)
            nn.init.uniform_(child.running_var, 0.5, 2.0)
            nn.init.uniform_(child.weight, 0.5, 1.5)
            nn.init.normal_(child.bias, std=0.3)
    return module.eval()


def quantize(model, images):
    return insert_qdq(model, calibrate(model, np.array_split(images, 4), open_runtime=OrtRuntime))


def build(model, folder, name="model.onnx", **options):
    path = folder / name
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return build_engine(path, flavor="rtx", **options)


@pytest.fixture(scope="module")
def tiny():
    return export_loaded_module(with_statistics(CifarResNet(8)), size=32)


@pytest.fixture(scope="module")
def tiny_int8(tiny):
    return quantize(tiny, load_check_images(CIFAR_PREPROCESSING)[:4]).model


# TensorRT-RTX


@marked
@pytest.mark.parametrize("opset", [17, 20])
def test_float32_builds(tmp_path, opset):
    assert len(build(export_loaded_module(with_statistics(CifarResNet(8)), size=32, opset=opset), tmp_path)) > 100_000


@marked
def test_float16_and_int8_build(tmp_path, tiny, tiny_int8):
    assert len(build(float16_from_float32(tiny).model, tmp_path, "fp16.onnx")) > 100_000
    assert len(build(tiny_int8, tmp_path, "int8.onnx")) > 100_000


@marked
def test_static_batch_needs_no_profile(tmp_path, tiny):
    fixed = onnx.ModelProto()
    fixed.CopyFrom(tiny)
    for info in (*fixed.graph.input, *fixed.graph.output, *fixed.graph.value_info):
        info.type.tensor_type.shape.dim[0].dim_value = 4
    assert build(fixed, tmp_path, options=BuildOptions(batch=BatchRange(1, 1, 1)))


@marked
def test_profile_and_workspace_are_used(tmp_path, tiny):
    assert build(tiny, tmp_path, options=BuildOptions(batch=BatchRange(1, 1, 1), workspace_mib=64))
    assert build(tiny, tmp_path, options=BuildOptions(batch=BatchRange(3, 3, 3)))


@marked
def test_second_build_is_not_blamed_for_the_first(tmp_path, tiny):
    with pytest.raises(EngineBuildError):
        build(b"no model", tmp_path)
    assert build(tiny, tmp_path)
    with pytest.raises(EngineBuildError) as caught:
        build_engine(tmp_path / "missing.onnx", flavor="rtx")
    assert str(caught.value) == f"{tmp_path / 'missing.onnx'} does not exist"


@marked
@pytest.mark.parametrize("content", [b"", b"no model", b"\x08\x08", b"\xff" * 100])
def test_file_that_is_no_model(tmp_path, content):
    with pytest.raises(EngineBuildError, match=r"^rtx .*model\.onnx: .*\w{4}") as caught:
        build(content, tmp_path)
    assert isinstance(caught.value, ExportError)


@marked
def test_unknown_operator_is_told_in_tensorrts_words(tmp_path, tiny):
    odd = onnx.ModelProto()
    odd.CopyFrom(tiny)
    next(node for node in odd.graph.node if node.op_type == "Add").op_type = "Addition"
    with pytest.raises(EngineBuildError, match=r"rtx does not parse .*model\.onnx: .*[Pp]lugin"):
        build(odd, tmp_path)


@marked
def test_truncated_file(tmp_path, tiny):
    content = tiny.SerializeToString()
    with pytest.raises(EngineBuildError):
        build(content[: len(content) // 2], tmp_path)


def identity(shape):
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"])],
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@marked
@pytest.mark.parametrize("shape", [["N", 3, "H", "W"], [1, 3, 8, "W"], ["N", "C", 8, 8]])
def test_other_dynamic_axes_are_refused(tmp_path, shape):
    got = [-1 if isinstance(size, str) else size for size in shape]
    with pytest.raises(EngineBuildError) as caught:
        build(identity(shape), tmp_path)
    assert f"input 'x' has shape {got}; only the first axis may be dynamic" in str(caught.value)


@marked
@pytest.mark.slow
def test_torchvision_resnet_in_every_precision(tmp_path):
    """At full size."""
    model = make_resnet18()
    half = float16_from_float32(model).model
    quantized = quantize(model, load_check_images(IMAGENET_PREPROCESSING)[:4])
    placement = quantized.placement
    assert len(placement.residual_adds) == placement.num_adds == 8
    assert quantized.model.ByteSize() <= 0.27 * model.ByteSize()
    options = BuildOptions(batch=BatchRange(1, 1, 4))
    sizes = [len(build(file, tmp_path, options=options)) for file in (model, half, quantized.model)]
    assert sizes[0] > 1.5 * sizes[1]
    assert sizes[0] > 1.5 * sizes[2]


# Compute capability 7.5: what is told beforehand is what the builder does


def told_layers(model, folder, **options):
    """Build and return (notices, coverage), with the builder's list as `build` reads it."""
    notices, products = [], []
    build(model, folder, options=BuildOptions(**options), on_notice=notices.append, on_products=products.append)
    entries = layers_from_log(load_library("rtx").log.layer_list)
    return notices, int8_coverage(
        layers_from_inspector(json.dumps(layers_to_json(entries, source=BUILD_LOG, products=products[0])))
    )


@marked
@pytest.mark.parametrize("others", [(), ("8.6",)])
@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_float32_products_are_refused_for_turing(tmp_path, tiny, tiny_int8, monkeypatch, precision, others):
    model = tiny if precision == "fp32" else tiny_int8
    options = BuildOptions(compute_capabilities=("7.5", *others))
    with pytest.raises(
        EngineBuildError, match=r"no FP32 matrix product for .* 7\.5 and would refuse fc; build --fp16"
    ) as told:
        build(model, tmp_path, options=options)
    assert ("with 7.5 among the targets none is built: give --compute-capability 8.6" in str(told.value)) is bool(
        others
    )
    monkeypatch.setattr(exporter.engines.build, "check_turing", lambda *_: ())
    with pytest.raises(EngineBuildError, match="FP32 GEMM is not supported"):
        build(model, tmp_path, options=options)


@marked
@pytest.mark.parametrize("others", [(), ("8.6",)])
def test_int8_convolutions_become_float_for_turing_and_that_is_said_before(tmp_path, tiny_int8, others):
    mixed = float16_qdq_from_float32(tiny_int8).model
    notices, coverage = told_layers(mixed, tmp_path, compute_capabilities=("7.5", *others))
    (notice,) = notices
    assert notice.startswith("for compute capability 7.5 TensorRT-RTX computes 9 INT8 convolutions in FP16 or FP32")
    assert ("so for 8.6 of the same build" in notice) is bool(others)
    assert coverage.precisions["fc"] == "INT8"
    assert coverage.num_int8 == 1
    assert len(coverage.fallen_back()) == 9


@marked
def test_other_capabilities_and_float_files_need_no_word(tmp_path, tiny, tiny_int8):
    notices, coverage = told_layers(tiny_int8, tmp_path, compute_capabilities=("8.6",))
    assert (notices, coverage.count()) == ([], {"INT8": 10})
    notices, coverage = told_layers(float16_from_float32(tiny).model, tmp_path, compute_capabilities=("7.5",))
    assert (notices, coverage.count()) == ([], {"FP16": 10})


# Arguments


def test_unknown_flavor(tmp_path):
    with pytest.raises(ValueError, match="flavor: got 'trt', expected one of tensorrt, rtx"):
        build_engine(tmp_path / "model.onnx", flavor="trt")


@pytest.mark.parametrize(("flavor", "library"), [("tensorrt", "tensorrt"), ("rtx", "tensorrt_rtx")])
def test_missing_library_names_the_extra(tmp_path, monkeypatch, flavor, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(
        MissingDependencyError, match=rf'^{library} is needed .*pip install "resnet-export\[{flavor}\]"'
    ):
        build_engine(tmp_path / "model.onnx", flavor=flavor)


@pytest.mark.parametrize("sizes", [(0, 1, 1), (2, 1, 3), (1, 3, 2), (-1, 8, 32)])
def test_batch_range_that_is_none(sizes):
    with pytest.raises(
        ValueError, match=f"batch: got {sizes[0]},{sizes[1]},{sizes[2]}, expected 1 <= MIN <= OPT <= MAX"
    ):
        BatchRange(*sizes)


def test_batch_range_by_default():
    assert dataclasses.astuple(DEFAULT_BATCH) == (1, 8, 32)


# Other versions, played by the stand-in; what each is asked is tested in tests/runtimes/trt/test_adapter.py


@pytest.mark.parametrize("version", VERSIONS)
def test_build_that_gives_nothing(tmp_path, tiny, monkeypatch, version):
    standin = make_tensorrt(version, CudaStandin())
    monkeypatch.setattr(standin.module.Builder, "build_serialized_network", lambda *_: None)
    monkeypatch.setitem(sys.modules, "tensorrt", standin.module)
    path = tmp_path / "model.onnx"
    onnx.save_model(tiny, path)
    with pytest.raises(EngineBuildError, match=r"tensorrt could not build .*model\.onnx: it gave no message"):
        build_engine(path)


@pytest.mark.parametrize("version", VERSIONS)
def test_builder_that_does_not_start(tmp_path, tiny, monkeypatch, version):
    """The driver's reason, and what to do, in place of pybind11's TypeError."""
    cuda = CudaStandin()
    cuda.devices = 0
    monkeypatch.setitem(sys.modules, "tensorrt", make_tensorrt(version, cuda).module)
    path = tmp_path / "model.onnx"
    onnx.save_model(tiny, path)
    with pytest.raises(EngineBuildError, match=r"does not start: CUDA init.*: build there, or with --rtx, which needs"):
        build_engine(path)
