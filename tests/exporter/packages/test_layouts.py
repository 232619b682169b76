"""Packages in the layouts of others, each read back by the layout's own library: same files, pixels and answers."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image
from small_bundle import CLASSES, LABELS, PREPROCESSING, SIZE, small_models, small_network, write_bundle

from exporter.errors import ExportError
from exporter.packages.huggingface import pixel_notes, processor_config, with_input_called
from exporter.packages.layouts import LAYOUTS, write_package
from resnet_export.main import main
from runtimes.errors import MissingDependencyError
from runtimes.metrics.answer_kind import AnswerKind
from runtimes.preprocessing.transform import Interpolation, preprocess

HAS_PACKAGES = pytest.mark.skipif(
    not hasattr(onnxruntime, "ModelPackage"), reason="ONNX Runtime's model packages need onnxruntime 1.32"
)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory):
    """One model in both targets' bundles."""
    folder, models = tmp_path_factory.mktemp("packages"), small_models()
    return {target: write_bundle(folder / target, models, target=target) for target in ("tensorrt", "onnxruntime")}


@pytest.fixture
def images():
    return np.random.default_rng(11).normal(size=(3, 3, SIZE, SIZE)).astype(np.float32)


def answers(model, images, name="input"):
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    return session.run(None, {name: images})[0]


def optimum_model_class():
    """Return optimum's class, which is only looked for where it is named; optimum-onnx 0.1 wants transformers 4."""
    runtime = pytest.importorskip("optimum.onnxruntime", reason="optimum-onnx is not installed")
    try:
        return runtime.ORTModelForImageClassification
    except ImportError as err:
        pytest.skip(f"this optimum-onnx does not suit this transformers: {err}")


@pytest.fixture
def transformers():
    return pytest.importorskip("transformers", reason="transformers is not installed")


@pytest.fixture(scope="module")
def huggingface(bundles, tmp_path_factory):
    output = tmp_path_factory.mktemp("huggingface") / "small"
    words = ["package", bundles["tensorrt"], "--layout", "huggingface", "-o", output, "--quiet"]
    assert main([str(word) for word in words]) == 0
    return output


class TestHuggingFace:
    def test_every_file_answers_as_the_bundles(self, huggingface, bundles, images):
        for theirs, ours in (("model", "model"), ("model_fp16", "model.fp16"), ("model_int8", "model.int8")):
            got = answers(huggingface / "onnx" / f"{theirs}.onnx", images, "pixel_values")
            assert np.array_equal(got, answers(bundles["tensorrt"] / f"{ours}.onnx", images))

    def test_our_manifest_is_inside(self, huggingface, bundles):
        kept = (huggingface / "resnet_export" / "manifest.json").read_bytes()
        assert kept == (bundles["tensorrt"] / "manifest.json").read_bytes()

    def test_transformers_reads_the_classes(self, huggingface, transformers):
        config = transformers.AutoConfig.from_pretrained(huggingface)
        assert [config.id2label[index] for index in range(CLASSES)] == list(LABELS)
        assert config.label2id["cat"] == 2

    @pytest.mark.parametrize(
        ("resize", "crop", "interpolation"),
        [
            (20, (16, 16), Interpolation.BILINEAR),
            (20, (16, 16), Interpolation.HAMMING),
            ((30, 25), None, Interpolation.BICUBIC),
            ((30, 25), (20, 21), Interpolation.LANCZOS),
            (None, (16, 16), Interpolation.BILINEAR),
        ],
    )
    def test_transformers_prepares_pictures(self, tmp_path, transformers, resize, crop, interpolation):
        told = replace(PREPROCESSING, resize=resize, crop=crop, interpolation=interpolation)
        (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor_config(told)))
        by_pillow = {"backend": "pil"} if int(transformers.__version__.partition(".")[0]) >= 5 else {"use_fast": False}
        picture = Image.fromarray(np.random.default_rng(2).integers(0, 256, (54, 36, 3), dtype=np.uint8))
        expected = preprocess(told, picture)[np.newaxis]
        processor = transformers.AutoImageProcessor.from_pretrained(tmp_path, **by_pillow)
        got = processor(picture, return_tensors="np")["pixel_values"]
        assert got.shape == expected.shape
        assert np.abs(got - expected).max() <= 2e-6, "the same gray levels; only the normalization is rounded otherwise"
        if interpolation is Interpolation.BILINEAR:
            default = transformers.AutoImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="np")
            assert np.abs(default["pixel_values"] - expected).max() <= 1.01 / 255 / min(told.std), "a gray level"

    def test_the_card_s_program_runs(self, huggingface, transformers, tmp_path):
        (program,) = re.findall(r"```python\n(.*?)```", (huggingface / "README.md").read_text(), re.DOTALL)
        Image.new("RGB", (54, 36), (200, 30, 90)).save(tmp_path / "picture.jpg")
        if int(transformers.__version__.partition(".")[0]) < 5:
            program = program.replace('backend="pil"', "use_fast=False")
        program = program.replace('folder = "."', f"folder = {str(huggingface)!r}")
        done = subprocess.run(
            [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.stdout.strip() in LABELS, done.stderr

    def test_optimum_answers_alike(self, huggingface, images):
        model_class = optimum_model_class()
        torch = pytest.importorskip("torch")
        model = model_class.from_pretrained(huggingface, subfolder="onnx", file_name="model.onnx")
        got = model(pixel_values=torch.from_numpy(images)).logits.numpy()
        assert np.allclose(got, answers(huggingface / "onnx" / "model.onnx", images, "pixel_values"), atol=1e-6)

    @pytest.mark.parametrize(
        ("resize", "crop", "interpolation", "words"),
        [
            (20, (16, 16), Interpolation.BILINEAR, ("a gray level off", "Where 3, 7, 11")),
            ((16, 16), None, Interpolation.BOX, ("does not resize by box",)),
            (None, (16, 16), Interpolation.BOX, ("Where 3, 7, 11",)),
        ],
    )
    def test_the_card_tells_how_pixels_can_differ(self, resize, crop, interpolation, words):
        notes = pixel_notes(replace(PREPROCESSING, resize=resize, crop=crop, interpolation=interpolation))
        assert len(notes) == 1 + len(words)
        assert all(word in note for word, note in zip(words, notes[1:], strict=True))

    def test_a_name_that_is_taken_is_refused(self):
        model = small_models()["fp32"]
        model.graph.node[0].output[0] = "pixel_values"
        with pytest.raises(ExportError, match="called pixel_values already"):
            with_input_called(model, "pixel_values")


@pytest.fixture(scope="module")
def model_package(bundles, tmp_path_factory):
    output = tmp_path_factory.mktemp("packages") / "small.ortpackage"
    write_package(list(bundles.values()), output, layout="ort-model-package")
    return output


@HAS_PACKAGES
class TestModelPackage:
    def test_each_provider_gets_its_dialect(self, model_package, bundles):
        context = onnxruntime.ModelPackageContext(str(model_package))
        assert context.get_component_names() == ["classifier"]
        names = context.get_variant_names("classifier")
        assert sorted(names) == ["cpu", "cuda", "ort-tensorrt", "ort-tensorrt-rtx"]
        providers = {name: context.get_variant_ep_name("classifier", name) for name in names}
        assert providers["cpu"] == "CPUExecutionProvider"
        assert providers["ort-tensorrt"] == "TensorrtExecutionProvider"
        for variant, (target, file) in {
            "cpu": ("onnxruntime", "model.int8.onnx"),
            "cuda": ("tensorrt", "model.fp16.onnx"),
            "ort-tensorrt": ("tensorrt", "model.int8.onnx"),
        }.items():
            assert (model_package / variant / "model.onnx").read_bytes() == (bundles[target] / file).read_bytes()

    def test_onnxruntime_chooses_and_runs_the_cpus(self, model_package, images):
        options = onnxruntime.SessionOptions()
        context = onnxruntime.ModelPackageContext(str(model_package))
        chosen = context.select_component("classifier", onnxruntime.ModelPackageOptions(options))
        assert chosen.get_selected_variant_name() == "cpu"
        got = chosen.create_session(None).run(None, {"input": images})[0]
        assert np.array_equal(got, answers(model_package / "cpu" / "model.onnx", images))

    def test_the_library_finds_nothing_unknown(self, model_package):
        opened = onnxruntime.ModelPackage.open(str(model_package))
        told = json.loads(opened.get_variant_json("classifier", "cpu"))
        assert told["executor_info"]["ort"]["session_options"] == {"session.x64quantprecision": "1"}
        opened.close()

    def test_one_bundle_is_enough(self, bundles, tmp_path):
        written = write_package([bundles["tensorrt"]], tmp_path / "one", layout="ort-model-package")
        assert written["cpu/model.onnx"].startswith("fp32"), "TensorRT's dialect is slower than FP32 on the CPU"


def test_an_old_onnxruntime_says_which_is_needed(bundles, tmp_path, monkeypatch):
    monkeypatch.delattr(onnxruntime, "ModelPackage", raising=False)
    with pytest.raises(MissingDependencyError, match=r"onnxruntime>=1\.32"):
        write_package([bundles["tensorrt"]], tmp_path / "out", layout="ort-model-package")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def mlflow_package(bundles, tmp_path_factory):
    pytest.importorskip("mlflow.onnx", reason="mlflow is not installed: [mlflow]", exc_type=ImportError)
    output = tmp_path_factory.mktemp("mlflow") / "small"
    write_package([bundles["onnxruntime"]], output, layout="mlflow")
    return output


class TestMlflow:
    def test_mlflow_loads_and_answers(self, mlflow_package, bundles, images):
        import mlflow

        loaded = mlflow.pyfunc.load_model(str(mlflow_package))
        got = loaded.predict({"input": images})["logits"]
        assert np.array_equal(np.asarray(got), answers(bundles["onnxruntime"] / "model.int8.onnx", images))
        assert loaded.metadata.get_input_schema().input_names() == ["input"]
        assert json.loads(loaded.metadata.metadata["labels"]) == list(LABELS)
        assert json.loads(loaded.metadata.metadata["preprocessing"]) == PREPROCESSING.to_json()

    def test_the_model_is_the_bundles(self, mlflow_package, bundles):
        import mlflow

        loaded = mlflow.onnx.load_model(str(mlflow_package))
        assert loaded == onnx.load(bundles["onnxruntime"] / "model.int8.onnx")


@pytest.mark.parametrize("kind", [AnswerKind.PROBABILITIES, AnswerKind.INDEPENDENT, AnswerKind.FEATURES])
def test_what_gives_no_logits_is_no_package_for_transformers(tmp_path, kind):
    """Its pipelines apply Softmax to what they get, as if it were logits."""
    bundle = write_bundle(tmp_path / "b", {"fp32": small_network()}, answers=kind)
    with pytest.raises(ExportError, match=rf"gives {kind.value}, as its network ends; transformers reads logits"):
        write_package([bundle], tmp_path / "out", layout="huggingface")
    assert not (tmp_path / "out").exists()


def test_two_bundles_only_where_variants_are(bundles, tmp_path):
    for layout in LAYOUTS:
        if not LAYOUTS[layout].takes_several:
            with pytest.raises(ExportError, match="takes one bundle, got 2"):
                write_package(list(bundles.values()), tmp_path / layout, layout=layout)


def test_bundles_of_different_models_are_refused(bundles, tmp_path):
    other = write_bundle(tmp_path / "other", small_models())
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["model"]["id"] = "another"
    (other / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(ExportError, match="its model differs"):
        write_package([bundles["tensorrt"], other], tmp_path / "out", layout="ort-model-package")


def test_a_folder_of_something_else_is_left_alone(bundles, tmp_path, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "config.json").write_text("mine")
    words = ["package", bundles["tensorrt"], "--layout", "huggingface", "-o", tmp_path / "out", "--force"]
    assert main([str(word) for word in words]) == 2
    assert (tmp_path / "out" / "config.json").read_text() == "mine"
