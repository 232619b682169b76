import pytest
import torch

from exporter.checkpoints.weight_names import conventional_names, fit_names

OURS = ("conv1.weight", "layer1.0.downsample.0.weight", "layer1.0.downsample.1.bias", "fc.weight")


def weights(names):
    return {name: torch.full((1,), float(place)) for place, name in enumerate(names)}


@pytest.mark.parametrize(
    ("names", "notes"),
    [
        (OURS, []),
        (
            ("conv1.weight", "layer1.0.shortcut.0.weight", "layer1.0.shortcut.1.bias", "fc.weight"),
            ['read "shortcut" as "downsample"'],
        ),
        (
            ("conv1.weight", "layer1.0.shortcut.0.weight", "layer1.0.shortcut.1.bias", "linear.weight"),
            ['read "shortcut" as "downsample"', 'read "linear" as "fc"'],
        ),
        (
            tuple(f"net.{name}" for name in ("conv1.weight", *OURS[1:3], "linear.weight")),
            ['cut the prefix "net." off every name', 'read "linear" as "fc"'],
        ),
        (
            (*(f"backbone.{name}" for name in OURS[:3]), "head.fc.weight"),
            ['cut "backbone." off and read "head.fc" as "fc"'],
        ),
    ],
)
def test_conventions_are_followed_and_told(names, notes):
    fitted, got = fit_names(weights(names), OURS)
    assert {name: float(value) for name, value in fitted.items()} == {name: place for place, name in enumerate(OURS)}
    assert got == notes


def test_names_that_fit_are_left_alone():
    """An architecture with modules of these names keeps them."""
    names = ("shortcut.weight", "linear.weight", "head.fc.weight", "backbone.conv.weight")
    fitted, notes = fit_names(weights(names), names)
    assert (tuple(fitted), notes) == (names, [])


def test_a_rule_that_would_merge_two_weights_is_not_used():
    given = weights(("linear.weight", "fc.weight"))
    fitted, notes = fit_names(given, ("fc.weight", "x"))
    assert (set(fitted), notes) == ({"linear.weight", "fc.weight"}, [])


def test_heads_of_training_are_left_out_and_counted():
    fitted, notes = fit_names(weights(("a", "aux1.x", "aux2.x")), ("a",), ignored_prefixes=("aux1.", "aux2."))
    assert set(fitted) == {"a"}
    assert notes == ["left out 2 weights of heads that only training uses (aux1.x, ...)"]


def test_unknown_names_stay_for_the_strict_fit():
    given = weights((*OURS, "extra.weight"))
    assert set(fit_names(given, OURS)[0]) == set(given)


def test_conventional_names_without_an_architecture():
    assert set(conventional_names(weights(("layer1.0.shortcut.0.weight", "linear.bias")))) == {
        "layer1.0.downsample.0.weight",
        "fc.bias",
    }
