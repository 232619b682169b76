"""What the run says of an INT8 file that FP16's scales cannot hold."""

import numpy as np
from onnx import numpy_helper
from small_bundle import SIZE, small_network

from calibration import calibrate, insert_qdq
from resnet_export.console.reporter import Reporter
from resnet_export.export_job.files.float16_files import int8_float16_file
from runtimes.ort.adapter import OrtRuntime


def warnings_of(factor):
    """Return what is warned of where the first layer's weights are `factor` times as large."""
    model = small_network()
    (weight,) = [tensor for tensor in model.graph.initializer if len(tensor.dims) == 4]
    small = numpy_helper.to_array(weight) * np.float32(factor)
    weight.CopyFrom(numpy_helper.from_array(small, weight.name))
    images = np.random.default_rng(0).normal(size=(32, 3, SIZE, SIZE)).astype(np.float32)
    table = calibrate(model, np.array_split(images, 4), open_runtime=OrtRuntime)
    reporter = Reporter()
    int8_float16_file(insert_qdq(model, table).model, model, images[:4], reporter)
    return weight.name, reporter


def test_a_layer_that_is_left_without_levels_is_warned_of_by_name():
    name, reporter = warnings_of(1e-6)
    (warning,) = reporter.warnings
    assert f"leaves too few of 127 levels: {name} 0" in warning
    assert "deploy INT8 without --fp16" in warning
    assert reporter.doubted == {"model.int8.fp16.onnx"}


def test_ordinary_weights_are_not():
    _, reporter = warnings_of(1)
    assert (reporter.warnings, reporter.doubted) == ([], set())
