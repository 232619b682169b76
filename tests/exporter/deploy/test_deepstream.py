"""A bundle as an nvinfer folder: the keys nvinfer knows, and a file that answers as the bundle's does."""

from __future__ import annotations

import configparser
import importlib.util
import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundles import small_classifier, write_bundle

from calibration import calibrate, insert_qdq
from exporter.deploy.deepstream import write_deepstream
from exporter.deploy.nvinfer_config import HEADER, NvinferSettings, crop_of_frame
from exporter.deploy.nvinfer_graph import graph_for_nvinfer
from exporter.errors import ExportCheckError, ExportError, OutputExistsError
from exporter.passes.float16 import float16_from_float32
from exporter.passes.pre_post_options import Finish
from resnet_export.main import main
from runtimes.bundle.manifest import TensorEntry
from runtimes.errors import BundleError
from runtimes.ort.adapter import OrtRuntime
from runtimes.preprocessing.resize import KeepRatio
from runtimes.preprocessing.transform import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Interpolation,
    Preprocessing,
    normalize,
    preprocess,
)

KNOWN_KEYS = {
    "gie-unique-id", "process-mode", "operate-on-gie-id", "onnx-file", "model-engine-file", "network-mode",
    "int8-calib-file", "strongly-typed", "batch-size", "infer-dims", "network-input-order", "model-color-format",
    "net-scale-factor", "offsets", "maintain-aspect-ratio", "symmetric-padding", "scaling-filter", "network-type",
    "output-blob-names", "classifier-threshold", "output-tensor-meta", "labelfile-path", "gpu-id", "interval",
    "workspace-size", "tensor-meta-pool-size", "force-implicit-batch-dim", "output-io-formats", "mean-file",
    "layer-device-precision", "scaling-compute-hw", "input-tensor-from-meta", "custom-lib-path", "parse-func",
    "parse-classifier-func-name", "num-detected-classes", "classifier-type", "classifier-async-mode",
}  # fmt: skip
"""Keys of `[property]`. Source: NVIDIA/DeepStream, src/gst-plugins/gst-nvinfer/gstnvinfer_property_parser.h (2026), and
https://docs.nvidia.com/metropolis/deepstream/dev-guide/text/DS_plugin_gst-nvinfer.html."""

IMAGENET = Preprocessing(10, (8, 8), Interpolation.BILINEAR, IMAGENET_MEAN, IMAGENET_STD)
ONE_STD = Preprocessing((8, 8), None, Interpolation.BICUBIC, IMAGENET_MEAN, (0.226, 0.226, 0.226))
exact = partial(OrtRuntime, exact_qdq=True)


@pytest.fixture(scope="module")
def models() -> dict[str, onnx.ModelProto]:
    model = small_classifier()
    images = np.random.default_rng(1).normal(size=(32, 3, 8, 8)).astype(np.float32)
    int8 = insert_qdq(model, calibrate(model, [images], open_runtime=OrtRuntime)).model
    return {"fp32": model, "fp16": float16_from_float32(model).model, "int8": int8}


def read(folder: Path) -> dict[str, str]:
    """Return `[property]` as GKeyFile reads it: comments begin with #, values are the rest of the line."""
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#",), strict=True, interpolation=None)
    parser.read(folder / "config_infer.txt", encoding="utf-8")
    assert parser.sections() == ["property"]
    keys = dict(parser["property"])
    assert set(keys) <= KNOWN_KEYS
    return keys


def numbers(text: str) -> list[float]:
    return [float(word) for word in text.split(";")]


def nvinfer(folder: Path, pixels: np.ndarray) -> np.ndarray:
    """What nvinfer computes of pictures, by its documented formula and the folder's own words, in ONNX Runtime."""
    keys = read(folder)
    assert (keys["network-input-order"], keys["model-color-format"]) == ("0", "0")
    scale, offsets = np.float32(keys["net-scale-factor"]), np.array(numbers(keys["offsets"]), np.float32)
    given = scale * (pixels.astype(np.float32) - offsets).transpose(0, 3, 1, 2)
    assert [3, *given.shape[2:]] == numbers(keys["infer-dims"])
    with exact(folder / keys["onnx-file"]) as model:
        (name,) = model.input_specs
        outputs = model.run({name: np.ascontiguousarray(given)})
    assert list(outputs) == keys["output-blob-names"].split(";")
    return next(iter(outputs.values()))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    """Pictures that no bundle was checked on."""
    return np.random.default_rng(5).integers(0, 256, (64, 8, 8, 3), dtype=np.uint8)


class TestAnswers:
    @pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
    @pytest.mark.parametrize("uint8", [False, True])
    @pytest.mark.parametrize("preprocessing", [IMAGENET, ONE_STD], ids=["three stds", "one std"])
    def test_like_the_bundle(self, models, pixels, tmp_path, precision, uint8, preprocessing):
        bundle = write_bundle(
            tmp_path / "bundle",
            {precision: models[precision]},
            preprocessing=preprocessing,
            finish=Finish(uint8_input=uint8),
        )
        report = write_deepstream(bundle, tmp_path / "ds", open_runtime=exact)
        assert report.precision == precision
        assert report.normalized_by == ("graph" if preprocessing is IMAGENET else "config")
        assert report.num_images == 16
        with exact(models[precision]) as model:
            expected = softmax(model.run({"input": normalize(preprocessing, pixels)})["logits"])
        difference = np.abs(nvinfer(tmp_path / "ds", pixels) - expected).max()
        assert difference < (1e-6 if report.normalized_by == "graph" or precision == "fp32" else 0.02)

    def test_levels_are_normalized_in_trainings_own_bits(self, models, pixels):
        written = graph_for_nvinfer(models["int8"], IMAGENET, normalize=True, softmax=False)
        with exact(models["int8"]) as before, exact(written) as after:
            expected = before.run({"input": normalize(IMAGENET, pixels)})["logits"]
            got = after.run({"levels": pixels.transpose(0, 3, 1, 2).astype(np.float32)})["logits"]
        np.testing.assert_array_equal(got, expected)

    def test_probabilities_get_no_second_softmax(self, models, pixels, tmp_path):
        bundle = write_bundle(
            tmp_path / "bundle", {"fp32": models["fp32"]}, preprocessing=IMAGENET, finish=Finish(softmax=True)
        )
        write_deepstream(bundle, tmp_path / "ds", open_runtime=exact)
        written = onnx.load(tmp_path / "ds" / "model.onnx")
        assert [node.op_type for node in written.graph.node].count("Softmax") == 1
        np.testing.assert_allclose(nvinfer(tmp_path / "ds", pixels).sum(axis=1), 1, rtol=1e-5)

    def test_one_factor_for_three_stds_is_told(self, models, pixels, tmp_path):
        bundle = write_bundle(tmp_path / "bundle", {"fp32": models["fp32"]}, preprocessing=IMAGENET)
        report = write_deepstream(bundle, tmp_path / "ds", single_scale=True, open_runtime=exact)
        assert report.normalized_by == "single-scale"
        assert "off by up to 0.0258" in report.warnings[0]
        text = (tmp_path / "ds" / "config_infer.txt").read_text()
        assert "NOT training's" in text
        with exact(models["fp32"]) as model:
            expected = softmax(model.run({"input": normalize(IMAGENET, pixels)})["logits"])
        difference = np.abs(nvinfer(tmp_path / "ds", pixels) - expected).max()
        assert 1e-5 < difference < 0.1  # it is off, and that is why it is not the default

    def test_a_file_that_answers_otherwise_is_not_written(self, models, tmp_path, monkeypatch):
        bundle = write_bundle(tmp_path / "bundle", {"fp32": models["fp32"]}, preprocessing=IMAGENET)
        other = small_classifier(seed=1)
        monkeypatch.setattr(
            "exporter.deploy.nvinfer_graph.graph_for_nvinfer",
            lambda model, *args, **kwargs: graph_for_nvinfer(other, *args, **kwargs),
        )
        with pytest.raises(ExportCheckError, match="does not answer like the bundle's: largest"):
            write_deepstream(bundle, tmp_path / "ds", open_runtime=exact)
        assert not (tmp_path / "ds").exists()

    @pytest.mark.tensorrt
    @pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed")
    def test_tensorrt_rtx_builds_the_int8_file(self, models, tmp_path):
        from exporter.engines.build import build_engine

        bundle = write_bundle(tmp_path / "bundle", {"int8": models["int8"]}, preprocessing=IMAGENET)
        write_deepstream(bundle, tmp_path / "ds", open_runtime=exact)
        assert len(build_engine(tmp_path / "ds" / "model.int8.onnx", flavor="rtx")) > 1000


class TestConfiguration:
    def test_of_an_int8_classifier(self, models, tmp_path):
        bundle = write_bundle(tmp_path / "bundle", models, preprocessing=ONE_STD)
        write_deepstream(bundle, tmp_path / "ds", open_runtime=exact, settings=NvinferSettings(batch=4, threshold=0.3))
        keys = read(tmp_path / "ds")
        assert keys["network-type"] == "1"
        assert (keys["network-mode"], keys["batch-size"]) == ("1", "4")
        assert (keys["process-mode"], keys["classifier-threshold"]) == ("1", "0.3")
        assert keys["scaling-filter"] == "2"  # bicubic: NvBufSurfTransformInter_Algo1, cubic on a GPU
        assert keys["model-engine-file"] == "model.int8.onnx_b4_gpu0_int8.engine"
        for key in ("onnx-file", "labelfile-path", "int8-calib-file"):
            assert (tmp_path / "ds" / keys[key]).is_file()

    @pytest.mark.parametrize(("precision", "mode"), [("fp32", "0"), ("int8", "1"), ("fp16", "2")])
    def test_network_modes(self, models, tmp_path, precision, mode):
        bundle = write_bundle(tmp_path / "bundle", models, preprocessing=ONE_STD)
        write_deepstream(bundle, tmp_path / "ds", precision=precision, open_runtime=exact)
        assert read(tmp_path / "ds")["network-mode"] == mode

    def test_strongly_typed_needs_no_mode_and_no_calibration_file(self, models, tmp_path):
        bundle = write_bundle(tmp_path / "bundle", models, preprocessing=ONE_STD)
        write_deepstream(bundle, tmp_path / "ds", open_runtime=exact, settings=NvinferSettings(strongly_typed=True))
        keys = read(tmp_path / "ds")
        assert (keys["strongly-typed"], keys["network-mode"]) == ("1", "0")
        assert "int8-calib-file" not in keys
        assert sorted(path.name for path in (tmp_path / "ds").iterdir()) == [
            "config_infer.txt",
            "labels.txt",
            "model.int8.onnx",
        ]

    def test_labels_are_one_line_as_nvinfer_reads_them(self, models, tmp_path):
        labels = ["tench", "great white; shark", "größe", *"3456789"]
        bundle = write_bundle(tmp_path / "bundle", {"fp32": models["fp32"]}, preprocessing=ONE_STD, labels=labels)
        report = write_deepstream(bundle, tmp_path / "ds", open_runtime=exact)
        (line,) = (tmp_path / "ds" / "labels.txt").read_text(encoding="utf-8").splitlines()
        assert line.split(";") == ["tench", "great white, shark", "größe", *"3456789"]
        assert "1 labels hold a semicolon" in report.warnings[0]

    def test_objects_of_a_detector(self, models, tmp_path):
        bundle = write_bundle(tmp_path / "bundle", {"fp32": models["fp32"]}, preprocessing=ONE_STD)
        settings = NvinferSettings(unique_id=3, operate_on=2)
        write_deepstream(bundle, tmp_path / "ds", open_runtime=exact, settings=settings)
        keys = read(tmp_path / "ds")
        assert (keys["process-mode"], keys["gie-unique-id"], keys["operate-on-gie-id"]) == ("2", "3", "2")

    def test_features_are_handed_on_as_tensors(self, tmp_path):
        model = small_classifier()
        model.graph.output[0].CopyFrom(next(info for info in model.graph.value_info if info.name == "active"))
        bundle = write_bundle(
            tmp_path / "bundle", {"fp32": model}, preprocessing=IMAGENET, labels=None, options={"features": ["active"]}
        )
        report = write_deepstream(bundle, tmp_path / "ds", open_runtime=exact)
        keys = read(tmp_path / "ds")
        assert (keys["network-type"], keys["output-tensor-meta"], keys["output-blob-names"]) == ("100", "1", "active")
        assert "labelfile-path" not in keys
        assert "classifier-threshold" not in keys
        assert report.agreement is None


class TestCropAdvice:
    @pytest.mark.parametrize("frame", [(1920, 1080), (1080, 1920), (640, 480), (500, 500)])
    def test_the_crop_shows_what_the_model_sees(self, frame):
        """The center of a picture of three bands, found again where the crop says, to a pixel of the small picture."""
        from PIL import Image

        settings = Preprocessing(256, (224, 224), Interpolation.BILINEAR, (0.0,) * 3, (1.0,) * 3)
        left, top, width, height = crop_of_frame(settings, frame)
        picture = np.zeros((frame[1], frame[0], 3), np.uint8)
        picture[top : top + height, left : left + width] = 255
        seen = preprocess(settings, Image.fromarray(picture))
        assert seen[:, 1:-1, 1:-1].min() > 0.99  # all of the crop is seen
        border = Image.fromarray(255 - picture)
        assert preprocess(settings, border)[:, 1:-1, 1:-1].max() < 0.01  # and nothing else
        assert abs(width - height) <= 2
        assert not any(value % 2 for value in (left, top, width, height))

    def test_it_is_in_the_file_and_on_the_terminal(self, models, tmp_path, capsys):
        bundle = write_bundle(tmp_path / "bundle", {"fp32": models["fp32"]}, preprocessing=IMAGENET)
        words = ["deepstream", str(bundle), "-o", str(tmp_path / "ds"), "--frame", "1000x500"]
        assert main(words) == 0
        told = capsys.readouterr().err
        for text in (told, (tmp_path / "ds" / "config_infer.txt").read_text()):
            assert "NOT reproduced" in text
            assert "src-crop=300:50:400:400" in text
            assert "shorter side of 10, center crop 8 x 8" in text

    def test_a_plain_stretch_needs_none(self, models, tmp_path):
        bundle = write_bundle(tmp_path / "bundle", {"fp32": models["fp32"]}, preprocessing=ONE_STD)
        write_deepstream(bundle, tmp_path / "ds", open_runtime=exact)
        text = (tmp_path / "ds" / "config_infer.txt").read_text()
        assert "NOT reproduced" not in text
        assert "as the model was trained to see it" in text

    def test_a_border_is_no_crop(self, models, tmp_path):
        settings = Preprocessing(KeepRatio(8, 8, inside=True), (8, 8), Interpolation.BILINEAR, (0.5,) * 3, (0.5,) * 3)
        bundle = write_bundle(tmp_path / "bundle", {"fp32": models["fp32"]}, preprocessing=settings)
        write_deepstream(bundle, tmp_path / "ds", open_runtime=exact)
        assert "symmetric-padding=1" in (tmp_path / "ds" / "config_infer.txt").read_text()


class TestRefusals:
    def test_the_five_best(self, models, tmp_path):
        bundle = write_bundle(
            tmp_path / "bundle", {"fp32": models["fp32"]}, preprocessing=ONE_STD, finish=Finish(topk=5)
        )
        with pytest.raises(ExportError, match="export again without --topk"):
            write_deepstream(bundle, tmp_path / "ds", open_runtime=exact)

    def test_integer_kernels_of_onnxruntime(self, models, tmp_path):
        bundle = write_bundle(tmp_path / "bundle", models, preprocessing=ONE_STD, target="onnxruntime")
        with pytest.raises(ExportError, match="does not read its INT8 model"):
            write_deepstream(bundle, tmp_path / "ds", open_runtime=exact)
        write_deepstream(bundle, tmp_path / "ds", precision="fp32", open_runtime=exact)

    def test_a_fixed_batch(self, models, tmp_path):
        bundle = write_bundle(
            tmp_path / "bundle",
            {"fp32": models["fp32"]},
            preprocessing=ONE_STD,
            inputs=(TensorEntry("input", "float32", (4, 3, 8, 8)),),
        )
        with pytest.raises(ExportError, match="takes exactly 4 images; give --batch 4"):
            write_deepstream(bundle, tmp_path / "ds", open_runtime=exact)

    def test_a_precision_that_is_not_there(self, models, tmp_path):
        bundle = write_bundle(tmp_path / "bundle", {"fp32": models["fp32"]}, preprocessing=ONE_STD)
        with pytest.raises(BundleError, match="holds no int8 model, it has fp32"):
            write_deepstream(bundle, tmp_path / "ds", precision="int8", open_runtime=exact)

    def test_no_pictures_to_check_with(self, models, tmp_path):
        bundle = write_bundle(tmp_path / "bundle", {"fp32": models["fp32"]}, preprocessing=ONE_STD)
        manifest = json.loads((bundle / "manifest.json").read_text())
        del manifest["files"]["golden.npz"]
        (bundle / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(ExportError, match=r"holds no golden\.npz"):
            write_deepstream(bundle, tmp_path / "ds", open_runtime=exact)

    def test_a_uint8_input_of_elsewhere(self, models):
        model = graph_for_nvinfer(models["fp32"], ONE_STD, normalize=False, softmax=False)
        model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
        with pytest.raises(ExportError, match="is not followed by Cast, Div"):
            graph_for_nvinfer(model, ONE_STD, normalize=True, softmax=False)

    def test_force_replaces_our_own_only(self, models, tmp_path):
        bundle = write_bundle(tmp_path / "bundle", {"fp32": models["fp32"]}, preprocessing=ONE_STD)
        write_deepstream(bundle, tmp_path / "ds", open_runtime=exact)
        with pytest.raises(OutputExistsError, match="--force replaces it"):
            write_deepstream(bundle, tmp_path / "ds", open_runtime=exact)
        write_deepstream(bundle, tmp_path / "ds", open_runtime=exact, force=True)
        config = tmp_path / "ds" / "config_infer.txt"
        assert config.read_text().startswith(HEADER)
        config.write_text("[property]\n")
        with pytest.raises(OutputExistsError, match="is not a DeepStream folder of this tool"):
            write_deepstream(bundle, tmp_path / "ds", open_runtime=exact, force=True)


def test_the_command_reports_as_json(models, tmp_path, capsys):
    bundle = write_bundle(tmp_path / "bundle", models, preprocessing=IMAGENET)
    assert main(["deepstream", str(bundle), "-o", str(tmp_path / "ds"), "--json", "--quiet"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["precision"], report["normalized_by"], report["agreement"]) == ("int8", "graph", 1.0)


@pytest.mark.parametrize(
    ("words", "reason"),
    [(["--threshold", "1"], "expected a probability"), (["--batch", "0"], ">= 1"), (["--frame", "1920"], ">= 1")],
)
def test_wrong_words(tmp_path, capsys, words, reason):
    assert main(["deepstream", str(tmp_path), "-o", str(tmp_path / "ds"), *words]) == 2
    assert reason in capsys.readouterr().err
