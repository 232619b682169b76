"""Dataclasses as JSON: order, nesting, forms of their own, and the committed bundle written again byte for byte."""

import json
from collections import OrderedDict
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from types import MappingProxyType

import pytest

from calibration.ranges.calibration_table import CalibrationTable
from runtimes.bundle.manifest import load_manifest
from runtimes.io.json_fields import JsonFields, json_fields, json_value

EXAMPLE = Path(__file__).parents[2] / "data" / "bundle-schema-1"


class Color(Enum):
    RED = "red"


@dataclass(frozen=True, slots=True)
class Inner:
    second: tuple[int, ...]
    first: Color


class OwnForm:
    def to_json(self):
        return "own"


@dataclass(frozen=True, slots=True)
class Outer(JsonFields):
    z: Inner
    a: object
    own: OwnForm


def test_fields_keep_their_order_and_values_become_what_json_knows():
    outer = Outer(Inner((1, 2), Color.RED), MappingProxyType({"x": ((1, "n"), (2.5, None))}), OwnForm())
    written = outer.to_json()
    assert written == {"z": {"second": [1, 2], "first": "red"}, "a": {"x": [[1, "n"], [2.5, None]]}, "own": "own"}
    assert list(written) == ["z", "a", "own"]
    assert json.loads(json.dumps(written)) == written, "no tuple, no enum is left"


@pytest.mark.parametrize("value", [None, True, 0, 1.5, "text", Inner])
def test_what_json_knows_and_classes_stay_as_they_are(value):
    assert json_value(value) is value


def test_a_form_of_its_own_may_add_to_the_fields():
    @dataclass(frozen=True, slots=True)
    class Longer(JsonFields):
        one: int

        def to_json(self):
            return {"schema": 1, **json_fields(self)}

    assert json_value([Longer(2)]) == [{"schema": 1, "one": 2}]


def test_an_ordered_mapping_keeps_its_order():
    assert list(json_value(OrderedDict([("b", 1), ("a", 2)]))) == ["b", "a"]


def test_the_committed_bundle_is_written_as_it_was():
    """Keys in their order, numbers in their format: hashes and baselines depend on the bytes."""
    for name, again in (
        ("manifest.json", load_manifest(EXAMPLE).to_json()),
        (
            "calibration.json",
            CalibrationTable.from_json(json.loads((EXAMPLE / "calibration.json").read_text())).to_json(),
        ),
    ):
        content = json.loads((EXAMPLE / name).read_text(encoding="utf-8"))
        if name == "calibration.json":
            content["schema_version"] = again["schema_version"]
        assert json.dumps(again) == json.dumps(content), name
