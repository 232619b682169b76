"""`load`: what it opens, on what, and what it refuses; answers against PyTorch and torchvision."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from graph_builder import GraphBuilder
from onnx import numpy_helper
from PIL import Image
from small_bundle import CLASSES, LABELS, PREPROCESSING, SIZE, small_models, small_network, write_bundle
from torchvision.transforms import v2

from exporter.passes.pre_post_options import Finish
from runtimes import load
from runtimes.bundle.file_names import MODEL_FILES
from runtimes.errors import (
    BundleError,
    MissingDependencyError,
    NotAClassifierError,
    ProviderUnavailableError,
    RuntimeAdapterError,
)
from runtimes.inference import onnxruntime_kinds

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def models():
    return small_models()


@pytest.fixture(scope="module")
def bundle(models, tmp_path_factory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("load") / "small-int8", models)


@pytest.fixture(scope="module")
def photograph(tmp_path_factory) -> Path:
    import skimage.data

    path = tmp_path_factory.mktemp("photo") / "cat.png"
    Image.fromarray(skimage.data.chelsea()).save(path)
    return path


def by_torch(path: Path) -> np.ndarray:
    """Return the probabilities of torchvision's preprocessing, PyTorch's layers and PyTorch's softmax."""
    weights = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in small_network().graph.initializer}
    image = v2.functional.pil_to_tensor(Image.open(path).convert("RGB"))
    image = v2.functional.pil_to_tensor(v2.functional.resize(v2.functional.to_pil_image(image), [20]))
    image = v2.functional.center_crop(image, [SIZE, SIZE])
    image = v2.functional.normalize(v2.functional.to_dtype(image, scale=True), PREPROCESSING.mean, PREPROCESSING.std)
    features = torch.conv2d(image[None], weights["conv.weight"], weights["conv.bias"], padding=1).relu().mean((2, 3))
    logits = features @ weights["logits.weight"].T + weights["logits.bias"]
    return torch.softmax(logits.double(), 1)[0].numpy()


class TestClassify:
    def test_as_torchvision_and_pytorch(self, bundle, photograph):
        expected = by_torch(photograph)
        with load(bundle) as model:
            answer = model.classify(photograph, top=CLASSES)
        assert [scored.index for scored in answer.top] == np.argsort(-expected).tolist()
        assert [scored.label for scored in answer.top] == [LABELS[index] for index in np.argsort(-expected)]
        assert np.allclose([scored.probability for scored in answer.top], np.sort(expected)[::-1], rtol=0, atol=1e-6)
        assert (answer.label, answer.index) == (answer.top[0].label, answer.top[0].index)
        assert str(answer) == f"{answer.label} {expected.max():.1%}"

    def test_every_form_of_a_picture_gives_the_same_answer(self, bundle, photograph):
        image = Image.open(photograph).convert("RGB")
        rgb = np.array(image)
        with load(bundle) as model:
            expected = model.classify(photograph)
            assert model.classify(str(photograph)) == expected
            assert model.classify(photograph.read_bytes()) == expected
            assert model.classify(memoryview(photograph.read_bytes())) == expected
            assert model.classify(image) == expected
            assert model.classify(rgb, channels="RGB") == expected
            assert model.classify(rgb[..., ::-1], channels="BGR") == expected
            assert model.classify(torch.from_numpy(rgb), channels="RGB") == expected
            assert model.classify([photograph, image]) == [expected, expected]
            assert model.classify(rgb[..., ::-1], channels="RGB") != expected

    def test_a_long_list_is_as_its_pictures_alone(self, bundle, photograph):
        image = Image.open(photograph).convert("RGB")
        images = [image.crop((place * 3, 0, place * 3 + 200, 200)) for place in range(37)]
        with load(bundle) as model:
            together = model.classify(images)
            alone = [model.classify(one) for one in images]
        assert [answer.index for answer in together] == [answer.index for answer in alone]
        probabilities = [[answer.probability for answer in answers] for answers in (together, alone)]
        assert np.allclose(*probabilities, rtol=0, atol=1e-6)

    @pytest.mark.parametrize("finish", [Finish(uint8_input=True), Finish(softmax=True), Finish(True, True, 3)])
    def test_a_finished_file_answers_as_the_plain_one(self, models, bundle, photograph, tmp_path, finish):
        finished = write_bundle(tmp_path / "finished", {"fp32": models["fp32"]}, finish=finish)
        with load(bundle) as plain, load(finished) as model:
            expected, answer = plain.classify(photograph, top=3), model.classify(photograph, top=3)
        assert [scored.label for scored in answer.top] == [scored.label for scored in expected.top]
        probabilities = [[scored.probability for scored in one.top] for one in (answer, expected)]
        assert np.allclose(*probabilities, rtol=0, atol=1e-5)

    def test_the_best_logits_alone_give_no_probability(self, models, photograph, tmp_path):
        finished = write_bundle(tmp_path / "topk", {"fp32": models["fp32"]}, finish=Finish(topk=2))
        with load(finished) as model:
            answer = model.classify(photograph)
        assert len(answer.top) == 2
        assert answer.probability is None
        assert str(answer) == answer.label

    def test_one_file_brings_its_preprocessing_and_labels(self, bundle, photograph, tmp_path):
        alone = tmp_path / "alone.onnx"
        shutil.copy(bundle / "model.onnx", alone)
        with load(bundle) as whole, load(alone) as model:
            assert model.classify(photograph) == whole.classify(photograph)
            assert model.describe().precision is None

    def test_a_file_of_elsewhere_can_only_run(self, photograph, tmp_path):
        path = tmp_path / "theirs.onnx"
        onnx.save(small_network(), path)
        with load(path) as model:
            assert model.run({"input": np.zeros((2, 3, SIZE, SIZE), np.float32)})["logits"].shape == (2, CLASSES)
            with pytest.raises(NotAClassifierError, match="how this model's pictures are prepared is not known"):
                model.classify(photograph)

    def test_features_are_no_classes(self, models, photograph, tmp_path):
        made = GraphBuilder(channels=3, size=SIZE)
        network = made.model(made.node("Relu", "relu", made.conv("conv", "input", 4)), opset=20)
        features = write_bundle(tmp_path / "features", {"fp32": network}, labels=None)
        with load(features) as model, pytest.raises(NotAClassifierError, match=r"no one output \[N, classes\]"):
            model.classify(photograph)

    def test_logits_that_are_no_numbers_are_an_error(self, bundle):
        with load(bundle) as model:
            outputs = model.run({"input": np.full((2, 3, SIZE, SIZE), np.nan, np.float32)})
            with pytest.raises(RuntimeAdapterError, match="logits are not finite for picture 0"):
                model.classes(outputs)


class TestChoice:
    @pytest.mark.parametrize(
        ("target", "options", "file"),
        [
            ("tensorrt", {}, "model.onnx"),
            ("tensorrt", {"precision": "int8"}, "model.int8.onnx"),
            ("tensorrt", {"file": "model.fp16.onnx"}, "model.fp16.onnx"),
            ("onnxruntime", {}, "model.int8.onnx"),
            ("onnxruntime", {"precision": "fp32"}, "model.onnx"),
        ],
    )
    def test_on_the_cpu(self, models, tmp_path, target, options, file):
        with load(write_bundle(tmp_path / "b", models, target=target), **options) as model:
            told = model.describe()
        assert Path(told.file).name == file
        assert MODEL_FILES[told.precision] == file
        assert told.provider == "CPUExecutionProvider"
        assert set(told.node_providers.values()) == {"CPUExecutionProvider"}
        assert "conv" in told.node_providers
        assert told.exact == (target == "tensorrt" and file == "model.int8.onnx")

    def test_int8_for_tensorrt_is_computed_as_written(self, models, bundle):
        """As the same Q/DQ graph with every optimization of ONNX Runtime off."""
        images = np.random.default_rng(3).normal(size=(8, 3, SIZE, SIZE)).astype(np.float32)
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(
            models["int8"].SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        with load(bundle, precision="int8") as model:
            logits = model.run({"input": images})["logits"]
        assert np.allclose(logits, session.run(None, {"input": images})[0], rtol=0, atol=1e-4)

    def test_a_file_of_a_bundle_is_the_bundle_with_that_file(self, bundle):
        with load(bundle / "model.fp16.onnx") as model:
            assert model.describe().precision == "fp16"
            assert model.labels == LABELS

    def test_threads_are_told(self, bundle):
        with load(bundle, threads=1) as model:
            assert model.describe().threads == 1

    def test_the_description_is_json(self, bundle):
        import json

        with load(bundle) as model:
            told = json.loads(json.dumps(model.describe().to_json()))
            text = str(model.describe())
        assert told["nodes_per_provider"] == {"CPUExecutionProvider": len(told["node_providers"])}
        assert told["inputs"] == {"input": f"float32 [N, 3, {SIZE}, {SIZE}]"}
        assert told["versions"]["onnxruntime"] == onnxruntime.__version__
        assert "CPUExecutionProvider" in text
        assert "model.onnx" in text


class TestRefused:
    def test_a_changed_bundle(self, bundle, tmp_path):
        changed = shutil.copytree(bundle, tmp_path / "changed")
        with (changed / "labels.txt").open("a") as file:
            file.write("more\n")
        with pytest.raises(BundleError, match="changed since it was written"):
            load(changed)
        with pytest.raises(BundleError, match="changed since it was written"):
            load(changed / "model.onnx")

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"provider": "gpu"}, "provider: got 'gpu', expected one of auto, cpu, cuda"),
            ({"precision": "int4"}, "precision: got 'int4'"),
            ({"threads": 0}, "threads: got 0"),
            ({"threads": 100_000}, "threads: got 100000, expected a whole number from 1 to"),
            ({"backend": "turbo"}, "backend: got 'turbo'"),
        ],
    )
    def test_wrong_words(self, bundle, options, message):
        with pytest.raises(ValueError, match=message):
            load(bundle, **options)

    def test_what_is_not_there(self, models, tmp_path):
        small = write_bundle(tmp_path / "b", {"fp32": models["fp32"]})
        with pytest.raises(BundleError, match="holds no int8 model, it has fp32; export with --int8"):
            load(small, precision="int8")
        with pytest.raises(BundleError, match=r"holds no engine for tensorrt .* resnet-export build"):
            load(small, provider="tensorrt")
        with pytest.raises(BundleError, match="is an ONNX model, tensorrt runs engines"):
            load(small, provider="tensorrt", file="model.onnx")
        with pytest.raises(BundleError, match=r"not in .*give the name"):
            load(small, file="../model.onnx")
        with pytest.raises(RuntimeAdapterError, match="does not exist"):
            load(tmp_path / "gone")
        with pytest.raises(BundleError, match="is not a bundle"):
            load(tmp_path)

    def test_an_archive_is_told_to_be_unpacked(self, bundle, tmp_path):
        archive = shutil.make_archive(tmp_path / "b", "zip", bundle)
        with pytest.raises(BundleError, match=r"b\.zip: a zip archive; of a bundle: unpack it and give the folder"):
            load(archive)

    def test_the_command_that_is_told_reaches_a_folder_of_any_name(self, models, tmp_path):
        small = write_bundle(tmp_path / "it's net (1)", {"fp32": models["fp32"]})
        with pytest.raises(BundleError) as caught:
            load(small, provider="tensorrt")
        told = str(caught.value).partition("build it here: ")[2]
        assert shlex.split(told) == ["resnet-export", "build", str(small), "--fp32"]

    @pytest.mark.parametrize("provider", ["cpu", "openvino"])
    def test_a_folder_whose_name_is_no_utf_8(self, models, tmp_path, provider):
        """As archives of older systems have them; pybind11 takes no such name."""
        folder = write_bundle(tmp_path / os.fsdecode(b"caf\xe9"), {"fp32": models["fp32"]})
        with load(folder, provider=provider) as model:
            assert model.run({"input": np.zeros((1, 3, SIZE, SIZE), np.float32)})

    def test_int8_for_onnx_runtime_on_tensorrt(self, models, tmp_path):
        small = write_bundle(tmp_path / "b", models, target="onnxruntime")
        with pytest.raises(BundleError, match="does not read its INT8 model"):
            load(small, provider="ort-tensorrt", precision="int8")

    def test_a_precision_that_is_not_the_files(self, bundle):
        with pytest.raises(BundleError, match=r"model\.onnx is fp32, asked for int8"):
            load(bundle, file="model.onnx", precision="int8")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU: CUDA loads")
class TestWithoutGpu:
    @pytest.mark.parametrize("provider", ["cuda", "CUDAExecutionProvider", "ort-tensorrt"])
    def test_what_is_missing_is_said_and_nothing_runs(self, bundle, monkeypatch, provider):
        ran = []
        monkeypatch.setattr(onnxruntime.InferenceSession, "run", lambda *arguments: ran.append(arguments))
        with pytest.raises(ProviderUnavailableError) as caught:
            load(bundle, provider=provider)
        message = str(caught.value)
        assert "libcuda" in message or "GPU" in message
        assert 'provider="cpu" or allow_fallback=True' in message
        if "GPU" in onnxruntime.get_device():
            assert "pip install" in message or "no NVIDIA driver" in message
        assert ran == []

    def test_the_way_down_is_opened_by_the_caller_alone_and_logged(self, bundle, logged):
        with load(bundle, provider="cuda", allow_fallback=True) as model:
            assert model.describe().provider == "CPUExecutionProvider"
            assert model.describe().reason.startswith("fell back from cuda")
            assert model.describe().precision == "fp32"
        assert "fell back to the CPU, as allow_fallback=True permits" in logged.text

    @pytest.mark.parametrize(("flags", "warned"), [(("asimd", "asimdhp"), True), (("avx2",), False)])
    def test_an_arm_processor_that_adds_in_fp16_is_told(self, bundle, monkeypatch, logged, flags, warned):
        machine = replace(onnxruntime_kinds.machine_info(), cpu_flags=flags)
        monkeypatch.setattr(onnxruntime_kinds, "machine_info", lambda: machine)
        with load(bundle / "model.fp16.onnx", provider="cpu") as model:
            assert any("adds in it" in note for note in model.describe().notes) == warned
        assert ("adds in it" in logged.text) == warned

    def test_the_plug_in_names_its_package(self, bundle, monkeypatch):
        monkeypatch.setitem(sys.modules, "onnxruntime_ep_nv_tensorrt_rtx", None)
        with pytest.raises(MissingDependencyError, match="pip install onnxruntime-ep-nv-tensorrt-rtx, beside onnx"):
            load(bundle, provider="ort-tensorrt-rtx")


def test_numpy_pillow_packaging_and_onnxruntime_are_enough(bundle, photograph):
    """Every other package is not there: a finder in front refuses what is none of these or Python's own."""
    script = f"""
import sys
allowed = {{"numpy", "PIL", "packaging", "onnxruntime", "runtimes"}} | set(sys.stdlib_module_names)
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in allowed:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Refuse())
from runtimes import load
with load({str(bundle)!r}) as model:
    print(model.classify({str(photograph)!r}))
for name in ("torch", "onnx", "rich"):
    assert name not in sys.modules
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"{{name}} is importable")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[0] in LABELS
