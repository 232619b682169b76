import pytest
import torch
from torch import nn

from exporter.checkpoints.weight_layout import WeightLayout, fingerprint, layout_of, shapes_of, without_values


class Two(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.bn = nn.BatchNorm2d(4)
        self.head = nn.Conv2d(4, num_classes, 1)


def test_layout_tells_the_classifier():
    layout = layout_of(Two)
    assert layout.classifier == ("head.bias", "head.weight")
    assert layout.shapes["head.weight"] == (None, 4, 1, 1)
    assert layout.shapes["conv.weight"] == (4, 3, 3, 3)
    assert not any("num_batches_tracked" in name for name in layout.shapes)


def test_number_of_classes_of_a_checkpoint():
    layout = layout_of(Two)
    state_dict = Two(7).state_dict()
    assert layout.num_classes_of(state_dict) == 7
    assert layout.num_classes_of({}) is None
    assert layout.num_classes_of({**state_dict, "head.bias": torch.ones(8)}) is None
    assert layout.num_classes_of({"head.weight": torch.ones(7)}) is None


def test_fingerprint_depends_on_names_and_shapes_alone():
    shapes = {"a": (1, 2), "b": (3,)}
    assert fingerprint(shapes) == fingerprint({"b": (3,), "a": (1, 2)}) == WeightLayout(shapes).fingerprint
    others = [{"a": (2, 1), "b": (3,)}, {"a": (1, 2), "c": (3,)}, {"a": (1, 2)}, {"a": (None, 2), "b": (3,)}]
    assert len({fingerprint(other) for other in [shapes, *others]}) == 5
    assert layout_of(Two).fingerprint != fingerprint(shapes_of(Two(5).state_dict()))


def test_nothing_is_allocated_and_the_random_state_stays():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    module = without_values(lambda n: nn.Linear(100_000, n), 100_000)
    assert module.weight.is_meta
    assert torch.equal(torch.rand(1), expected)


def test_a_network_that_computes_with_values_while_it_is_built():
    def build(num_classes):
        return nn.Linear(int(torch.ones(2).sum().item()), num_classes)

    module = without_values(build, 3)
    assert module.weight.is_meta
    assert module.weight.shape == (3, 2)


def test_errors_of_the_builder_are_its_own():
    with pytest.raises(ValueError, match="mine"):
        without_values(lambda n: (_ for _ in ()).throw(ValueError("mine")), 3)


class DrawsInEveryWay(nn.Module):
    def __init__(self, num_classes):
        super().__init__()
        self.fc = nn.Linear(3, num_classes)
        self.scale = nn.Parameter(torch.empty(5).uniform_(0, 1))
        nn.init.trunc_normal_(tensor=self.fc.weight, std=0.02)
        assert nn.init.zeros_(self.fc.bias) is self.fc.bias
        assert self.scale.data.normal_().shape == (5,)


def test_initial_weights_are_not_drawn_but_there():
    before = torch.random.get_rng_state()
    module = without_values(DrawsInEveryWay, 7)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()} == {
        "fc.weight": (7, 3),
        "fc.bias": (7,),
        "scale": (5,),
    }
    assert all(tensor.is_meta for tensor in module.state_dict().values())
    drawn = DrawsInEveryWay(7)  # and elsewhere they still are
    assert drawn.fc.weight.abs().sum() > 0
