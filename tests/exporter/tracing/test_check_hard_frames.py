"""A file that is not finite, or another, on a black frame is not written; on photographs nothing of it shows."""

import numpy as np
import pytest
from graph_builder import GraphBuilder
from onnx import numpy_helper

from exporter.errors import ExportCheckError, NonFiniteTensorError
from exporter.models.architecture import CIFAR_PREPROCESSING
from exporter.models.check_images import HARD_FRAMES, load_hard_frames
from exporter.tracing.check_hard_frames import check_hard_frames, hard_frames
from runtimes.ort.adapter import OrtRuntime
from runtimes.preprocessing.restore_pixels import pixels_of

PREPROCESSING = CIFAR_PREPROCESSING


def share(small):
    """x / (sum(x) + small), with features that are zeros on the black frame alone."""
    graph = GraphBuilder(channels=3, size=32)
    black = load_hard_frames(PREPROCESSING)[0][:, :1, :1]
    lifted = graph.node("Sub", "lifted", "input", graph.constant("black", black))
    total = graph.node("ReduceSum", "total", lifted, graph.constant("axes", [1, 2, 3]), keepdims=1)
    quotient = graph.node(
        "Div", "quotient", lifted, graph.node("Add", "sum", total, graph.constant("small", np.float32(small)))
    )
    graph.channels[quotient] = 3
    return graph.model(graph.gemm("fc", quotient, 4))


def check(reference, contrast=1.0, **files):
    told = []
    photographs = (contrast * np.random.default_rng(0).normal(size=(2, 3, 32, 32))).astype(np.float32)
    with OrtRuntime(reference) as trusted:
        named = {f"model.{name}.onnx": (f"ONNX {name.upper()}", model) for name, model in files.items()}
        found = check_hard_frames(trusted, named, PREPROCESSING, photographs, open_runtime=OrtRuntime, warn=told.append)
    return found, told


def test_the_frames_are_pictures():
    frames = load_hard_frames(PREPROCESSING)
    pixels = pixels_of(PREPROCESSING, frames)
    assert pixels[0].max() == 0
    assert pixels[1].min() == 255
    assert np.ptp(pixels[2], axis=(0, 1)).max() == 0
    assert len(np.unique(pixels[3])) == 256
    assert list(hard_frames(PREPROCESSING)) == list(HARD_FRAMES)


def test_the_same_file_passes_without_a_word():
    found, told = check(share(1e-3), fp32=share(1e-3), fp16=share(1e-3))
    assert not told
    assert {largest for of_frame in found.values() for largest in of_frame.values()} == {0.0}


def test_a_lost_constant_is_found_on_the_black_frame():
    with pytest.raises(NonFiniteTensorError, match="ONNX FP16 gives NaN or Inf on a black frame, first in 'quotient'"):
        check(share(1e-3), fp16=share(0.0))


def test_a_reference_that_is_not_finite_itself_is_not_compared():
    found, _ = check(share(0.0), fp32=share(1e-3))
    assert set(found["model.fp32.onnx"]) == set(HARD_FRAMES) - {"a black frame"}


def test_another_answer_stops_fp16_and_warns_of_int8():
    other = share(1e-3)
    (bias,) = (tensor for tensor in other.graph.initializer if tensor.name == "fc.bias")
    bias.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(bias) + np.float32(5), bias.name))
    with pytest.raises(ExportCheckError, match=r"ONNX FP16 on .*allowed 5%"):
        check(share(1e-3), fp16=other)
    _, told = check(share(1e-3), int8=other)
    assert "ONNX INT8 on" in told[0]


def test_a_network_that_runs_away_on_frames_is_told_as_such():
    """timm's resnetrs50 with random weights: 1030 on a white frame and 18 on photographs. FP16 is not to blame."""
    first, second = (GraphBuilder(channels=3, size=32, seed=seed) for seed in (1, 2))
    models = [graph.model(graph.gemm("fc", "input", 4)) for graph in (first, second)]
    with pytest.raises(
        ExportCheckError, match=r"network itself answers \S+ there, where photographs give .*give trained"
    ):
        check(models[0], contrast=1e-3, fp16=models[1])
    with pytest.raises(ExportCheckError) as caught:
        check(models[0], contrast=30.0, fp16=models[1])
    assert "itself answers" not in str(caught.value)
