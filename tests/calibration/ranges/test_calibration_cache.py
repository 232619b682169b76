"""A hit gives what a miss computes; each part of the key counts; nothing damaged is ever taken."""

from __future__ import annotations

import dataclasses
import json
import os

import numpy as np
import pytest
from graph_builder import GraphBuilder

from calibration.methods.builtin_methods import Entropy, MeanSquaredError, Percentile
from calibration.methods.dialect import ZeroPoints
from calibration.ranges import calibration_cache
from calibration.ranges.calibration_cache import MAX_ENTRIES, CacheKey, CalibrationCache, Hit, Miss, calibration_key
from calibration.ranges.collect_ranges import calibrate
from runtimes.ort.adapter import OrtRuntime
from runtimes.preprocessing.transform import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing

PREPROCESSING = Preprocessing(None, (8, 8), Interpolation.BILINEAR, IMAGENET_MEAN, IMAGENET_STD)
IMAGES = "a" * 64
KEY = CacheKey({"model": "one"})


def model(seed=0):
    graph = GraphBuilder(seed=seed)
    return graph.model(graph.conv("two", graph.node("Relu", "relu", graph.conv("one", "input", 3)), 2))


def key(**changes):
    parts = {
        "model": model(),
        "factors": {"relu": np.array([1.0, 2.0, 4.0])},
        "preprocessing": PREPROCESSING,
        "image_list_sha256": IMAGES,
        "method": MeanSquaredError(),
        "dialect": "tensorrt",
        "zero_points": ZeroPoints.BIASES,
        "provider": "cpu",
    }
    return calibration_key(**{**parts, **changes})


@pytest.fixture(scope="module")
def table():
    images = np.random.default_rng(1).normal(size=(5, 2, 8, 8)).astype(np.float32)
    measured = calibrate(model(), [images[:2], images[2:]], open_runtime=OrtRuntime)
    return dataclasses.replace(measured, image_list_sha256=IMAGES, seed=7)


@pytest.fixture
def cache(tmp_path):
    return CalibrationCache(tmp_path / "below" / "cache")


def test_a_hit_is_the_table_byte_for_byte(cache, table):
    assert cache.look_up("net", key()) == Miss("nothing is stored for net")
    path = cache.store("net", key(), table)
    found = cache.look_up("net", key())
    assert isinstance(found, Hit)
    assert found.path == path
    assert found.table == table
    assert json.dumps(found.table.to_json()) == json.dumps(table.to_json())
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize(
    ("part", "changes"),
    [
        ("model", {"model": model(seed=1)}),
        ("channel factors", {"factors": {}}),
        ("channel factors", {"factors": {"relu": np.array([1.0, 2.0, 4.0 + 1e-12])}}),
        ("channel factors", {"factors": {"other": np.array([1.0, 2.0, 4.0])}}),
        ("preprocessing", {"preprocessing": dataclasses.replace(PREPROCESSING, crop=(9, 8))}),
        ("images", {"image_list_sha256": "b" * 64}),
        ("method", {"method": Entropy()}),
        ("method", {"method": Percentile(99.9)}),
        ("dialect", {"dialect": "onnxruntime"}),
        ("zero points", {"zero_points": ZeroPoints.PADS}),
        ("provider", {"provider": "cuda"}),
    ],
)
def test_every_part_of_the_key_counts_and_is_named(cache, table, part, changes):
    cache.store("net", key(), table)
    assert cache.look_up("net", key(**changes)) == Miss(f"since the newest entry of net there changed: {part}")


@pytest.mark.parametrize(
    ("constant", "value", "part"),
    [
        ("samples_per_image", lambda method: 99, "sampling"),
        ("DEFAULT_NUM_BINS", 512, "sampling"),
        ("SCHEMA_VERSION", 99, "code"),
        ("CODE_VERSION", 99, "code"),
    ],
)
def test_constants_of_this_code_count(cache, table, monkeypatch, constant, value, part):
    cache.store("net", key(), table)
    monkeypatch.setattr(calibration_cache, constant, value)
    assert cache.look_up("net", key()) == Miss(f"since the newest entry of net there changed: {part}")


def test_a_weight_that_changes_by_one_bit_is_another_model(cache, table):
    cache.store("net", key(), table)
    changed = model()
    raw = bytearray(changed.graph.initializer[0].raw_data)
    raw[0] ^= 1
    changed.graph.initializer[0].raw_data = bytes(raw)
    assert cache.look_up("net", key(model=changed)) == Miss("since the newest entry of net there changed: model")


def test_the_newest_entry_is_compared_with(cache, table):
    old = cache.store("net", key(method=Entropy()), table)
    os.utime(old, (1, 1))
    cache.store("net", key(image_list_sha256="b" * 64), table)
    assert cache.look_up("net", key()) == Miss("since the newest entry of net there changed: images")


def test_another_models_entries_do_not_matter(cache, table):
    cache.store("net", key(), table)
    assert cache.look_up("net2", key()) == Miss("nothing is stored for net2")


def flipped(content: bytes) -> bytes:
    place = content.index(b'"amax": ') + len(b'"amax": ') + 3
    return content[:place] + (b"1" if content[place : place + 1] != b"1" else b"2") + content[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[: len(content) // 2],
        lambda content: b"[]",
        lambda content: b"null",
        lambda content: b"\xff\xfe",
        flipped,
        lambda content: content.replace(b'"max_abs"', b'"maximum"'),
        lambda content: content.replace(IMAGES.encode(), b"b" * 64, 1),
    ],
    ids=["empty", "cut", "list", "null", "no text", "one digit", "other field", "other key"],
)
def test_a_damaged_entry_is_a_miss_with_a_warning_and_is_replaced(cache, table, damage):
    path = cache.store("net", key(), table)
    damaged = damage(path.read_bytes())
    assert damaged != path.read_bytes()
    path.write_bytes(damaged)
    found = cache.look_up("net", key())
    assert isinstance(found, Miss)
    assert found.is_corrupt
    assert "is damaged" in found.reason
    cache.store("net", key(), table)
    assert isinstance(cache.look_up("net", key()), Hit)


def test_a_damaged_newest_entry_does_not_stop_another_key(cache, table):
    cache.store("net", key(), table).write_bytes(b"{")
    found = cache.look_up("net", key(dialect="onnxruntime"))
    assert isinstance(found, Miss)
    assert not found.is_corrupt
    assert "cannot be read" in found.reason


def test_the_oldest_entries_go(cache, table):
    for number in range(MAX_ENTRIES + 3):
        path = cache.store("net", key(image_list_sha256=f"{number:064}"), table)
        os.utime(path, (number, number))
    assert len(list(cache.folder.iterdir())) == MAX_ENTRIES
    assert isinstance(cache.look_up("net", key(image_list_sha256=f"{0:064}")), Miss)
    assert isinstance(cache.look_up("net", key(image_list_sha256=f"{MAX_ENTRIES + 2:064}")), Hit)


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path, table):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        CalibrationCache(tmp_path / "file" / "cache").store("net", key(), table)


def test_a_models_name_is_no_path(cache, table):
    path = cache.store("../../etc/x y", key(), table)
    assert path.parent == cache.folder


@pytest.mark.parametrize("content", [b"[" * 100_000, b"9" * 5000, b'{"key": {}}', b"null", b"\xff"])
def test_an_entry_that_breaks_the_parser_is_a_miss(tmp_path, content):
    cache = CalibrationCache(tmp_path)
    path = cache._path("net", KEY)
    path.write_bytes(content)
    found = cache.look_up("net", KEY)
    assert isinstance(found, Miss)
    assert found.is_corrupt
    assert isinstance(cache.look_up("net", CacheKey({"model": "other"})), Miss)


def test_a_pipe_under_the_name_of_an_entry_is_a_miss(tmp_path):
    cache = CalibrationCache(tmp_path)
    os.mkfifo(cache._path("net", KEY))
    found = cache.look_up("net", KEY)
    assert isinstance(found, Miss)
    assert found.is_corrupt


def test_an_entry_that_another_run_removes_while_we_look_is_no_error(tmp_path, monkeypatch):
    cache = CalibrationCache(tmp_path)
    (tmp_path / "net.0123.calibration.json").symlink_to("gone")
    assert isinstance(cache.look_up("net", KEY), Miss)
