"""What a registry takes, what it refuses, and that entry points are read late and judged."""

from importlib import metadata

import pytest

from runtimes.errors import RegistryError
from runtimes.registry import Registry

GROUP = "resnet_export.numbers"


@pytest.fixture
def numbers():
    return Registry("number", float, group=GROUP, builtin={"pi": "math:pi", "e": "math:e"})


@pytest.fixture
def declared(monkeypatch):
    """Entry points as other packages declare them; the list tells how often they were asked for."""
    asked = []
    entries = [
        metadata.EntryPoint("tau", "math:tau", GROUP),
        metadata.EntryPoint("pi", "math:e", GROUP),
        metadata.EntryPoint("missing", "math:nothing", GROUP),
        metadata.EntryPoint("word", "string:digits", GROUP),
    ]

    def entry_points(*, group):
        asked.append(group)
        return [entry for entry in entries if entry.group == group]

    monkeypatch.setattr(metadata, "entry_points", entry_points)
    return asked


def test_builtin_names_come_first_and_ask_nobody(numbers, declared):
    assert numbers["pi"] == numbers.named("pi") == pytest.approx(3.14159265)
    assert not declared
    assert list(numbers) == ["pi", "e", "tau", "missing", "word"]
    assert len(numbers) == 5
    assert declared == [GROUP]


def test_a_registered_thing_is_found_and_taken_back(numbers):
    numbers.register("half", 0.5)
    numbers.register("half", numbers["half"])  # the same once more: a module that is imported twice
    assert numbers["half"] == 0.5
    assert "half" in numbers
    numbers.unregister("half")
    assert "half" not in numbers


def test_an_entry_point_cannot_stand_in_for_a_builtin(numbers, declared):
    assert numbers["tau"] == pytest.approx(6.2831853)
    assert numbers["pi"] == pytest.approx(3.14159265)


def test_an_unknown_name_lists_all(numbers, declared):
    with pytest.raises(ValueError, match="number: got 'phi', expected one of pi, e, tau, missing, word"):
        numbers.named("phi")
    assert numbers.get("phi") is None


def test_an_entry_point_that_fails_names_its_origin(numbers, declared):
    assert "missing" in numbers  # nothing is imported to tell
    with pytest.raises(RegistryError, match=r"number 'missing', which a package declares as math:nothing, cannot be"):
        numbers["missing"]
    with pytest.raises(RegistryError, match=r"'word', which a package declares as string:digits: .* expected a float"):
        numbers.named("word")


@pytest.mark.parametrize(
    ("name", "item", "error", "problem"),
    [
        ("half", "0.5", TypeError, "got '0.5', expected a float"),
        ("pi", 3.0, ValueError, "'pi' is taken"),
        ("two halves", 1.0, ValueError, "expected a word of letters"),
        ("", 1.0, ValueError, "expected a word of letters"),
        ("a,b", 1.0, ValueError, "expected a word of letters"),
        ("third", 0.3, ValueError, "'third' is taken"),
    ],
)
def test_what_cannot_be_registered(numbers, name, item, error, problem):
    numbers.register("third", 1 / 3)
    with pytest.raises(error, match=problem):
        numbers.register(name, item)
