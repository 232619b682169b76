import http.client
import pickle
import socket
import urllib.error

import pytest
import torch
import torchvision

from exporter.checkpoints.checkpoint import state_dict_sha256
from exporter.checkpoints.weight_layout import layout_of, without_values
from exporter.errors import PreprocessingError, UnknownModelError, WeightsError
from exporter.models import architecture
from exporter.models.architecture import CIFAR_PREPROCESSING, IMAGENET_PREPROCESSING
from exporter.models.loaded_model import ModelRequest
from exporter.models.model_names import FAMILIES, TORCHVISION
from exporter.models.torchvision_source import architecture_for, load, preprocessing_from_transforms
from exporter.preprocessing.options import PreprocessingOptions
from runtimes.preprocessing.transform import Interpolation

# Published with the weights: torchvision documentation, "ResNet", num_params.
TORCHVISION_RESNETS = FAMILIES["resnet"].models
EVERY_MODEL = [name for family in FAMILIES.values() if family.source == TORCHVISION for name in family.models]
NUM_PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}
EVERY_WEIGHTS = [
    (name, member) for name in TORCHVISION_RESNETS for member in torchvision.models.get_model_weights(name).__members__
]


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


@pytest.fixture
def published(monkeypatch):
    """ResNet-18 weights as if they came from the network."""
    torch.manual_seed(3)
    state_dict = torchvision.models.resnet18().state_dict()
    kind = torchvision.models.ResNet18_Weights
    monkeypatch.setattr(kind, "get_state_dict", lambda self, **options: {k: v.clone() for k, v in state_dict.items()})
    return state_dict


# Networks


@pytest.mark.parametrize("name", TORCHVISION_RESNETS)
def test_number_of_parameters_is_the_published_one(name):
    with torch.device("meta"):
        module = torchvision.models.get_model(name)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    assert sum(parameter.numel() for parameter in module.parameters()) == NUM_PARAMETERS[name]
    assert weights.meta["num_params"] == NUM_PARAMETERS[name]


def test_random_weights_are_the_same_twice_and_leave_the_callers_random_state():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first = load(ModelRequest("resnet18", "random"))
    assert torch.equal(torch.rand(3), expected)
    torch.manual_seed(8)
    second = load(ModelRequest("resnet18", "random"))
    assert first.weights_sha256 == second.weights_sha256 == state_dict_sha256(first.module.state_dict())
    assert sum(parameter.numel() for parameter in first.module.parameters()) == NUM_PARAMETERS["resnet18"]


def test_random_weights_say_what_they_are():
    loaded = load(ModelRequest("resnet18", "random", num_classes=7))
    assert (loaded.model_id, loaded.source, loaded.num_classes) == ("resnet18", "torchvision", 7)
    assert loaded.module.fc.out_features == 7
    assert loaded.weights == "random (seed 0)"
    assert loaded.labels is None
    assert loaded.preprocessing == IMAGENET_PREPROCESSING
    assert "assumed" in loaded.preprocessing_source
    assert "accuracy" in loaded.notes[0]
    assert not any(child.training for child in loaded.module.modules())


# Preprocessing


@pytest.mark.parametrize(("name", "member"), EVERY_WEIGHTS)
def test_preprocessing_is_what_the_weights_ask_for(name, member):
    transforms = torchvision.models.get_model_weights(name)[member].transforms()
    preprocessing = preprocessing_from_transforms(transforms)
    assert [preprocessing.resize] == transforms.resize_size
    assert list(preprocessing.crop) == transforms.crop_size * 2
    assert list(preprocessing.mean) == transforms.mean
    assert list(preprocessing.std) == transforms.std
    assert preprocessing.interpolation.name == transforms.interpolation.name


def test_every_resnet_has_v1_and_only_three_have_v2():
    assert {name for name, member in EVERY_WEIGHTS if member == "IMAGENET1K_V1"} == set(TORCHVISION_RESNETS)
    assert {name for name, member in EVERY_WEIGHTS if member == "IMAGENET1K_V2"} == {
        "resnet50",
        "resnet101",
        "resnet152",
    }


def test_v1_and_v2_differ_in_the_resize_alone():
    weights = torchvision.models.ResNet50_Weights
    first = preprocessing_from_transforms(weights.IMAGENET1K_V1.transforms())
    second = preprocessing_from_transforms(weights.IMAGENET1K_V2.transforms())
    assert first == IMAGENET_PREPROCESSING
    assert (first.resize, second.resize) == (256, 232)
    assert (second.crop, second.interpolation) == ((224, 224), Interpolation.BILINEAR)


# Published weights


@pytest.mark.parametrize(
    "weights", ["DEFAULT", "IMAGENET1K_V1", "ResNet18_Weights.IMAGENET1K_V1", "ResNet18_Weights.DEFAULT"]
)
def test_published_weights(published, weights):
    loaded = load(ModelRequest("resnet18", weights))
    assert loaded.weights == "ResNet18_Weights.IMAGENET1K_V1"
    assert loaded.weights_sha256 == state_dict_sha256(published)
    assert loaded.num_classes == len(loaded.labels) == 1000
    assert loaded.labels[0] == "tench"
    assert loaded.preprocessing == IMAGENET_PREPROCESSING
    assert loaded.preprocessing_source == "ResNet18_Weights.IMAGENET1K_V1.transforms()"
    assert not loaded.module.training


def test_published_weights_with_nan_are_refused(published):
    published["layer1.0.conv1.weight"][0] = float("nan")
    with pytest.raises(WeightsError, match=r"layer1\.0\.conv1\.weight"):
        load(ModelRequest("resnet18"))


def test_without_network_the_message_names_the_ways_out(tmp_path):
    with pytest.raises(WeightsError) as caught:
        load(ModelRequest("resnet18"))
    message = str(caught.value)
    assert "cannot be downloaded" in message
    assert "no network in tests" in message
    assert "https://download.pytorch.org/models/resnet18" in message
    assert "--weights FILE" in message
    assert "--weights random" in message
    assert str(tmp_path) in message


def test_damaged_file_in_the_cache(tmp_path):
    folder = tmp_path / "torch_home" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    for content in (b"", b"damaged", pickle.dumps({"a": 1}, protocol=2)):
        (folder / "resnet18-f37072fd.pth").write_bytes(content)
        with pytest.raises(WeightsError, match="--weights FILE"):
            load(ModelRequest("resnet18"))


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.URLError("unreachable"),
        TimeoutError("too slow"),
        http.client.IncompleteRead(b"half"),
        RuntimeError("invalid hash value"),
        EOFError("ends early"),
    ],
)
def test_every_way_a_download_fails(monkeypatch, error):
    def fail(self, **options):
        assert options == {"progress": False, "check_hash": True, "weights_only": True}
        raise error

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", fail)
    with pytest.raises(WeightsError, match="--weights FILE") as caught:
        load(ModelRequest("resnet18"))
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet18", "IMAGENET1K_V2"),
        ("resnet50", "imagenet"),
        ("resnet50", "ResNet18_Weights.IMAGENET1K_V1"),  # another model's
        ("resnet50", "_member_map_"),
    ],
)
def test_unknown_weights_list_the_known(name, weights):
    with pytest.raises(
        WeightsError, match=f"{name} has no weights '{weights}'; torchvision has IMAGENET1K_V1.*DEFAULT or random"
    ):
        load(ModelRequest(name, weights))


def test_other_number_of_classes_than_the_weights():
    with pytest.raises(WeightsError, match=r"has 1000 classes, --num-classes asks for 10; .*--weights FILE.*random"):
        load(ModelRequest("resnet18", num_classes=10))


def test_same_number_of_classes_as_the_weights(published):
    assert load(ModelRequest("resnet18", num_classes=1000)).num_classes == 1000


# Checkpoint files


def test_fine_tuned_checkpoint_brings_its_number_of_classes(tmp_path):
    torch.manual_seed(4)
    trained = torchvision.models.resnet18(num_classes=6)
    torch.save({"state_dict": trained.state_dict()}, tmp_path / "best.pth")
    loaded = load(ModelRequest("resnet18", str(tmp_path / "best.pth")))
    assert loaded.num_classes == 6
    assert loaded.weights == "best.pth"
    assert loaded.weights_sha256 == state_dict_sha256(trained.state_dict())
    assert torch.equal(loaded.module.fc.weight, trained.fc.weight)
    assert "assumed" in loaded.preprocessing_source
    assert any("state_dict" in note for note in loaded.notes)


def test_name_of_a_weights_member_is_taken_for_a_file_where_there_is_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ResNet18_Weights.IMAGENET1K_V1").write_bytes(b"mine")
    with pytest.raises(WeightsError, match=r"expected one of \.safetensors"):
        load(ModelRequest("resnet18", "ResNet18_Weights.IMAGENET1K_V1"))


def test_seed_is_the_documented_one():
    assert architecture.RANDOM_SEED == 0


@pytest.mark.parametrize(
    ("file", "resize", "told"),
    [("resnet18-f37072fd.pth", 256, True), ("resnet18-finetuned.pth", 256, False)],
)
def test_a_file_with_the_name_of_a_download_has_its_recipe_and_labels(tmp_path, file, resize, told):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / file)
    loaded = load(ModelRequest("resnet18", str(tmp_path / file)))
    assert loaded.preprocessing.resize == resize
    assert (loaded.labels is not None) is told
    assert ("by the file's name" in loaded.preprocessing_source) is told


def test_the_second_recipe_is_not_taken_for_the_first(tmp_path):
    file = torchvision.models.ResNet50_Weights.IMAGENET1K_V2.url.rpartition("/")[2]
    torch.save(torchvision.models.resnet50().state_dict(), tmp_path / file)
    assert load(ModelRequest("resnet50", str(tmp_path / file))).preprocessing.resize == 232


def test_a_finetuned_file_under_the_name_of_a_download_keeps_its_own_classes(tmp_path):
    path = tmp_path / "resnet18-f37072fd.pth"
    torch.save(torchvision.models.resnet18(num_classes=8).state_dict(), path)
    loaded = load(ModelRequest("resnet18", str(path)))
    assert loaded.labels is None
    assert loaded.num_classes == 8


# Every family


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_every_family_is_built_with_its_published_number_of_parameters(name):
    """Without auxiliary heads; torchvision's own figure of GoogLeNet is without them, too."""
    architecture = architecture_for(ModelRequest(name, "random"))
    module = without_values(architecture.build, 1000)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    assert sum(parameter.numel() for parameter in module.parameters()) == weights.meta["num_params"]
    assert "assumed: torchvision's" in architecture.preprocessing_source


@pytest.mark.parametrize("name", EVERY_MODEL)
def test_every_family_takes_a_number_of_classes(name):
    layout = layout_of(architecture_for(ModelRequest(name, "random")).build)
    assert layout.classifier
    assert all("classifier" in tensor or "fc" in tensor for tensor in layout.classifier)


@pytest.mark.parametrize("name", ["vit_b_16", "squeezenet1_1", "swin_t", "shufflenet_v2_x0_5", "maxvit_t"])
def test_any_other_classification_model(name, monkeypatch):
    if name == "maxvit_t":  # two seconds of settling at 224 x 224
        monkeypatch.setattr("exporter.models.architecture.settle_batchnorm_for", lambda *_: 0)
    size = PreprocessingOptions(input_size=224 if name == "maxvit_t" else 64)
    loaded = load(ModelRequest(f"torchvision:{name}", "random", 3, size))
    assert (loaded.model_id, loaded.source, loaded.num_classes) == (name, "torchvision", 3)
    with torch.inference_mode():
        assert loaded.module(torch.zeros(1, 3, *size.applied_to(loaded.preprocessing).input_size)).shape == (1, 3)


@pytest.mark.parametrize("name", ["resnet5O", "fasterrcnn_resnet50_fpn", "quantized_resnet50", "raft_large"])
def test_what_torchvision_has_not_for_classification(name):
    with pytest.raises(UnknownModelError, match=f"no classification model '{name}'; (did you mean|it has)"):
        load(ModelRequest(f"torchvision:{name}", "random"))


def test_efficientnet_is_prepared_as_its_weights_ask(monkeypatch):
    monkeypatch.setattr("exporter.models.architecture.settle_batchnorm_for", lambda *_: 0)  # half a minute at 380 x 380
    preprocessing = load(ModelRequest("efficientnet_b4", "random")).preprocessing
    assert (preprocessing.resize, preprocessing.crop) == (384, (380, 380))
    assert preprocessing.interpolation is Interpolation.BICUBIC


def published_weights(monkeypatch, kind, state_dict):
    monkeypatch.setattr(kind, "get_state_dict", lambda self, **options: {k: v.clone() for k, v in state_dict.items()})


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_googlenet_answers_as_torchvisions_with_transform_input(monkeypatch, tmp_path):
    torch.manual_seed(6)
    theirs = torchvision.models.googlenet(aux_logits=True, transform_input=True, init_weights=False)
    published_weights(monkeypatch, torchvision.models.GoogLeNet_Weights, theirs.state_dict())
    loaded = load(ModelRequest("googlenet"))
    assert "left out 20 weights of heads that only training uses" in loaded.notes[0]
    transforms = torchvision.models.GoogLeNet_Weights.DEFAULT.transforms()
    pixels = torch.rand(2, 3, 64, 64)
    mean, std = (torch.tensor(values)[:, None, None] for values in (transforms.mean, transforms.std))
    ours_mean, ours_std = (
        torch.tensor(values)[:, None, None] for values in (loaded.preprocessing.mean, loaded.preprocessing.std)
    )
    with torch.inference_mode():
        expected = theirs.eval()((pixels - mean) / std)
        got = loaded.module((pixels - ours_mean) / ours_std)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    torch.save(theirs.state_dict(), tmp_path / "googlenet-1378be20.pth")
    from_file = load(ModelRequest("googlenet", str(tmp_path / "googlenet-1378be20.pth")))
    assert from_file.preprocessing == loaded.preprocessing


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_googlenet_of_unknown_training_is_not_guessed(tmp_path):
    path = tmp_path / "mine.pth"
    torch.save(torchvision.models.googlenet(num_classes=5, init_weights=False).state_dict(), path)
    with pytest.raises(
        PreprocessingError, match=r"transform_input.*--mean 0.5,0.5,0.5.*say which with --mean and --std"
    ):
        load(ModelRequest("googlenet", str(path)))
    half = (0.5, 0.5, 0.5)
    options = PreprocessingOptions(mean=half, std=half)
    assert load(ModelRequest("googlenet", str(path), None, options)).num_classes == 5


def test_densenet_weights_of_the_old_names(monkeypatch):
    """torchvision's files say `norm.1` where its modules are called `norm1`."""
    torch.manual_seed(7)
    module = torchvision.models.densenet121()
    old = {
        name.replace("norm1", "norm.1").replace("norm2", "norm.2").replace("conv1", "conv.1").replace("conv2", "conv.2")
        if "denselayer" in name
        else name: tensor
        for name, tensor in module.state_dict().items()
        if "num_batches_tracked" not in name
    }
    published_weights(monkeypatch, torchvision.models.DenseNet121_Weights, old)
    assert load(ModelRequest("densenet121")).weights_sha256 == state_dict_sha256(module.state_dict())


# Stems and names of the CIFAR repositories


def cifar_resnet18(num_classes=10):
    """torchvision's ResNet-18 with the stem of kuangliu/pytorch-cifar."""
    torch.manual_seed(8)
    module = torchvision.models.resnet18(num_classes=num_classes)
    module.conv1 = torch.nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    module.maxpool = torch.nn.Identity()
    return module.eval()


@pytest.mark.parametrize("textbook", [False, True])
def test_small_stem_is_read_off_the_shapes(tmp_path, textbook):
    module = cifar_resnet18()
    state_dict = module.state_dict()
    if textbook:
        state_dict = {
            name.replace("downsample", "shortcut").replace("fc.", "linear."): value
            for name, value in state_dict.items()
        }
    torch.save({"net": {f"module.{name}": value for name, value in state_dict.items()}, "epoch": 9}, tmp_path / "c.pth")
    loaded = load(ModelRequest("resnet18", str(tmp_path / "c.pth")))
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(loaded.module(images), module(images))
    assert loaded.preprocessing == CIFAR_PREPROCESSING
    assert loaded.num_classes == 10
    assert loaded.weights_sha256 == state_dict_sha256(module.state_dict())
    notes = " / ".join(loaded.notes)
    assert "conv1 is 3x3 in the file" in notes
    assert ('read "shortcut" as "downsample"' in notes) is textbook
    assert ('read "linear" as "fc"' in notes) is textbook


def test_small_stem_with_another_size(tmp_path):
    torch.save(cifar_resnet18(200).state_dict(), tmp_path / "c.pth")
    options = PreprocessingOptions(input_size=64)
    loaded = load(ModelRequest("resnet18", str(tmp_path / "c.pth"), None, options))
    assert options.applied_to(loaded.preprocessing).input_size == (64, 64)
    assert loaded.num_classes == 200


def test_number_of_classes_of_a_classifier_that_is_not_called_fc(tmp_path):
    torch.save(torchvision.models.mobilenet_v3_small(num_classes=6).state_dict(), tmp_path / "m.pth")
    assert load(ModelRequest("mobilenet_v3_small", str(tmp_path / "m.pth"))).num_classes == 6
    with pytest.raises(WeightsError, match="got --num-classes 5, but the file's classifier has 6 classes"):
        load(ModelRequest("mobilenet_v3_small", str(tmp_path / "m.pth"), 5))
