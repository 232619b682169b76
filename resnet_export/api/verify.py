"""`resnet_export.verify`: does a bundle, an ONNX file or an engine still answer like its reference?"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from exporter.models.loaded_model import DEFAULT_WEIGHTS
from resnet_export.api.choices import class_numbers
from resnet_export.api.export import ModelLike, checked_model
from resnet_export.api.images import Images, image_source
from resnet_export.api.preprocessing import PreprocessingLike, preprocessing_options
from resnet_export.console.reporter import Listener, Reporter
from resnet_export.images.temporary_folder import TemporaryFolder
from resnet_export.verify_job.job import run_verify
from resnet_export.verify_job.options import VerifyOptions
from runtimes.argument_kinds import Count, StrPath, checked_kinds

Gates = Mapping[str, float | str] | Sequence[str]


@dataclass(frozen=True, slots=True)
class GateOutcome:
    """One gate of one file on one set of images.

    Attributes:
        file: The file's name, or "bundle".
        name: The gate's name, such as "sqnr_db".
        on: "golden", "val", "photographs" or "file".
        verdict: "pass", "fail", "inconclusive" or "skipped".
        measured: What was found, in `unit`; None where nothing was.
        threshold: What was asked for, in `unit`.
        unit: Such as "dB".
        sentence: All of it in words.
    """

    file: str
    name: str
    on: str
    verdict: str
    measured: float | None
    threshold: float | None
    unit: str
    sentence: str


@dataclass(frozen=True, slots=True, eq=False)
class Verification:
    """Result of `verify`.

    Attributes:
        verdict: "pass", "fail" or "inconclusive" (too few images for the claim).
        summary: One sentence.
        gates: Every gate of every file.
        causes: What explains a failure, where `bisect` or a check of the bundle found it.
        warnings: What is worth a look.
        content: Everything, as `runtimes.verification.report` describes it.
    """

    verdict: str
    summary: str
    gates: tuple[GateOutcome, ...]
    causes: tuple[str, ...]
    warnings: tuple[str, ...]
    content: Mapping[str, Any] = field(repr=False)

    @property
    def passed(self) -> bool:
        """Whether every gate passes; an inconclusive result has not passed."""
        return self.verdict == "pass"

    @property
    def failures(self) -> tuple[GateOutcome, ...]:
        """The gates that fail or show nothing."""
        return tuple(gate for gate in self.gates if gate.verdict in ("fail", "inconclusive"))

    def to_json(self) -> dict[str, Any]:
        """Return the whole report."""
        return dict(self.content)


@checked_kinds
def verify(
    subject: StrPath,
    *,
    val: Images | None = None,
    val_labels: Sequence[int] | None = None,
    num_val: Count | None = None,
    precision: str | Sequence[str] = (),
    provider: str | None = None,
    against: ModelLike | None = None,
    weights: StrPath = DEFAULT_WEIGHTS,
    num_classes: Count | None = None,
    preprocessing: PreprocessingLike = None,
    gates: Gates = (),
    baseline: StrPath | None = None,
    bisect: bool = False,
    on_event: Listener | None = None,
) -> Verification:
    """Judge a bundle's files, an ONNX file or an engine against their reference.

    Args:
        subject: A bundle folder, an `.onnx` file, or an engine.
        val: Images to compare on: a folder, a list of files, pictures uint8 [H, W, 3], or prepared inputs float32
            [N, C, H, W]; an iterable as `export` takes it. Without them the bundle's stored inputs, which show that
            files compute the same, not how accurate they are.
        val_labels: Class index of each image of `val`; folders of classes need none.
        num_val: How many of them are used, at most.
        precision: "fp32", "fp16", "int8" or "int8-fp16", one or several; all by default.
        provider: What runs it, as for `load`; "torch" puts the model of `against` on trial; "cpu" by default, or what
            an engine is for.
        against: Trust this model instead: a module, or MODEL as `export` takes it.
        weights: Of `against`.
        num_classes: Of `against`.
        preprocessing: Of `against`, where its weights do not say.
        gates: Thresholds: {"int8.sqnr_db": 25, "agreement": "off"}, words "int8.sqnr_db=25", or TOML files of them.
        baseline: JSON report of an earlier run: what moved since counts too.
        bisect: Compare block by block and name the one that broke.
        on_event: Called with every step, warning and move of progress; None is silent.

    Raises:
        ExportError, RuntimeAdapterError: If something is missing, damaged, or does not open.
        TypeError, ValueError: An argument is of no use; the message says what was expected.
    """
    with TemporaryFolder() as spilled:
        options = VerifyOptions(
            subject=Path(subject),
            precision=(precision,) if isinstance(precision, str) else tuple(precision),
            provider=provider,
            against=None if against is None else checked_model(against),
            weights=os.fspath(weights),
            num_classes=num_classes,
            preprocessing=preprocessing_options(preprocessing),
            val=None if val is None else image_source(val, "val", spilled),
            val_labels=class_numbers(val_labels),
            num_val=num_val,
            gates=_gate_words(gates),
            baseline=None if baseline is None else Path(baseline),
            bisect=bisect,
        )
        return _verification(run_verify(options, Reporter(on_event)))


def _gate_words(gates: Gates) -> tuple[str, ...]:
    if isinstance(gates, Mapping):
        return tuple(f"{name}={threshold}" for name, threshold in gates.items())
    return (gates,) if isinstance(gates, str) else tuple(map(str, gates))


def _verification(content: Mapping[str, Any]) -> Verification:
    return Verification(
        verdict=content["verdict"],
        summary=content["summary"],
        gates=tuple(
            GateOutcome(file["name"], *(gate[field.name] for field in fields(GateOutcome)[1:]))
            for file in content["files"]
            for gate in file["gates"]
        ),
        causes=tuple(f"{cause['file']}: {cause['sentence']}" for cause in content["causes"]),
        warnings=tuple(content["warnings"]),
        content=content,
    )
