"""Wrappers and reparametrizations against PyTorch: the same answers, and the caller's stays as it is."""

import copy
import warnings

import pytest
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm
from torch.optim.swa_utils import AveragedModel

from exporter.errors import ModelObjectError
from exporter.models.load_model import load_model
from exporter.models.loaded_model import ModelRequest
from exporter.models.module_source import load_module
from exporter.networks.plain_module import plain_module, store_computed_weights, unwrapped
from exporter.preprocessing.options import PreprocessingOptions
from exporter.tracing.trace import trace

HALF = (0.5, 0.5, 0.5)
OPTIONS = PreprocessingOptions(12, None, HALF, HALF)
IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(5))


def network(seed: int = 3) -> nn.Sequential:
    torch.manual_seed(seed)
    body = [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2)]
    return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def pruned(module: nn.Sequential) -> None:
    prune.l1_unstructured(module[0], "weight", 0.5)
    prune.ln_structured(module[3], "weight", 0.25, 2, 0)
    prune.random_unstructured(module[0], "weight", 0.2)  # twice on one layer: a container of both
    prune.l1_unstructured(module[6], "bias", 1)


def weight_normalized(module: nn.Sequential) -> None:
    old_weight_norm(module[0])
    old_weight_norm(module[3], dim=1)
    old_weight_norm(module[6], dim=None)


def weight_parametrized(module: nn.Sequential) -> None:
    parametrizations.weight_norm(module[0])
    parametrizations.weight_norm(module[6], dim=None)


def spectral_normalized(module: nn.Sequential) -> None:
    old_spectral_norm(module[0])
    old_spectral_norm(module[6])


def spectral_parametrized(module: nn.Sequential) -> None:
    parametrizations.spectral_norm(module[3])


CHANGES = [pruned, weight_normalized, weight_parametrized, spectral_normalized, spectral_parametrized]


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated")
@pytest.mark.parametrize("change", CHANGES)
def test_weights_that_are_computed_become_weights(change) -> None:
    module = network()
    change(module)
    expected = module(IMAGES)  # with gradients, as after training: the weights have a history
    names = list(module.state_dict())
    loaded = load_module(module, OPTIONS)
    torch.testing.assert_close(loaded.module(IMAGES), expected, rtol=0, atol=0)
    assert sorted(loaded.module.state_dict()) == sorted(network().state_dict())
    model, report = trace(loaded.module, IMAGES, opset=20)
    assert [layer for _, layer in report.folded] == ["0"]
    (answers,) = ReferenceEvaluator(model).run(None, {"input": IMAGES.numpy()})
    torch.testing.assert_close(torch.from_numpy(answers), expected, rtol=1e-4, atol=1e-5)
    assert list(module.state_dict()) == names
    torch.testing.assert_close(module(IMAGES), expected, rtol=0, atol=0)


class _Doubled(nn.Module):
    def forward(self, weight):
        return weight * 2


class _Noisy(nn.Module):
    def forward(self, weight):
        return weight + torch.randn_like(weight)


def doubled(module: nn.Sequential) -> None:
    nn.utils.parametrize.register_parametrization(module[6], "weight", _Doubled())


def orthogonal(module: nn.Sequential) -> None:
    parametrizations.orthogonal(module[6])


def doubled_and_normalized(module: nn.Sequential) -> None:
    parametrizations.weight_norm(module[0])
    nn.utils.parametrize.register_parametrization(module[0], "weight", _Doubled())


@pytest.mark.parametrize("change", [doubled, orthogonal, doubled_and_normalized])
def test_other_parametrizations_become_weights_once_loaded(change) -> None:
    module = network()
    change(module)
    expected, names = module(IMAGES), list(module.state_dict())
    assert any("parametrizations" in name for name in plain_module(module).state_dict())  # a file may hold their parts
    loaded = load_module(module, OPTIONS)
    assert sorted(loaded.module.state_dict()) == sorted(network().state_dict())
    torch.testing.assert_close(loaded.module(IMAGES), expected, rtol=0, atol=0)
    model, _ = trace(loaded.module, IMAGES, opset=20)
    (answers,) = ReferenceEvaluator(model).run(None, {"input": IMAGES.numpy()})
    torch.testing.assert_close(torch.from_numpy(answers), expected, rtol=1e-4, atol=1e-5)
    assert list(module.state_dict()) == names


def test_a_parametrization_that_is_never_the_same_is_left() -> None:
    module = network()
    nn.utils.parametrize.register_parametrization(module[6], "weight", _Noisy())
    store_computed_weights(module)
    assert "6.parametrizations.weight.original" in module.state_dict()


def averaged(module: nn.Module) -> nn.Module:
    return AveragedModel(module)


@pytest.mark.parametrize(
    "wrap", [nn.DataParallel, averaged, lambda module: nn.DataParallel(torch.compile(module, backend="eager"))]
)
def test_wrappers_are_taken_off(wrap) -> None:
    module = network()
    loaded = load_module(wrap(copy.deepcopy(module)), OPTIONS)
    assert type(loaded.module) is nn.Sequential
    assert loaded.model_id == "Sequential"
    assert list(loaded.module.state_dict()) == list(module.state_dict())
    torch.testing.assert_close(loaded.module(IMAGES), module(IMAGES), rtol=0, atol=0)


def test_a_wrapper_with_a_hook_does_more_than_the_module() -> None:
    wrapper = nn.DataParallel(network())
    wrapper.register_forward_hook(lambda *_: None)
    assert unwrapped(wrapper) is wrapper


SOURCE = """
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.nn.utils import prune

def pruned():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    prune.l1_unstructured(module[0], "weight", 0.5)
    return nn.DataParallel(module)

class Doubled(nn.Module):
    def forward(self, weight):
        return weight * 2

def doubled():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    nn.utils.parametrize.register_parametrization(module[3], "weight", Doubled())
    return module

class Closed(nn.Module):
    def __deepcopy__(self, memo):
        raise RuntimeError("not this one")

    def forward(self, x):
        return x.mean((2, 3))
"""


@pytest.fixture
def nets(tmp_path, monkeypatch):
    (tmp_path / "nets_of_test_plain.py").write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return "nets_of_test_plain"


def test_a_callable_gives_a_pruned_network(nets, tmp_path) -> None:
    loaded = load_model(ModelRequest(f"{nets}:pruned", preprocessing=OPTIONS))
    weight = loaded.module.state_dict()["0.weight"]
    assert int((weight == 0).sum()) == weight.numel() // 2
    copy.deepcopy(loaded.module)
    trained = network(seed=1)[0].weight  # weights of such a network from a file, in its parts
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    module[0].weight = nn.Parameter(trained.detach().clone())
    prune.l1_unstructured(module[0], "weight", 0.5)
    torch.save(module.state_dict(), tmp_path / "w.pth")
    loaded = load_model(ModelRequest(f"{nets}:pruned", str(tmp_path / "w.pth"), None, OPTIONS))
    torch.testing.assert_close(loaded.module(IMAGES), module(IMAGES), rtol=0, atol=0)


def test_weights_of_a_parametrization_of_ones_own_come_from_a_file(nets, tmp_path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    nn.utils.parametrize.register_parametrization(module[3], "weight", _Doubled())
    torch.save(module.state_dict(), tmp_path / "w.pth")
    loaded = load_model(ModelRequest(f"{nets}:doubled", str(tmp_path / "w.pth"), None, OPTIONS))
    torch.testing.assert_close(loaded.module(IMAGES), module(IMAGES), rtol=0, atol=0)
    assert "3.weight" in loaded.module.state_dict()


def test_what_cannot_be_copied_is_refused(nets) -> None:
    with pytest.raises(ModelObjectError, match=r"Closed: it cannot be copied .RuntimeError: not this one"):
        load_model(ModelRequest(f"{nets}:Closed", preprocessing=OPTIONS))
