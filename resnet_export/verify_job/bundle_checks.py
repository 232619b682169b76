"""Checks of a bundle as a whole that need no image: does what it says about itself fit together?

    golden_preprocessing   the golden inputs are what the manifest's mean and std make of 8-bit pixels: a manifest whose
                           normalization was changed after the export is found without any reference
    preprocessing          the manifest prepares images as --against does
    golden_outputs         the reference gives the stored answers on the stored inputs: with --against, the bundle is of
                           this model; else, its FP32 file, which stands in for PyTorch on --val, deserves that
    calibration_table      every activation scale of the INT8 file is the one in calibration.json
    calibration_images     the images that calibrated were no noise and normalized as the manifest says

A wrong preprocessing is the one error that no comparison of two files can show, since both sides get the same wrong
images: hence checks of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from exporter.errors import ExportError
from resnet_export.verify_job.sides import Reference, logits_of
from resnet_export.verify_job.subject import Golden, Subject
from runtimes.bundle.file_names import CALIBRATION_NAME, MODEL_FILES
from runtimes.bundle.precision import is_int8
from runtimes.counted import counted
from runtimes.metrics.logit_meter import LogitMeter
from runtimes.preprocessing.restore_pixels import pixels_of
from runtimes.preprocessing.transform import Preprocessing, normalize
from runtimes.protocol import Array, Runtime
from runtimes.side_by_side import ONE_STREAM, Streams
from runtimes.verification.gates import DEFAULT_GATES, Gate, GateResult, Verdict, judge

MAX_SCALE_DIFFERENCE = 1e-6
"""Relative; calibration.json holds the float32 scale in decimal digits that give it back."""

_NUM_NAMED = 3


def bundle_checks(
    subject: Subject,
    reference: Reference | None,
    trusted: Runtime | None,
    *,
    against: bool,
    streams: Streams = ONE_STREAM,
) -> tuple[GateResult, ...]:
    """Return the checks that apply."""
    results: list[GateResult] = []
    if subject.golden is not None and subject.preprocessing is not None:
        results.append(_golden_preprocessing(subject.golden, subject.preprocessing))
    if against and reference is not None and subject.preprocessing is not None:
        results.append(_same_preprocessing(subject.preprocessing, reference))
    if reference is not None and trusted is not None and subject.golden is not None:
        # The bundle's own file takes them as they are stored.
        inputs = _as_prepared_by(reference, subject) if against else subject.golden.inputs
        results.append(_golden_outputs(subject.golden, inputs, reference, trusted, streams))
    if subject.folder is not None and (subject.folder / CALIBRATION_NAME).is_file():
        results.extend(_calibration_checks(subject.folder, subject))
    return tuple(results)


def _check(name: str, verdict: Verdict, sentence: str) -> GateResult:
    return GateResult(name, "file", verdict, sentence)


def _golden_preprocessing(golden: Golden, preprocessing: Preprocessing) -> GateResult:
    name = "golden_preprocessing"
    if _golden_pixels(golden, preprocessing) is not None:
        return _check(name, Verdict.PASS, "the golden inputs fit the manifest's preprocessing")
    return _check(
        name,
        Verdict.FAIL,
        f"wrong normalization: the manifest says mean {list(preprocessing.mean)}, std {list(preprocessing.std)}, size "
        f"{list(preprocessing.input_size)}, but the golden inputs {list(golden.inputs.shape[1:])} are not what these "
        "make of 8-bit pixels: it was changed after the export",
    )


def _golden_pixels(golden: Golden, preprocessing: Preprocessing) -> Array | None:
    """Return the pixels of the golden inputs, uint8 [n, H, W, 3]; None where they do not fit the preprocessing."""
    if golden.inputs.dtype == np.uint8:
        return golden.inputs if golden.inputs.shape[1:3] == preprocessing.input_size else None
    if golden.inputs.shape[2:] != preprocessing.input_size:
        return None
    try:
        return pixels_of(preprocessing, golden.inputs)
    except ValueError:
        return None


def _same_preprocessing(preprocessing: Preprocessing, reference: Reference) -> GateResult:
    ours, theirs = preprocessing.to_json(), reference.preprocessing.to_json()
    different = [key for key in ours if ours[key] != theirs[key]]
    if not different:
        return _check("preprocessing", Verdict.PASS, f"images are prepared as for {reference.name}")
    kind = "wrong normalization" if set(different) <= {"mean", "std"} else "wrong preprocessing"
    named = "; ".join(f"{key} {ours[key]}, expected {theirs[key]}" for key in different)
    return _check(
        "preprocessing",
        Verdict.FAIL,
        f"{kind}: {named} ({reference.name}'s preprocessing, from {reference.preprocessing_source})",
    )


def _as_prepared_by(reference: Reference, subject: Subject) -> Array | None:
    """Return the pixels of the golden inputs, prepared as the reference says; None where they do not fit.

    Raises:
        ExportError: If bundle and reference take pictures of different channels.
    """
    assert subject.golden is not None
    if subject.preprocessing is not None and subject.preprocessing.channels != reference.preprocessing.channels:
        raise ExportError(
            f"{subject.path} takes pictures of {counted(subject.preprocessing.channels, 'channel')}, {reference.name} "
            f"of {reference.preprocessing.channels}; they are not the same model"
        )
    pixels = None if subject.preprocessing is None else _golden_pixels(subject.golden, subject.preprocessing)
    if pixels is None or pixels.shape[1:3] != reference.preprocessing.input_size:
        return None
    return normalize(reference.preprocessing, pixels)


def _golden_outputs(
    golden: Golden, inputs: Array | None, reference: Reference, trusted: Runtime, streams: Streams
) -> GateResult:
    """Run the reference on the golden inputs beside the stored answers."""
    name = "golden_outputs"
    if inputs is None:
        return _check(name, Verdict.SKIPPED, "not compared: the golden inputs do not fit the preprocessing")
    now = logits_of(trusted, inputs, streams if reference.loaded is None else ONE_STREAM)
    if now.shape != golden.logits.shape:
        return _check(
            name,
            Verdict.FAIL,
            f"{reference.name} gives {now.shape[1]} classes, stored are {golden.logits.shape[1]}: another model",
        )
    meter = LogitMeter(now.shape[1])
    meter.add(now, golden.logits, names=[f"golden[{place}]" for place in range(len(now))])
    gate = Gate("relative_max_diff", DEFAULT_GATES["fp32"]["relative_max_diff"])
    (judged,) = judge(meter.report(), [gate], on="file")
    words = f"{'are' if judged.verdict is Verdict.PASS else 'are not'} what {reference.name} gives"
    sentence = f"PyTorch's stored answers {words} ({judged.sentence})"
    return GateResult(name, "file", judged.verdict, sentence, judged.threshold, judged.measured)


def _calibration_checks(folder: Path, subject: Subject) -> Iterator[GateResult]:
    from calibration.errors import CalibrationError
    from calibration.ranges.calibration_table import CalibrationTable
    from runtimes.errors import BundleError

    path = folder / CALIBRATION_NAME
    try:
        table = CalibrationTable.from_json(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, CalibrationError) as err:
        raise BundleError(f"{path}: cannot be read: {err}") from err
    if any(is_int8(candidate.precision) for candidate in subject.candidates):
        yield _calibration_table(folder / MODEL_FILES["int8"], table)
        yield _calibration_images(table, subject.preprocessing)


def _calibration_table(path: Path, table: Any) -> GateResult:
    name = "calibration_table"
    try:
        from exporter.graph.onnx_graph import array_from_initializer
        from exporter.graph.read_model import read_model
    except ImportError:
        return _check(name, Verdict.SKIPPED, "not compared: reading the file's scales needs the package onnx")
    constants = {tensor.name: tensor for tensor in read_model(path).graph.initializer}
    wrong: list[str] = []
    known = 0
    for tensor, kept in table.ranges.items():
        if (stored := constants.get(f"{tensor}.scale")) is None:
            continue  # left in float
        known += 1
        scale = float(array_from_initializer(stored).max())  # one number, or [1] as other tools write it
        if abs(scale - kept.scale) > MAX_SCALE_DIFFERENCE * kept.scale:
            wrong.append(f"{tensor} has {scale:.4g}, {scale / kept.scale:.3g} times the calibrated {kept.scale:.4g}")
    if not wrong:
        return _check(name, Verdict.PASS, f"all {known} activation scales are those of calibration.json")
    more = f" (and {len(wrong) - _NUM_NAMED} more)" if len(wrong) > _NUM_NAMED else ""
    named = "; ".join(wrong[:_NUM_NAMED])
    return _check(
        name, Verdict.FAIL, f"{len(wrong)} of {known} activation scales are not the calibrated: {named}{more}"
    )


def _calibration_images(table: Any, preprocessing: Preprocessing | None) -> GateResult:
    from calibration.observers.judge_input import InputWarningKind, judge_input

    name = "calibration_images"
    if table.observed is None:
        return _check(name, Verdict.SKIPPED, "not judged: calibration.json does not say what the images looked like")
    fatal = (InputWarningKind.NOISE, InputWarningKind.WRONG_NORMALIZATION)
    found = [warning for warning in judge_input(table.observed.input, preprocessing) if warning.kind in fatal]
    if found:
        return _check(name, Verdict.FAIL, str(found[0]))
    return _check(
        name, Verdict.PASS, f"{table.num_images} images calibrated; no noise, normalized as the manifest says"
    )
