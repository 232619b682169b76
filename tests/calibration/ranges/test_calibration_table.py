"""CalibrationTable and TensorRange: JSON in and out, and what is refused."""

from __future__ import annotations

import copy
import json

import pytest

from calibration.errors import CalibrationError
from calibration.methods.dialect import Dialect
from calibration.ranges.calibration_table import SCHEMA_VERSION, CalibrationTable, TensorRange


@pytest.fixture
def table() -> CalibrationTable:
    return CalibrationTable(
        ranges={"relu": TensorRange(12.7, 0.1, 13.5), "layer1.0.relu": TensorRange(127.0, 1.0, 127.0)},
        method={"name": "percentile", "percentile": 99.99},
        num_images=512,
        input_mean=(0.1, -0.2, 0.3),
        input_std=(1.0, 1.1, 0.9),
        image_list_sha256="ab" * 32,
        seed=7,
    )


def test_json_as_it_is_written(table):
    content = table.to_json()
    assert content["schema_version"] == SCHEMA_VERSION == 2
    assert content["dialect"] == "tensorrt"
    assert content["tensors"]["relu"] == {"amax": 12.7, "scale": 0.1, "max_abs": 13.5, "method": "percentile"}
    assert list(content["tensors"]) == ["relu", "layer1.0.relu"]
    assert (content["num_images"], content["seed"], content["input_mean"]) == (512, 7, [0.1, -0.2, 0.3])


def test_round_trip_through_text(table):
    text = json.dumps(table.to_json(), allow_nan=False)
    again = CalibrationTable.from_json(json.loads(text))
    assert again == table
    assert list(again.ranges) == list(table.ranges)
    assert isinstance(again.input_mean, tuple)


def test_round_trip_of_the_defaults():
    table = CalibrationTable({}, {"name": "mse"}, 1, (), ())
    assert CalibrationTable.from_json(table.to_json()) == table
    assert (table.image_list_sha256, table.seed) == ("", None)


def test_to_json_gives_copies(table):
    table.to_json()["method"]["name"] = "changed"
    table.to_json()["input_mean"].append(5)
    assert table.method["name"] == "percentile"
    assert len(table.input_mean) == 3


UNSIGNED = TensorRange(5.0, 0.03, 5.5, 85, "uint8", min_value=-2.5, max_value=5.5)


def test_unsigned_ranges_in_json():
    table = CalibrationTable({"x": UNSIGNED}, {"name": "mse"}, 1, (), (), dialect=Dialect.ONNXRUNTIME)
    content = json.loads(json.dumps(table.to_json()))
    assert content["dialect"] == "onnxruntime"
    assert content["tensors"]["x"] == {
        "amax": 5.0,
        "scale": 0.03,
        "max_abs": 5.5,
        "zero_point": 85,
        "dtype": "uint8",
        "min_value": -2.5,
        "max_value": 5.5,
        "method": "mse",
    }
    assert CalibrationTable.from_json(content) == table


def test_a_table_of_version_1_is_read():
    """As the first release wrote it, letter by letter."""
    text = """{"schema_version": 1, "method": {"name": "mse"}, "num_images": 256, "image_list_sha256": "ab", "seed": 0,
        "input_mean": [0.1], "input_std": [1.0],
        "tensors": {"relu": {"amax": 12.7, "scale": 0.1, "max_abs": 13.5, "method": "mse"}}}"""
    table = CalibrationTable.from_json(json.loads(text))
    assert table.dialect is Dialect.TENSORRT
    assert table.ranges == {"relu": TensorRange(12.7, 0.1, 13.5)}
    assert (table.ranges["relu"].dtype, table.ranges["relu"].zero_point) == ("int8", 0)


@pytest.mark.parametrize(
    ("zero_point", "dtype"), [(1, "int8"), (-1, "uint8"), (256, "uint8"), (0.5, "uint8"), (0, "int16"), (0, "float32")]
)
def test_levels_that_no_dialect_has(zero_point, dtype):
    with pytest.raises(CalibrationError, match="a range needs dtype int8 with zero_point 0 or uint8 with 0 to 255"):
        TensorRange(1.0, 1.0, 1.0, zero_point, dtype)


def test_an_unknown_dialect(table):
    with pytest.raises(CalibrationError, match="'tflite'"):
        CalibrationTable.from_json({**table.to_json(), "dialect": "tflite"})


@pytest.mark.parametrize("schema", [0, 3, "1", None])
def test_another_schema_says_which(table, schema):
    content = {**table.to_json(), "schema_version": schema}
    with pytest.raises(CalibrationError, match=f"got schema {schema}, expected 1 or 2"):
        CalibrationTable.from_json(content)


def test_without_a_schema(table):
    with pytest.raises(CalibrationError, match="got schema None"):
        CalibrationTable.from_json({})


@pytest.mark.parametrize(
    "key", ["tensors", "method", "num_images", "input_mean", "input_std", "image_list_sha256", "seed", "dialect"]
)
def test_every_key_is_needed(table, key):
    content = table.to_json()
    del content[key]
    with pytest.raises(CalibrationError, match=f"'{key}'"):
        CalibrationTable.from_json(content)


@pytest.mark.parametrize("key", ["amax", "scale", "max_abs"])
def test_every_key_of_a_tensor_is_needed(table, key):
    content = copy.deepcopy(table.to_json())
    del content["tensors"]["relu"][key]
    with pytest.raises(CalibrationError, match=f"'{key}'"):
        CalibrationTable.from_json(content)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tensors", []),
        ("tensors", None),
        ("tensors", {"relu": 3}),
        ("tensors", {"relu": None}),
        ("tensors", {"relu": {"amax": "wide", "scale": 1.0, "max_abs": 1.0}}),
        ("method", "mse"),
        ("method", None),
        ("input_mean", 0.5),
    ],
)
def test_wrong_types_are_calibration_errors(table, key, value):
    with pytest.raises(CalibrationError, match="wrong type"):
        CalibrationTable.from_json({**table.to_json(), key: value})


@pytest.mark.parametrize("content", [[], None, "table", 3])
def test_what_is_no_object_is_refused(content):
    with pytest.raises(CalibrationError, match="expected an object"):
        CalibrationTable.from_json(content)


@pytest.mark.parametrize(
    ("amax", "scale", "max_abs"),
    [
        (0.0, 1.0, 1.0),
        (-1.0, 1.0, 1.0),
        (float("nan"), 1.0, 1.0),
        (float("inf"), 1.0, 1.0),
        (1.0, 0.0, 1.0),
        (1.0, -0.1, 1.0),
        (1.0, float("nan"), 1.0),
        (1.0, float("inf"), 1.0),
        (1.0, 1e-60, 1.0),  # > 0 here, 0 in the file
        (1.0, 1e60, 1.0),  # finite here, Inf in the file
        (1.0, 1.0, float("nan")),
        (1.0, 1.0, -1.0),
        (1.0, 1.0, float("inf")),
    ],
)
def test_ranges_that_no_engine_takes(amax, scale, max_abs):
    with pytest.raises(CalibrationError, match="a range needs"):
        TensorRange(amax, scale, max_abs)
    bad = {"amax": amax, "scale": scale, "max_abs": max_abs}
    content = CalibrationTable({}, {"name": "mse"}, 1, (), ()).to_json()
    with pytest.raises(CalibrationError, match="a range needs"):
        CalibrationTable.from_json({**content, "tensors": {"x": bad}})


def test_ranges_that_are_fine():
    TensorRange(1e-10, 1e-12, 0.0)  # a dead tensor
    TensorRange(1.0, 1 / 127, 5.0)  # clipped
    TensorRange(3e38, 2.4e36, 3e38)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_images", "4"),
        ("num_images", True),
        ("method", {}),
        ("method", {"name": 1}),
        ("input_mean", [10**400]),
        ("input_std", ["1"]),
        ("seed", 1.5),
        ("image_list_sha256", None),
        ("tensors", {"x": {"amax": 10**400, "scale": 1.0, "max_abs": 1.0}}),
        ("tensors", {"x": {"amax": 1.0, "scale": 10**400, "max_abs": 1.0}}),
        ("tensors", {"x": {"amax": 1.0, "scale": 1.0, "max_abs": 1.0, "zero_point": 0.0}}),
        ("tensors", {"x": {"amax": 1.0, "scale": 1.0, "max_abs": 1.0, "min_value": "low"}}),
        ("tensors", {"x": {"amax": True, "scale": 1.0, "max_abs": 1.0}}),
    ],
)
def test_values_of_a_wrong_kind_are_refused_when_read(key, value):
    """Found by mutated files: they were read, and failed later with an error of Python's."""
    good = {
        "schema_version": 2,
        "dialect": "tensorrt",
        "method": {"name": "max"},
        "num_images": 4,
        "image_list_sha256": "",
        "seed": None,
        "input_mean": [0.0],
        "input_std": [1.0],
        "tensors": {"x": {"amax": 1.0, "scale": 1.0, "max_abs": 1.0}},
    }
    assert CalibrationTable.from_json(good).num_images == 4
    with pytest.raises(CalibrationError, match=r"calibration table: .*wrong type"):
        CalibrationTable.from_json({**good, key: value})
