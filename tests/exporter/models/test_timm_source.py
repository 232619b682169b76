"""timm as a source; preprocessing against timm's own evaluation transform on photographs, weights from folders."""

import json
import socket
import sys

import numpy as np
import pytest
import skimage.data
import timm
import timm.data
import torch
from PIL import Image
from safetensors.torch import save_file

from exporter.checkpoints.checkpoint import state_dict_sha256
from exporter.errors import UnknownModelError, WeightsError
from exporter.models.load_model import load_model
from exporter.models.loaded_model import ModelRequest
from exporter.models.model_names import FAMILIES, TIMM
from exporter.models.timm_source import load, preprocessing_from_data_config
from exporter.preprocessing.options import PreprocessingOptions
from runtimes.errors import MissingDependencyError
from runtimes.preprocessing.resize import KeepRatio
from runtimes.preprocessing.transform import Interpolation, preprocess

NAMES = [name for family in FAMILIES.values() if family.source == TIMM for name in family.models]
CONFIG = {
    "input_size": (3, 96, 96),
    "interpolation": "bicubic",
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "crop_pct": 0.875,
    "crop_mode": "center",
}
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket")


class NetworkUsedError(OSError):
    """What a machine without network raises, so that no test depends on this one's."""


@pytest.fixture(autouse=True)
def _no_network(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise NetworkUsedError("no network in tests")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch_home"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between its tries


def photographs():
    """Four photographs, and a tall and a small cut of one."""
    whole = [Image.fromarray(getattr(skimage.data, name)()) for name in PHOTOGRAPHS]
    return [*whole, whole[1].crop((10, 10, 87, 290)), whole[1].crop((10, 10, 60, 41))]


@pytest.fixture
def hub_folder(tmp_path):
    """A repository of the hub as `timm.models.save_for_hf` writes it: a small ResNet with four labelled classes."""
    torch.manual_seed(5)
    model = timm.create_model("resnet10t", num_classes=4)
    changes = {
        "input_size": (3, 64, 48),
        "interpolation": "bilinear",
        "crop_pct": 0.9,
        "crop_mode": "border",
        "mean": (0.1, 0.2, 0.3),
        "std": (0.4, 0.5, 0.6),
        "label_names": ["ant", "bee", "cat", "dog"],
    }
    folder = tmp_path / "repo"
    timm.models.save_for_hf(model, folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    config["pretrained_cfg"].update(changes)
    (folder / "config.json").write_text(json.dumps(config))
    return folder, model


# Preprocessing


@pytest.mark.parametrize("size", [(96, 96), (96, 64)])
@pytest.mark.parametrize("crop_pct", [0.875, 0.95, 1.0, 1.15])
@pytest.mark.parametrize("crop_mode", ["center", "squash", "border"])
def test_same_values_as_timms_evaluation_transform(crop_mode, crop_pct, size):
    config = {**CONFIG, "crop_mode": crop_mode, "crop_pct": crop_pct, "input_size": (3, *size)}
    ours, theirs = preprocessing_from_data_config(config), timm.data.create_transform(**config, is_training=False)
    for image in photographs():
        np.testing.assert_array_equal(preprocess(ours, image), theirs(image).numpy(), err_msg=str(image.size))


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic", "nearest", "lanczos"])
def test_same_values_with_every_interpolation_of_timm(interpolation):
    config = {**CONFIG, "interpolation": interpolation}
    ours, theirs = preprocessing_from_data_config(config), timm.data.create_transform(**config, is_training=False)
    for image in photographs()[:2]:
        np.testing.assert_array_equal(preprocess(ours, image), theirs(image).numpy())


@pytest.mark.parametrize("name", NAMES)
def test_preprocessing_of_every_listed_model_is_timms(name):
    """timm's transform of its own configuration, on one photograph; the model itself has no values."""
    with torch.device("meta"):
        model = timm.create_model(name)
    config = timm.data.resolve_model_data_config(model)
    theirs = timm.data.create_transform(**config, is_training=False)
    ours = preprocessing_from_data_config(config)
    image = photographs()[1]
    np.testing.assert_array_equal(preprocess(ours, image), theirs(image).numpy())


def test_a1_recipe_is_not_torchvisions(monkeypatch):
    monkeypatch.setattr("exporter.models.architecture.settle_batchnorm_for", lambda *_: 0)  # of no recipe
    loaded = load(ModelRequest("resnet50.a1_in1k", "random"))
    assert loaded.preprocessing.resize == 235
    assert loaded.preprocessing.interpolation is Interpolation.BICUBIC
    assert loaded.preprocessing_source == "assumed: timm's data config of resnet50.a1_in1k (the weights do not say)"


def test_border_pads_with_the_mean():
    got = preprocessing_from_data_config({**CONFIG, "crop_mode": "border"})
    assert got.resize == KeepRatio(109, 109, inside=True)
    assert got.fill == (124, 116, 104)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"input_size": (1, 96, 96)}, "1 channels, expected 3"),
        ({"crop_mode": "tile"}, "crop_mode 'tile', expected center, squash or border"),
        ({"interpolation": "random"}, "cannot be followed"),
        ({"mean": (0.5,)}, "cannot be followed"),
        ({"std": (1, 1, 0)}, "cannot be followed"),
    ],
)
def test_configs_that_cannot_be_followed(change, message):
    with pytest.raises(WeightsError, match=message):
        preprocessing_from_data_config({**CONFIG, **change})


# Weights


def test_random_weights_need_no_network_and_are_the_same_twice():
    first, second = (load(ModelRequest("timm:resnet10t", "random", 7)) for _ in range(2))
    assert (first.model_id, first.source, first.num_classes) == ("resnet10t", "timm", 7)
    assert first.weights_sha256 == second.weights_sha256
    assert not any(child.training for child in first.module.modules())


def test_a_file(tmp_path):
    model = timm.create_model("resnet10t", num_classes=6)
    save_file({f"module.{name}": tensor for name, tensor in model.state_dict().items()}, tmp_path / "w.safetensors")
    loaded = load_model(ModelRequest("timm:resnet10t", str(tmp_path / "w.safetensors")))
    assert loaded.num_classes == 6
    assert loaded.weights_sha256 == state_dict_sha256(model.state_dict())
    assert "assumed" in loaded.preprocessing_source
    with pytest.raises(WeightsError, match="do not fit"):
        load_model(ModelRequest("timm:resnet14t", str(tmp_path / "w.safetensors")))


@pytest.mark.parametrize("name", ["timm:resnet10t", "resnet50.a1_in1k", "timm:resnet50.a1_in1k"])
def test_published_weights_without_network_name_the_ways_out(name):
    with pytest.raises(WeightsError, match=r"cannot be downloaded .*--weights FILE, or use --weights random"):
        load(ModelRequest(name))


def test_published_weights_of_a_tag(monkeypatch):
    """timm's own loader is replaced where it fetches the file."""
    model = timm.create_model("resnet18")
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *args, **kwargs: model.state_dict())
    loaded = load(ModelRequest("timm:resnet18", "a1_in1k"))
    assert loaded.weights == "timm resnet18.a1_in1k"
    assert loaded.weights_sha256 == state_dict_sha256(model.state_dict())
    assert loaded.labels[0].startswith("tench")
    assert len(loaded.labels) == 1000
    assert loaded.preprocessing_source == "timm's data config of these weights"
    assert "288x288" in loaded.notes[0]
    with pytest.raises(WeightsError, match=r"resnet18\.a1_in1k have 1000 classes, --num-classes asks for 10"):
        load(ModelRequest("timm:resnet18.a1_in1k", num_classes=10))


def test_nan_in_published_weights_is_refused(monkeypatch):
    state_dict = timm.create_model("resnet18").state_dict()
    state_dict["layer1.0.bn1.weight"][3] = float("nan")
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", lambda *args, **kwargs: state_dict)
    with pytest.raises(WeightsError, match=r"layer1\.0\.bn1\.weight"):
        load(ModelRequest("timm:resnet18"))


def test_a_model_for_one_size_is_built_for_the_size_asked_for():
    loaded = load_model(ModelRequest("hiera_tiny", "random", preprocessing=PreprocessingOptions(input_size=128)))
    assert loaded.model_id == "hiera_tiny_224"
    with torch.inference_mode():
        assert loaded.module(torch.zeros(1, 3, 128, 128)).shape == (1, 1000)


# Repositories of the hub


def test_a_repository_in_a_folder(hub_folder):
    folder, model = hub_folder
    loaded = load_model(ModelRequest(f"timm:local-dir:{folder}"))
    assert (loaded.model_id, loaded.num_classes) == ("repo", 4)
    assert loaded.labels == ("ant", "bee", "cat", "dog")
    assert loaded.weights_sha256 == state_dict_sha256(model.state_dict())
    theirs = timm.data.create_transform(
        **timm.data.resolve_model_data_config(timm.create_model(f"local-dir:{folder}")), is_training=False
    )
    assert loaded.preprocessing.input_size == (64, 48)
    for image in photographs():
        np.testing.assert_array_equal(preprocess(loaded.preprocessing, image), theirs(image).numpy())


def test_a_repository_of_the_hub_in_its_cache(hub_folder, tmp_path):
    """The layout of huggingface_hub's cache, with the files of `hub_folder`."""
    folder, model = hub_folder
    repository = tmp_path / "hub" / "models--someone--tiny"
    snapshot = repository / "snapshots" / ("a" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    for file in ("config.json", "model.safetensors"):
        (snapshot / file).write_bytes((folder / file).read_bytes())
    loaded = load_model(ModelRequest("timm:hf-hub:someone/tiny"))
    assert loaded.model_id == "tiny"
    assert loaded.weights_sha256 == state_dict_sha256(model.state_dict())


def test_a_repository_that_is_not_in_the_cache():
    with pytest.raises(WeightsError, match=r"hf-hub:nobody/nothing .*cannot be downloaded .*local-dir:FOLDER"):
        load(ModelRequest("timm:hf-hub:nobody/nothing"))


def test_a_folder_without_a_configuration(tmp_path):
    with pytest.raises(WeightsError, match=r"cannot be loaded .*expected a folder with config\.json"):
        load(ModelRequest(f"timm:local-dir:{tmp_path}"))


def test_published_weights_without_a_classifier_in_a_folder_are_refused(hub_folder):
    folder, _ = hub_folder
    config = json.loads((folder / "config.json").read_text())
    config["num_classes"] = config["pretrained_cfg"]["num_classes"] = 0
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(WeightsError, match="no classifier"):
        load(ModelRequest(f"timm:local-dir:{folder}"))


# Names


def test_a_typo_in_the_name():
    with pytest.raises(UnknownModelError, match=r"no model 'resnet5O'; did you mean .*timm:resnet50"):
        load(ModelRequest("timm:resnet5O", "random"))


def test_nothing_near():
    with pytest.raises(UnknownModelError, match=r"no model 'qqqqqqqqqq'; see timm\.list_models"):
        load(ModelRequest("timm:qqqqqqqqqq", "random"))


@pytest.mark.parametrize(("name", "weights"), [("timm:resnet50.a1_in1x", "random"), ("timm:resnet50", "a1_in1x")])
def test_a_typo_in_the_tag(name, weights):
    with pytest.raises(
        UnknownModelError, match=r"no weights 'a1_in1x' of resnet50; it has .*a1_in1k.*DEFAULT or random"
    ):
        load(ModelRequest(name, weights))


@pytest.mark.parametrize("name", ["timm:resnet10t", "seresnet50"])
def test_without_timm_the_message_says_what_to_install(monkeypatch, name):
    for module in ("timm", "timm.data", "timm.models"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "exporter.models.timm_source")
    with pytest.raises(MissingDependencyError, match=r'not installed; pip install "resnet-export\[timm\]"'):
        load_model(ModelRequest(name, "random"))


def test_an_encoder_without_published_classes_takes_others_weights(tmp_path):
    """Its published weights end in features; a classifier of one's own is as wide as its file says."""
    save_file(timm.create_model("resnet50_clip_gap", num_classes=5).state_dict(), tmp_path / "w.safetensors")
    loaded = load(ModelRequest("timm:resnet50_clip_gap", str(tmp_path / "w.safetensors")))
    assert loaded.num_classes == 5
    assert loaded.module.head.fc.out_features == 5


def test_published_weights_without_a_classifier_are_refused():
    with pytest.raises(WeightsError, match=r"resnet50_clip_gap\.openai have no classifier .* give your own weights"):
        load(ModelRequest("timm:resnet50_clip_gap"))
