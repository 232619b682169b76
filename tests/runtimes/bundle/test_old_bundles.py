"""A bundle of every released schema loads for ever: manifest, files, calibration, golden outputs, models."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from calibration.ranges.calibration_table import CalibrationTable
from runtimes.bundle.file_names import MANIFEST_NAME
from runtimes.bundle.manifest import check_files, load_manifest
from runtimes.io.bounded_read import read_json_file
from runtimes.io.npz import load_npz
from runtimes.ort.adapter import OrtRuntime
from runtimes.preprocessing.decode import read_image

ROOT = Path(__file__).parents[3]
BUNDLES = sorted((ROOT / "tests" / "data").glob("bundle-schema-*"))
PHOTO = ROOT / "exporter" / "models" / "check_photos" / "chelsea.jpg"


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_an_old_bundle_loads_and_answers_as_it_did(bundle):
    """Committed when its schema was current; it may never be written anew."""
    manifest = load_manifest(bundle)
    check_files(bundle, manifest)
    assert manifest.model["num_classes"] == 3
    assert CalibrationTable.from_json(read_json_file(bundle / "calibration.json")).ranges
    golden = load_npz(bundle / "golden.npz")
    prepared = manifest.prepare(read_image(PHOTO))
    for name, tolerance in {"model.onnx": 1e-5, "model.int8.onnx": 0.2}.items():
        with OrtRuntime(bundle / name, exact_qdq=True) as runtime:
            logits = runtime.run({"input": golden["input"]})["logits"]
            assert runtime.run({"input": prepared[np.newaxis]})["logits"].shape == (1, 3)
        assert np.abs(logits - golden["logits"]).max() <= tolerance * np.abs(golden["logits"]).max()


def test_there_is_one_of_every_schema():
    """Raising the schema asks for one more bundle in tests/data."""
    from runtimes.bundle.manifest import SCHEMA_VERSION

    schemas = [json.loads((bundle / MANIFEST_NAME).read_text())["schema_version"] for bundle in BUNDLES]
    assert schemas == list(range(1, SCHEMA_VERSION + 1))
