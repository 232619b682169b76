import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from exporter.checkpoints.checkpoint import state_dict_sha256
from exporter.errors import ExportError, UnknownModelError, WeightsError
from exporter.models.architecture import Architecture, load_file, load_random
from exporter.models.load_model import load_model
from exporter.models.loaded_model import ModelRequest
from exporter.models.model_facts import architecture_of
from runtimes.errors import MissingDependencyError
from runtimes.preprocessing.transform import Interpolation, Preprocessing

ASSUMED = Preprocessing(
    resize=(8, 8), crop=None, interpolation=Interpolation.BILINEAR, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)
STORED = Preprocessing(
    resize=9, crop=(8, 8), interpolation=Interpolation.BICUBIC, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)
)


class Tiny(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, num_classes)


TINY = Architecture("tiny", "test", Tiny, 5, ASSUMED, "assumed: the test's")


def checkpoint(folder, *, num_classes=5, **metadata):
    torch.manual_seed(1)
    save_file(Tiny(num_classes).state_dict(), folder / "w.safetensors", metadata=metadata or None)
    return ModelRequest("tiny", str(folder / "w.safetensors"))


# Header


def test_whole_header_is_used(tmp_path):
    request = checkpoint(
        tmp_path, model="tiny", labels=json.dumps(list("abcde")), preprocessing=json.dumps(STORED.to_json()), other="1"
    )
    loaded = load_file(TINY, request)
    assert loaded.labels == tuple("abcde")
    assert loaded.preprocessing == STORED
    assert loaded.preprocessing_source == "the checkpoint's header"
    assert (loaded.model_id, loaded.source, loaded.weights, loaded.num_classes) == ("tiny", "test", "w.safetensors", 5)
    assert loaded.weights_sha256 == state_dict_sha256(loaded.module.state_dict())


def test_without_header_the_architectures_own_holds(tmp_path):
    loaded = load_file(TINY, checkpoint(tmp_path))
    assert loaded.labels is None
    assert (loaded.preprocessing, loaded.preprocessing_source) == (ASSUMED, "assumed: the test's")


def test_header_of_another_model(tmp_path):
    with pytest.raises(WeightsError, match=r"w\.safetensors: its header says model 'other', expected 'tiny'"):
        load_file(TINY, checkpoint(tmp_path, model="other"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("labels", "not json"),
        ("labels", '"abcde"'),  # a text is not five labels
        ("labels", '{"a": 0, "b": 1}'),
        ("labels", "5"),
        ("preprocessing", "not json"),
        ("preprocessing", "{}"),
        ("preprocessing", "[]"),
        ("preprocessing", json.dumps({**STORED.to_json(), "std": [0, 1, 1]})),
        ("preprocessing", json.dumps({**STORED.to_json(), "color_order": "BGR"})),
    ],
)
def test_damaged_header_is_told(tmp_path, key, value):
    with pytest.raises(WeightsError, match=r"w\.safetensors: its header cannot be read: .*"):
        load_file(TINY, checkpoint(tmp_path, **{key: value}))


def test_labels_that_are_numbers_become_text(tmp_path):
    assert load_file(TINY, checkpoint(tmp_path, labels="[0, 1, 2, 3, 4]")).labels == ("0", "1", "2", "3", "4")


# Number of classes


@pytest.mark.parametrize(("in_file", "asked", "expected"), [(5, None, 5), (7, None, 7), (7, 7, 7), (1, None, 1)])
def test_number_of_classes(tmp_path, in_file, asked, expected):
    request = ModelRequest("tiny", checkpoint(tmp_path, num_classes=in_file).weights, asked)
    assert load_file(TINY, request).num_classes == expected


def test_number_of_classes_that_the_file_does_not_have(tmp_path):
    with pytest.raises(WeightsError, match="7 classes: pass --num-classes 7"):
        load_file(TINY, ModelRequest("tiny", checkpoint(tmp_path, num_classes=7).weights, 5))


def test_random_takes_the_architectures_number():
    assert load_random(TINY, ModelRequest("tiny", "random")).num_classes == 5
    assert load_random(TINY, ModelRequest("tiny", "random", 3)).num_classes == 3


# Weights


def test_weights_are_the_files_and_the_module_is_ready(tmp_path):
    loaded = load_file(TINY, checkpoint(tmp_path))
    torch.manual_seed(1)
    assert torch.equal(loaded.module.conv.weight, Tiny(5).conv.weight)
    assert not any(child.training for child in loaded.module.modules())


def test_nan_in_the_file_is_named(tmp_path):
    state_dict = Tiny(5).state_dict()
    state_dict["conv.bias"][2] = float("nan")
    save_file(state_dict, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"conv\.bias"):
        load_file(TINY, ModelRequest("tiny", str(tmp_path / "w.safetensors")))


def test_loading_leaves_the_callers_random_state(tmp_path):
    request = checkpoint(tmp_path)
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    load_file(TINY, request)
    load_random(TINY, ModelRequest("tiny", "random"))
    assert torch.equal(torch.rand(3), expected)


# Which source makes which model


@pytest.mark.parametrize(("name", "source"), [("resnet18", "torchvision"), ("cifar_resnet20", "resnet-export")])
def test_source_by_name(name, source):
    loaded = load_model(ModelRequest(name, "random"))
    assert (loaded.model_id, loaded.source) == (name, source)


def test_unknown_model_is_told_before_anything_is_loaded():
    with pytest.raises(UnknownModelError, match="did you mean resnet50"):
        load_model(ModelRequest("resnet5o", "random"))


@pytest.mark.parametrize("name", ["resnet18", "cifar_resnet20"])
def test_missing_torch_says_what_to_install(monkeypatch, name):
    import sys

    for source in ("exporter.models.torchvision_source", "exporter.models.builtin_source"):
        monkeypatch.setitem(sys.modules, source, None)
    with pytest.raises(MissingDependencyError, match=r'pip install "resnet-export\[export\]"'):
        load_model(ModelRequest(name, "random"))


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1", "CifarResNet20_Weights.V1"])
def test_cifar_resnets_have_no_published_weights(weights):
    with pytest.raises(
        WeightsError, match=rf"cifar_resnet20 has no published weights '{weights}'; give a file .*random"
    ):
        load_model(ModelRequest("cifar_resnet20", weights))


def test_cifar_resnet_from_a_file(tmp_path):
    from exporter.models.architecture import CIFAR_PREPROCESSING
    from exporter.networks.cifar_resnet import CifarResNet

    save_file(CifarResNet(20, 4).state_dict(), tmp_path / "w.safetensors")
    loaded = load_model(ModelRequest("cifar_resnet20", str(tmp_path / "w.safetensors")))
    assert (loaded.num_classes, loaded.preprocessing) == (4, CIFAR_PREPROCESSING)
    with pytest.raises(ExportError, match="do not fit"):
        load_model(ModelRequest("cifar_resnet32", str(tmp_path / "w.safetensors")))


# Weights that are replaced


def drawn_in(build, *, preprocessing=ASSUMED):
    """Load nothing into what `build` makes; return the module, and whether random numbers were drawn for it."""
    advanced = []

    def watched(num_classes):
        before = torch.get_rng_state()
        module = build(num_classes)
        advanced.append(not torch.equal(before, torch.get_rng_state()))
        return module

    architecture = Architecture("tiny", "test", watched, 5, preprocessing, "the test's")
    return architecture.to_be_filled(5), advanced


def test_weights_that_a_file_fills_are_not_drawn_first():
    module, advanced = drawn_in(Tiny)
    assert advanced == [False]
    assert not module.training
    torch.manual_seed(1)
    weights = Tiny(5).state_dict()
    module.load_state_dict(weights)
    assert all(torch.equal(value, weights[name]) for name, value in module.state_dict().items())


class Offset(Tiny):
    """Holds what no file fills: random numbers that are not stored."""

    def __init__(self, num_classes):
        super().__init__(num_classes)
        self.register_buffer("offset", torch.randn(3), persistent=False)


@pytest.mark.parametrize(("build", "preprocessing"), [(Offset, ASSUMED), (Tiny, None)], ids=["not-stored", "own-code"])
def test_what_a_file_may_not_fill_is_drawn_with_the_fixed_seed(build, preprocessing):
    module, advanced = drawn_in(build, preprocessing=preprocessing)
    assert advanced[-1]
    expected = Architecture("tiny", "test", build, 5, ASSUMED, "").seeded(5)
    for name, value in [*expected.named_parameters(), *expected.named_buffers()]:
        assert torch.equal(module.get_parameter(name) if "offset" not in name else module.offset, value)


@pytest.mark.parametrize("name", ["resnet18", "timm:resnetblur18"])
def test_a_librarys_network_answers_by_its_file_alone(name, tmp_path):
    """timm's blurring filters are not stored."""
    architecture = architecture_of(name)
    drawn = architecture.seeded(5)
    torch.save(drawn.state_dict(), tmp_path / "w.pth")
    loaded = load_file(architecture, ModelRequest(name, str(tmp_path / "w.pth"))).module
    images = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(loaded(images), drawn(images))
