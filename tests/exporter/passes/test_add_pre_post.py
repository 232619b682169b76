"""Pixels as input, softmax and top K as output: against the float path and PyTorch."""

from __future__ import annotations

import json
from itertools import product

import numpy as np
import onnx
import pytest
import torch
from block_models import loaded, photographs, trained
from shared_exports import export_shared

from calibration.qdq.insert_qdq import insert_qdq
from calibration.ranges.collect_ranges import calibrate
from exporter.engines.build import build_engine
from exporter.errors import ExportCheckError
from exporter.models.torchvision_source import IMAGENET_PREPROCESSING
from exporter.passes.add_pre_post import finish_graph, metadata_of, without_finish
from exporter.passes.float16 import float16_from_float32
from exporter.passes.pre_post_options import Finish
from exporter.tracing.check_pre_post import check_finished, expected_outputs
from runtimes.ort.adapter import OrtRuntime
from runtimes.preprocessing.restore_pixels import pixels_of
from runtimes.preprocessing.transform import normalize

IMAGES = photographs(8)


@pytest.fixture(scope="module")
def exported():
    return export_shared(loaded(trained("basic")))


@pytest.fixture(scope="module")
def files(exported):
    table = calibrate(exported.onnx, [photographs(16, seed=1)], open_runtime=OrtRuntime)
    return {
        "fp32": exported.onnx,
        "fp16": float16_from_float32(exported.onnx).model,
        "int8": insert_qdq(exported.onnx, table).model,
    }


def run(model, images):
    with OrtRuntime(model) as runtime:
        return runtime.run({next(iter(runtime.input_specs)): images})


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_uint8_on_photographs_answers_like_the_float_path(precision, exported, files):
    """The bound of the project: 1e-3 of the largest |logit| and the same top 5; here the bits are the same."""
    preprocessing = exported.preprocessing
    finished = finish_graph(files[precision], Finish(uint8_input=True), preprocessing=preprocessing)
    pixels = pixels_of(preprocessing, IMAGES)
    assert (pixels.dtype, pixels.shape) == (np.uint8, (8, 64, 64, 3))
    expected, got = run(files[precision], IMAGES)["logits"], run(finished, pixels)["logits"]
    assert np.abs(got - expected).max() <= 1e-3 * np.abs(expected).max()
    assert np.array_equal(np.argsort(-got)[:, :5], np.argsort(-expected)[:, :5])
    report = check_finished(
        files[precision],
        finished,
        Finish(uint8_input=True),
        IMAGES,
        preprocessing=preprocessing,
        open_runtime=OrtRuntime,
    )
    assert (report.num_images, report.equal_top5) == (8, 8)
    spec = finished.graph.input[0].type.tensor_type
    assert spec.elem_type == onnx.TensorProto.UINT8
    assert [dim.dim_param or dim.dim_value for dim in spec.shape.dim] == ["batch", 64, 64, 3]


def test_int8_quantizes_behind_the_normalization(files, exported):
    finished = finish_graph(files["int8"], Finish(uint8_input=True), preprocessing=exported.preprocessing)
    first = next(node for node in finished.graph.node if node.op_type == "QuantizeLinear")
    assert first.input[0] == "input"
    producer = next(node for node in finished.graph.node if "input" in node.output)
    assert producer.op_type == "Transpose"


@pytest.mark.parametrize("topk", [None, 1, 3, 10])
@pytest.mark.parametrize("softmax", [False, True])
def test_heads_equal_pytorch(softmax, topk, exported):
    finish = Finish(softmax=softmax, topk=topk)
    got = run(finish_graph(exported.onnx, finish, preprocessing=exported.preprocessing), IMAGES)
    with torch.inference_mode():
        scores = exported.module(torch.from_numpy(IMAGES))
        scores = scores.softmax(1) if softmax else scores
        best = scores.topk(topk) if topk else None
    if best is None:
        ((name, values),) = got.items()
        assert name == ("probabilities" if softmax else "logits")
        np.testing.assert_allclose(values, scores.numpy(), atol=1e-5)
    else:
        assert list(got) == ["scores", "indices"]
        assert got["indices"].dtype == np.int64
        np.testing.assert_allclose(got["scores"], best.values.numpy(), atol=1e-5)
        assert np.array_equal(got["indices"], best.indices.numpy())


@pytest.mark.tensorrt
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_tensorrt_rtx_takes_the_finished_files(precision, files, exported, tmp_path):
    finish = Finish(uint8_input=True, softmax=True, topk=5)
    path = tmp_path / "model.onnx"
    onnx.save_model(finish_graph(files[precision], finish, preprocessing=exported.preprocessing), path)
    assert len(build_engine(path, flavor="rtx")) > 10_000


def test_names_of_a_foreign_file_give_way(exported):
    """Files of elsewhere may call their own tensors `images`, `scores` or `probabilities`."""
    model = onnx.ModelProto()
    model.CopyFrom(exported.onnx)
    for tensors in [node.input for node in model.graph.node] + [node.output for node in model.graph.node]:
        for place, name in enumerate(tensors):
            tensors[place] = {"input": "images", "logits": "scores", "layer1.0.act1": "probabilities"}.get(name, name)
    model.graph.input[0].name, model.graph.output[0].name = "images", "scores"
    del model.graph.value_info[:]
    finish = Finish(uint8_input=True, softmax=True, topk=3)
    finished = finish_graph(model, finish, preprocessing=exported.preprocessing)
    got = run(finished, pixels_of(exported.preprocessing, IMAGES))
    expected = expected_outputs(run(exported.onnx, IMAGES)["logits"], finish)
    assert np.array_equal(got["indices"], expected["indices"])


def test_metadata_says_how_to_use_the_file(exported):
    metadata = metadata_of(
        exported.preprocessing, model_id="resnet", num_classes=3, labels=("a cat", "ein Hündchen", "çay")
    )
    finished = finish_graph(exported.onnx, Finish(), preprocessing=exported.preprocessing, metadata=metadata)
    found = {entry.key: json.loads(entry.value) for entry in finished.metadata_props}
    assert found["labels"] == ["a cat", "ein Hündchen", "çay"]
    assert found["num_classes"] == 3
    assert type(exported.preprocessing).from_json(found["preprocessing"]) == exported.preprocessing


def test_more_classes_than_there_are(exported):
    with pytest.raises(ValueError, match="has 10 classes only"):
        finish_graph(exported.onnx, Finish(topk=11), preprocessing=exported.preprocessing)


def test_a_file_that_answers_otherwise_is_caught(exported):
    other = export_shared(loaded(trained("basic", seed=1))).onnx
    for finish in (Finish(uint8_input=True), Finish(softmax=True), Finish(topk=3)):
        finished = finish_graph(other, finish, preprocessing=exported.preprocessing)
        with pytest.raises(ExportCheckError):
            check_finished(
                exported.onnx,
                finished,
                finish,
                IMAGES,
                preprocessing=exported.preprocessing,
                open_runtime=OrtRuntime,
            )


def test_pixels_are_recovered_exactly():
    pixels = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 16, 16, 3)
    assert np.array_equal(pixels_of(IMAGENET_PREPROCESSING, normalize(IMAGENET_PREPROCESSING, pixels)), pixels)
    with pytest.raises(ValueError, match="do not come from 8-bit pixels"):
        pixels_of(IMAGENET_PREPROCESSING, np.full((1, 3, 4, 4), 0.123456, np.float32))


FINISHES = [Finish(*given) for given in product((False, True), (False, True), (None, 3))]


@pytest.mark.parametrize("finish", FINISHES, ids=str)
def test_what_was_added_comes_off_again(exported, finish):
    finished = finish_graph(exported.onnx, finish, preprocessing=exported.preprocessing)
    before = finished.SerializeToString()
    plain = without_finish(finished, finish)
    assert finished.SerializeToString() == before
    for field in ("input", "output", "node", "initializer"):
        assert list(getattr(plain.graph, field)) == list(getattr(exported.onnx.graph, field)), field
    assert np.array_equal(run(plain, IMAGES)["logits"], run(exported.onnx, IMAGES)["logits"])


@pytest.mark.parametrize("finish", FINISHES[1:], ids=str)
def test_what_was_not_added_does_not_come_off(exported, finish):
    with pytest.raises(ValueError, match="does not begin or end as the manifest's options say"):
        without_finish(exported.onnx, finish)
