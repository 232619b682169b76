"""What lint says of files as the quantizers write them: by hand, and by ONNX Runtime's own `quantize_static`."""

from __future__ import annotations

import onnx
import pytest
from lint_targets import JETPACK5, ONNX_RUNTIME, TENSORRT, rule_ids, the_finding
from onnx import ModelProto
from quantized_graphs import (
    MODELOPT,
    NNCF,
    ONNXRUNTIME,
    ONNXRUNTIME_SYMMETRIC,
    OURS,
    Style,
    float_network,
    residual_network,
)

from calibration.lint import lint_model

BLOCKS = ("layer1.0.add", "layer2.0.add")


@pytest.mark.parametrize("style", [OURS, MODELOPT], ids=["ours", "modelopt"])
@pytest.mark.parametrize("target", [TENSORRT, JETPACK5])
def test_one_side_of_every_add_is_clean(style, target):
    report = lint_model(residual_network(style), target)
    assert report.findings == ()
    assert report.summary.dialect == "TensorRT"
    assert (report.summary.num_quantized_layers, report.summary.num_layers) == (7, 7)
    assert (report.summary.num_fusable_adds, report.summary.num_residual_adds) == (2, 2)


def test_both_sides_of_every_add():
    report = lint_model(residual_network(ONNXRUNTIME_SYMMETRIC), TENSORRT)
    assert rule_ids(report) == ["R001"]
    assert report.findings[0].places == BLOCKS
    assert (report.summary.num_fusable_adds, report.summary.num_residual_adds) == (0, 2)


@pytest.mark.parametrize(
    ("style", "rule"), [(Style(shortcut=False), "R002"), (Style(shortcut=False, main=True), "R003")]
)
def test_neither_side_and_the_wrong_side(style, rule):
    report = lint_model(residual_network(style), TENSORRT)
    # The identity shortcut's tensor has a pair for the block's first convolution; the Add reads the float copy.
    assert the_finding(report, rule).places == BLOCKS
    assert report.summary.num_fusable_adds == 0


def test_onnxruntime_s_default_dialect():
    model = residual_network(ONNXRUNTIME)
    report = lint_model(model, TENSORRT)
    assert rule_ids(report) == ["S004", "S005", "S006", "D001", "R001"]
    assert len(the_finding(report, "S004").places) == 7
    assert report.summary.dialect == "ONNX Runtime"
    there = lint_model(model, ONNX_RUNTIME)
    assert there.findings == ()
    assert there.summary.num_fusable_adds == 2


def test_nncf_s_dialect():
    report = lint_model(residual_network(NNCF), TENSORRT)
    assert rule_ids(report) == ["S005", "D001", "R001"]
    assert report.summary.dialect == "mixed"
    assert the_finding(report, "R001").places == BLOCKS


def test_a_float_file_is_clean():
    report = lint_model(float_network(), TENSORRT)
    assert report.findings == ()
    assert (report.summary.dialect, report.summary.num_layers, report.summary.num_residual_adds) == ("none", 7, 2)


# ONNX Runtime's real quantizer


@pytest.fixture(scope="module")
def quantized_by_onnxruntime(tmp_path_factory) -> dict[str, ModelProto]:
    """The float network through `quantize_static`: as TensorRT takes it, and ONNX Runtime's defaults."""
    import numpy as np
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.batches = iter([np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)])

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {"input": batch}

    folder = tmp_path_factory.mktemp("onnxruntime")
    source = float_network(opset=20)
    onnx.save(source, folder / "float.onnx")
    operators = sorted({node.op_type for node in source.graph.node})
    symmetric = {
        "QuantizeBias": False,
        "ActivationSymmetric": True,
        "OpTypesToExcludeOutputQuantization": operators,
    }
    settings = {
        "symmetric": {
            "activation_type": QuantType.QInt8,
            "op_types_to_quantize": ["Conv", "Gemm", "Add"],
            "extra_options": symmetric,
        },
        "default": {"activation_type": QuantType.QUInt8},
        "per tensor": {"activation_type": QuantType.QUInt8, "per_channel": False},
        "operators": {"activation_type": QuantType.QUInt8, "quant_format": QuantFormat.QOperator},
    }
    models = {}
    for name, chosen in settings.items():
        options = {"quant_format": QuantFormat.QDQ, "per_channel": True, "weight_type": QuantType.QInt8, **chosen}
        quantize_static(str(folder / "float.onnx"), str(folder / "int8.onnx"), Reader(), **options)
        models[name] = onnx.load(folder / "int8.onnx")
    return models


def test_quantize_static_as_tensorrt_takes_it(quantized_by_onnxruntime):
    report = lint_model(quantized_by_onnxruntime["symmetric"], TENSORRT)
    assert rule_ids(report) == ["R001"]
    assert report.findings[0].places == BLOCKS
    assert (report.summary.dialect, report.summary.num_quantized_layers) == ("TensorRT", 7)


def test_quantize_static_by_default(quantized_by_onnxruntime):
    report = lint_model(quantized_by_onnxruntime["default"], TENSORRT)
    assert rule_ids(report) == ["S004", "S005", "S006", "D001", "R001"]
    assert the_finding(report, "R001").places == BLOCKS
    there = lint_model(quantized_by_onnxruntime["default"], ONNX_RUNTIME)
    assert there.findings == ()
    assert (there.summary.dialect, there.summary.num_fusable_adds) == ("ONNX Runtime", 2)


def test_quantize_static_with_one_scale_per_weight(quantized_by_onnxruntime):
    report = lint_model(quantized_by_onnxruntime["per tensor"], ONNX_RUNTIME)
    assert rule_ids(report) == ["L004"]
    assert set(report.findings[0].places) == {
        "conv1",
        "layer1.0.conv1",
        "layer1.0.conv2",
        "layer2.0.conv1",
        "layer2.0.conv2",
        "layer2.0.downsample.0",
        "fc",
    }


def test_quantize_static_to_integer_operators(quantized_by_onnxruntime):
    report = lint_model(quantized_by_onnxruntime["operators"], TENSORRT)
    assert report.summary.dialect == "ONNX Runtime"
    assert report.summary.num_quantized_layers == 7
    operators = {
        finding.message.split(",")[0]: finding.places for finding in report.findings if "D002" in finding.rule.id
    }
    assert operators["QLinearAdd"] == BLOCKS
    assert "layer2.0.downsample.0" in operators["QLinearConv"]
    assert not lint_model(quantized_by_onnxruntime["operators"], ONNX_RUNTIME).count(report.findings[0].severity)
