"""Classifiers that fine-tuning changed, and networks among the tensors of other parts."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from exporter.checkpoints.network_prefix import network_among
from exporter.checkpoints.replaced_head import ACTIVATIONS
from exporter.errors import AmbiguousModelError, WeightsError
from exporter.models.load_model import load_any, load_model
from exporter.models.loaded_model import HEAD_ACTIVATIONS, ModelRequest
from exporter.networks.cifar_resnet import CifarResNet
from exporter.preprocessing.options import PreprocessingOptions

NAME = "cifar_resnet20"
MLP = (nn.Linear(64, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 7))


def network(head):
    torch.manual_seed(0)
    module = CifarResNet(20, 7)
    module.fc = head if head is not None else module.fc
    return module.eval()


def request(path, **options):
    return ModelRequest(NAME, str(path), preprocessing=PreprocessingOptions(mean=(0.5,) * 3, std=(0.5,) * 3), **options)


def saved(state_dict, path):
    torch.save(state_dict, path)
    return path


def assert_answers_alike(left, right):
    images = torch.rand(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(left(images), right(images), rtol=0, atol=0)


def linear(bias=True):
    return nn.Linear(64, 7, bias=bias)


@pytest.mark.parametrize(
    ("head", "read"),
    [
        (nn.Sequential(nn.Dropout(0.2), linear()), "fc.1"),
        (nn.Sequential(linear()), "fc.0"),
        (nn.Sequential(nn.Dropout(0.2), nn.Flatten(), linear()), "fc.2"),
        (nn.ModuleDict({"linear": linear()}), "fc.linear"),
    ],
)
def test_one_linear_somewhere_in_fc(tmp_path, head, read):
    module = network(head)
    loaded = load_model(request(saved(module.state_dict(), tmp_path / "w.pth")))
    assert loaded.num_classes == 7
    assert any(f'read "{read}" as "fc"' in note for note in loaded.notes)
    plain = network(next(child for child in head.modules() if isinstance(child, nn.Linear)))
    assert_answers_alike(loaded.module, plain)


@pytest.mark.parametrize("name", ["classifier", "head", "last_linear", "linear"])
def test_another_name_for_fc(tmp_path, name):
    module = network(None)
    renamed = {key.replace("fc.", f"{name}."): value for key, value in module.state_dict().items()}
    loaded = load_model(request(saved(renamed, tmp_path / "w.pth")))
    assert_answers_alike(loaded.module, module)


def test_a_head_beside_a_backbone_as_in_a_lightning_module(tmp_path):
    module = network(None)
    body = {f"model.backbone.{key}": value for key, value in module.state_dict().items() if not key.startswith("fc.")}
    head = {"classifier.1.weight": module.fc.weight, "classifier.1.bias": module.fc.bias}
    path = saved({"state_dict": {**body, **head, "criterion.weight": torch.ones(7)}}, tmp_path / "w.ckpt")
    assert_answers_alike(load_model(request(path)).module, module)


def test_a_head_without_bias_and_a_convolution_as_head(tmp_path):
    module = network(linear(bias=False))
    assert_answers_alike(load_model(request(saved(module.state_dict(), tmp_path / "a.pth"))).module, module)
    module = network(None)
    weights = {**module.state_dict(), "fc.weight": module.fc.weight[:, :, None, None]}
    weights = {key.replace("fc.", "classifier."): value for key, value in weights.items()}
    assert_answers_alike(load_model(request(saved(weights, tmp_path / "b.pth"))).module, module)


def test_no_head_gives_features_and_says_so(tmp_path):
    module = network(nn.Identity())
    loaded = load_model(request(saved(module.state_dict(), tmp_path / "w.pth")))
    assert loaded.num_classes == 64
    assert "the file has no classifier" in loaded.warnings[0]
    assert_answers_alike(loaded.module, module)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_several_linears_with_the_activation_that_was_said(tmp_path, activation):
    module = network(nn.Sequential(MLP[0], ACTIVATIONS[activation](), *MLP[2:]))
    loaded = load_model(request(saved(module.state_dict(), tmp_path / "w.pth"), head_activation=activation))
    assert any("fc.0, fc.3" in note for note in loaded.notes)
    assert_answers_alike(loaded.module, module)


def test_several_linears_without_a_word_are_refused_with_their_names_and_what_to_say(tmp_path):
    path = saved(network(nn.Sequential(*MLP)).state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"fc\.0, fc\.3.*--head-activation relu.*package\.module:callable"):
        load_model(request(path))


def test_a_head_with_batchnorm(tmp_path):
    head = nn.Sequential(nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 7))
    module = network(head)
    module.fc[1].running_mean.uniform_()
    loaded = load_model(request(saved(module.state_dict(), tmp_path / "w.pth"), head_activation="relu"))
    assert_answers_alike(loaded.module, module)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda weights: {**weights, "fc.0.weight": torch.ones(16, 63)}, r"fc\.0 takes 63 numbers, but 64 come in"),
        (lambda weights: {**weights, "fc.1.gamma": torch.ones(3)}, r"fc\.1 \(gamma \[3\]\) that is no Linear"),
        (lambda weights: {**weights, "fc.deep.weight": torch.ones(3, 3)}, r"no row of layers: it has fc\.deep"),
        (lambda weights: {key: value for key, value in weights.items() if "layer1.0.conv1" not in key}, "missing"),
    ],
)
def test_heads_that_cannot_be_told_are_refused(tmp_path, change, words):
    weights = change(network(nn.Sequential(*MLP)).state_dict())
    with pytest.raises(WeightsError, match=words):
        load_model(request(saved(weights, tmp_path / "w.pth"), head_activation="relu"))


def test_two_classifiers_are_refused(tmp_path):
    module = network(nn.Identity())
    weights = {**module.state_dict(), "head.weight": torch.ones(3, 64), "classifier.weight": torch.ones(4, 64)}
    with pytest.raises(WeightsError, match=r"several classifiers of 64 inputs \((head, classifier|classifier, head)\)"):
        load_model(request(saved(weights, tmp_path / "w.pth")))


def test_the_command_line_offers_the_activations_there_are():
    assert set(HEAD_ACTIVATIONS) == set(ACTIVATIONS)


# Prefixes and keys


@pytest.mark.parametrize("prefix", ["model.", "net.", "module.model.", "student.backbone.", "my_network."])
def test_the_network_is_found_among_other_tensors(tmp_path, prefix):
    module = network(None)
    weights = {f"{prefix}{key}": value for key, value in module.state_dict().items()}
    others = {"criterion.weight": torch.ones(7), "val_acc.tp": torch.zeros(7), "val_acc.fp": torch.zeros(7)}
    loaded = load_model(request(saved({"state_dict": {**weights, **others}}, tmp_path / "w.ckpt")))
    assert_answers_alike(loaded.module, module)
    assert any("left aside 3 tensors of other parts: criterion.weight, val_acc.tp" in note for note in loaded.notes)


@pytest.mark.parametrize(
    ("prefix", "copy", "keys"),
    [
        ("model.", "ema_model", ["ema_model"]),
        ("model.encoder.", "model.ema.module", ["ema.module", "model.ema.module"]),
    ],
)
def test_of_two_networks_the_usual_one_is_taken_the_other_told_and_had_by_its_key(tmp_path, prefix, copy, keys):
    first, second = network(None), network(None)
    torch.nn.init.ones_(second.fc.bias)
    weights = {f"{copy}.{key}": value for key, value in second.state_dict().items()}
    weights |= {f"{prefix}{key}": value for key, value in first.state_dict().items()}
    path = saved({"state_dict": weights}, tmp_path / "w.ckpt")
    loaded = load_model(request(path))
    assert_answers_alike(loaded.module, first)
    assert f"another whole network under {keys[0]}: not used; --checkpoint-key takes it" in loaded.warnings[0]
    for key in keys:
        assert_answers_alike(load_model(request(path, checkpoint_key=key)).module, second)


@pytest.mark.parametrize("prefix", ["net.backbone.", "backbone.", "model.encoder.", "model.net.backbone."])
@pytest.mark.parametrize("copied", [False, True])
def test_what_stands_beside_the_network_under_its_first_word_is_left_aside(tmp_path, prefix, copied):
    """An averaged network, and the counts it keeps; the first word alone has as many known names."""
    module = network(None)
    beside = prefix.partition(".")[0] + ".ema." if prefix.count(".") > 1 else "ema."
    others = {f"{beside}decay": torch.tensor(0.999), f"{beside}num_updates": torch.tensor(3)}
    if copied:
        others |= {f"{beside}module.{key}": torch.zeros_like(value) for key, value in module.state_dict().items()}
    weights = {**others, **{f"{prefix}{key}": value for key, value in module.state_dict().items()}}
    loaded = load_model(request(saved({"state_dict": weights}, tmp_path / "w.ckpt")))
    assert_answers_alike(loaded.module, module)
    assert any(f"left aside {len(others)} tensors" in note and "ema.decay" in note for note in loaded.notes)
    assert any("another whole network" in warning for warning in loaded.warnings) == copied


def flat(**parts):
    return {f"{prefix}.{key}": value for prefix, part in parts.items() for key, value in part.items()}


def test_of_equal_networks_none_is_taken_unasked(tmp_path):
    """Momentum contrast, an ensemble, two branches; one registered under two names is one."""
    first, second = network(None).state_dict(), {key: value + 1 for key, value in network(None).state_dict().items()}
    for names in (("encoder_q", "encoder_k"), ("models.0", "models.1"), ("net", "model")):
        path = saved({"state_dict": flat(**dict(zip(names, (first, second), strict=True)))}, tmp_path / "w.ckpt")
        with pytest.raises(
            WeightsError, match=rf"several whole networks \({min(names)}, {max(names)}\).*checkpoint-key"
        ):
            load_model(request(path))
        loaded = load_model(request(path, checkpoint_key=names[0]))
        assert torch.equal(loaded.module.fc.bias, first["fc.bias"])
    load_model(request(saved(flat(net=first, model=first), tmp_path / "w.ckpt")))


def test_a_copy_inside_of_the_network_is_not_the_network(tmp_path):
    """`self.ema = deepcopy(self)`, which took the place of the network."""
    first, second = network(None).state_dict(), {key: value + 1 for key, value in network(None).state_dict().items()}
    for own, copy in (("", "ema."), ("model.", "model.ema.")):
        weights = {f"{own}{key}": value for key, value in first.items()}
        weights |= {f"{copy}{key}": value for key, value in second.items()}
        loaded = load_model(request(saved({"state_dict": weights}, tmp_path / "w.ckpt")))
        assert torch.equal(loaded.module.fc.bias, first["fc.bias"])
        assert "another whole network under ema: not used" in loaded.warnings[0]
        loaded = load_model(request(tmp_path / "w.ckpt", checkpoint_key="ema"))
        assert torch.equal(loaded.module.fc.bias, second["fc.bias"])


def test_two_dictionaries_of_networks_are_a_warning_and_said_where_the_first_does_not_fit(tmp_path):
    first, other = network(None).state_dict(), CifarResNet(32, 7).state_dict()
    loaded = load_model(request(saved({"generator": other, "model": first}, tmp_path / "w.pth")))
    assert "also holds generator: not used; --checkpoint-key takes another" in loaded.warnings[0]
    with pytest.raises(WeightsError, match=r"do not fit.*under \"state_dict\" \(the file also holds net: not used"):
        load_model(request(saved({"state_dict": other, "net": first}, tmp_path / "w.pth")))
    loaded = load_model(request(saved({"model": first, "criterion": {"weight": torch.ones(7)}}, tmp_path / "w.pth")))
    assert loaded.warnings == ()


def test_auto_says_that_two_networks_are_in_the_file(tmp_path):
    path = saved(flat(student=network(None).state_dict(), teacher=CifarResNet(32, 7).state_dict()), tmp_path / "w.pth")
    with pytest.raises(AmbiguousModelError, match=r"checkpoint-key: the file has parts student, teacher"):
        load_model(replace(request(path), name="auto"))


def test_a_head_beside_the_backbone_is_not_left_aside(tmp_path):
    module = network(None)
    weights = {
        f"net.head.{key}" if key.startswith("fc.") else f"net.backbone.{key}": value
        for key, value in module.state_dict().items()
    }
    loaded = load_model(request(saved({"state_dict": weights}, tmp_path / "w.ckpt")))
    assert_answers_alike(loaded.module, module)


@pytest.mark.parametrize("key", ["state_dict_ema", "ema.module", "ema", "teacher", "model_ema"])
def test_checkpoint_key(tmp_path, key):
    plain, other = network(None), network(None)
    torch.nn.init.ones_(other.fc.bias)
    ema = {"module": other.state_dict(), "updates": 3}
    payload = {"state_dict": plain.state_dict(), "ema": ema, "optimizer": {"state": {0: {"m": torch.ones(1)}}}}
    payload |= {name: other.state_dict() for name in ("state_dict_ema", "teacher", "model_ema")}
    path = saved(payload, tmp_path / "w.pth")
    assert_answers_alike(load_model(request(path)).module, plain)
    assert_answers_alike(load_model(request(path, checkpoint_key=key)).module, other)


def test_a_key_that_is_not_there_lists_what_is(tmp_path):
    payload = {"teacher": network(None).state_dict(), "student": network(None).state_dict()}
    path = saved(payload, tmp_path / "w.pth")
    with pytest.raises(WeightsError, match="ema: no weights under that key; it holds teacher, student"):
        load_model(request(path, checkpoint_key="ema"))
    with pytest.raises(WeightsError, match=r"several dictionaries of weights \(teacher, student\).*--checkpoint-key"):
        load_model(request(path))


def test_a_prefix_under_which_tensors_are_missing_is_still_an_error(tmp_path):
    weights = {
        f"model.{key}": value for key, value in network(None).state_dict().items() if "layer2.0.conv1" not in key
    }
    with pytest.raises(WeightsError, match=r"missing from the file: layer2\.0\.conv1\.weight"):
        load_model(request(saved({"state_dict": {**weights, "criterion.weight": torch.ones(7)}}, tmp_path / "w.ckpt")))


def test_names_that_are_all_wanted_stay():
    given = {"a.b": torch.ones(1), "b": torch.ones(1)}
    network_found = network_among(given, {"a.b", "b"}.__contains__)
    assert network_found.state_dict.keys() == given.keys()
    assert network_found.notes == ()


@pytest.mark.parametrize("weights", ["random", "DEFAULT", "IMAGENET1K_V1"])
@pytest.mark.parametrize("option", [{"checkpoint_key": "ema"}, {"head_activation": "relu"}])
def test_what_is_said_of_a_file_needs_one(weights, option):
    (name,) = option
    with pytest.raises(WeightsError, match=rf"--{name.replace('_', '-')} .*--weights {weights} is none; leave it out"):
        load_model(ModelRequest("resnet18", weights, **option))


@pytest.mark.parametrize("option", [{"checkpoint_key": "ema"}, {"head_activation": "relu"}])
def test_what_is_said_of_a_file_needs_one_elsewhere_too(option, tmp_path):
    options = {"weights": "DEFAULT", "num_classes": None, "preprocessing": PreprocessingOptions(), **option}
    with pytest.raises(WeightsError, match="a module brings its own weights"):
        load_any(nn.Identity(), **options)
    with pytest.raises(WeightsError, match="an ONNX file holds its weights"):
        load_any(tmp_path / "model.onnx", **options)


@pytest.mark.parametrize("head", ["own", "dropout", "none at all", "no gap"])
def test_an_activation_that_stands_nowhere_is_refused(head, tmp_path):
    """It was left unused in silence, as if it were in the file."""
    heads = {
        "own": linear(),
        "dropout": nn.Sequential(nn.Dropout(), linear()),
        "none at all": nn.Identity(),
        "no gap": nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)),
    }
    module = network(heads[head])
    path = saved(module.state_dict(), tmp_path / "w.pth")
    with pytest.raises(WeightsError, match=r"--head-activation gelu: .*; leave it out"):
        load_model(request(path, head_activation="gelu"))
    assert load_model(request(path, head_activation="none")).module is not None


@pytest.mark.parametrize("weights", ["best.pth", "random", "IMAGENET1K_V1"])
def test_weights_beside_a_module_are_refused(weights):
    """The module's own were exported in silence."""
    with pytest.raises(WeightsError, match=rf"a module and the weights '{weights}'; a module brings its own: call"):
        load_any(nn.Identity(), weights=weights, num_classes=None, preprocessing=PreprocessingOptions())
