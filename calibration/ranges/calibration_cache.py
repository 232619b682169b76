"""Calibration tables kept by content, so that the same work is not done twice and a stale table is never taken.

An entry is found by a hash of everything that decides a table: the model's bytes, the preprocessing, the images in
order (names and contents), the method, the sampling, the dialect, the versions of what computes, and the version of
this code's meaning. Names and dates do not count. A hit is the table that a miss would compute, bit for bit: JSON keeps
float64 exactly. An entry that cannot be read, or whose content does not match its checksum, is a miss with a warning.
"""

from __future__ import annotations

import hashlib
import json
import platform
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.errors import CalibrationError
from calibration.methods.dialect import ZeroPoints
from calibration.methods.histogram import DEFAULT_NUM_BINS
from calibration.methods.method import Method, describe
from calibration.observers.observe_batches import samples_per_image
from calibration.ranges.calibration_table import SCHEMA_VERSION, CalibrationTable
from exporter.graph.onnx_graph import copy_without_constants
from runtimes.io.bounded_read import MAX_JSON_BYTES, json_from_bytes, read_json_file, read_plain_file
from runtimes.io.cache_dir import write_cache_file
from runtimes.machine.installed_versions import installed_versions
from runtimes.preprocessing.transform import Preprocessing

CODE_VERSION = 3
"""Raise it when the same inputs give another table: another method, sample or rule."""

MAX_ENTRIES = 20
"""Entries kept for one model name, the newest; a table is 20 to 100 kB."""

_LIBRARIES = ("onnxruntime-gpu", "onnxruntime", "numpy", "pillow")


@dataclass(frozen=True, slots=True)
class CacheKey:
    """Everything that a table depends on, by part; values are short text or hashes."""

    parts: Mapping[str, str]

    @property
    def digest(self) -> str:
        """SHA-256 over all parts, hexadecimal."""
        return _sha256(_canonical(dict(self.parts)))

    def changed_from(self, other: Mapping[str, str]) -> tuple[str, ...]:
        """Return the names of the parts that differ from those of another key."""
        names = dict.fromkeys((*self.parts, *other))
        return tuple(name for name in names if self.parts.get(name) != other.get(name))


@dataclass(frozen=True, slots=True)
class Hit:
    """A stored table, and the file it is from."""

    table: CalibrationTable
    path: Path


@dataclass(frozen=True, slots=True)
class Miss:
    """No table.

    Attributes:
        reason: Why, in words.
        is_corrupt: Whether an entry was there but could not be used; worth a warning.
    """

    reason: str
    is_corrupt: bool = False


def calibration_key(
    model: ModelProto,
    factors: Mapping[str, NDArray[np.float64]],
    preprocessing: Preprocessing,
    *,
    image_list_sha256: str,
    method: Method,
    dialect: str,
    provider: str,
    zero_points: ZeroPoints,
) -> CacheKey:
    """Return the key of one calibration.

    Args:
        model: The folded float32 model: graph and weights.
        factors: Tensor name to what its channels are scaled by, float64 [C].
        preprocessing: How images are prepared.
        image_list_sha256: As `calibration.observers.sample_images.image_list_sha256` gives it, of the images in order.
        method: How ranges are chosen.
        dialect: Which tensors get ranges, such as "tensorrt".
        provider: Where the model ran, such as "cpu": sums are rounded in another order elsewhere.
        zero_points: What takes those of activations where the dialect has none.
    """
    return CacheKey(
        {
            "model": _model_sha256(model),
            "channel factors": _factors_sha256(factors),
            "preprocessing": _canonical(preprocessing.to_json()),
            "images": image_list_sha256,
            "method": _canonical(describe(method)),
            "sampling": f"{samples_per_image(method)} values per image, {DEFAULT_NUM_BINS} bins",
            "dialect": dialect,
            "zero points": f"the dialect's, taken by {zero_points.value}",
            "provider": provider,
            "libraries": ", ".join([platform.machine(), *map(" ".join, installed_versions(_LIBRARIES).items())]),
            "code": f"{CODE_VERSION}, table schema {SCHEMA_VERSION}",
        }
    )


def _model_sha256(model: ModelProto) -> str:
    """Hash graph and weights, one constant at a time: the whole serialized would be another copy of the weights."""
    names = {tensor.name for tensor in model.graph.initializer}
    found = hashlib.sha256(copy_without_constants(model, names).SerializeToString(deterministic=True))
    for tensor in model.graph.initializer:
        found.update(tensor.SerializeToString(deterministic=True))
    return found.hexdigest()


def _factors_sha256(factors: Mapping[str, NDArray[np.float64]]) -> str:
    found = hashlib.sha256()
    for name in sorted(factors):
        found.update(f"{name}\0{len(factors[name])}\0".encode())
        found.update(np.ascontiguousarray(factors[name], np.float64).tobytes())
    return found.hexdigest()


@dataclass(frozen=True, slots=True)
class CalibrationCache:
    """Entries in one folder.

    Attributes:
        folder: Made when the first entry is stored.
    """

    folder: Path

    def look_up(self, model_name: str, key: CacheKey) -> Hit | Miss:
        """Return the table of this key, or why there is none.

        Args:
            model_name: What the user calls the model; only to tell what changed.
            key: What decides the table.
        """
        path = self._path(model_name, key)
        try:
            content = read_plain_file(path, MAX_JSON_BYTES)
        except FileNotFoundError:
            return Miss(self._what_changed(model_name, key))
        except OSError as err:
            return Miss(f"{path} cannot be read ({err})", is_corrupt=True)
        try:
            return Hit(_table_from_entry(content, key), path)
        except (CalibrationError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as err:
            return Miss(f"{path} is damaged ({err}); it is replaced", is_corrupt=True)

    def store(self, model_name: str, key: CacheKey, table: CalibrationTable) -> Path:
        """Keep a table; the oldest entries beyond `MAX_ENTRIES` of this model go.

        Raises:
            OSError: If the disk refuses; nothing unfinished is left behind.
        """
        path = self._path(model_name, key)
        content = table.to_json()
        entry = {"key": dict(key.parts), "sha256": _sha256(_canonical(content)), "table": content}
        write_cache_file(path, json.dumps(entry, allow_nan=False).encode())
        for old in self._entries(model_name)[MAX_ENTRIES:]:
            old.unlink(missing_ok=True)
        return path

    def _path(self, model_name: str, key: CacheKey) -> Path:
        return self.folder / f"{_file_name(model_name)}.{key.digest[:16]}.calibration.json"

    def _entries(self, model_name: str) -> list[Path]:
        """Return this model's entries, the newest first; another process may remove some at any time."""
        found = []
        for path in self.folder.glob(f"{_file_name(model_name)}.*.calibration.json"):
            with suppress(OSError):
                found.append((path.stat().st_mtime_ns, path.name, path))
        return [path for _, _, path in sorted(found, reverse=True)]

    def _what_changed(self, model_name: str, key: CacheKey) -> str:
        entries = self._entries(model_name)
        if not entries:
            return f"nothing is stored for {model_name}"
        try:
            stored = read_json_file(entries[0])["key"]
            changed = key.changed_from(stored)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return f"nothing fits, and the newest entry of {model_name} cannot be read"
        return f"since the newest entry of {model_name} there changed: {', '.join(changed)}"


def _table_from_entry(content: bytes, key: CacheKey) -> CalibrationTable:
    entry = json_from_bytes(content)
    if entry["key"] != dict(key.parts):
        raise CalibrationError("its key is not that of its name")
    if entry["sha256"] != _sha256(_canonical(entry["table"])):
        raise CalibrationError("its checksum does not match")
    return CalibrationTable.from_json(entry["table"])


def _file_name(model_name: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", model_name)


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
