"""What one run of the comparison measured: plain data, JSON in and out, mergeable."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(slots=True)
class RowResult:
    """One quantizer. Lists hold one value per round.

    Attributes:
        name: The setting.
        role: As in `quantizer_settings.Setting`.
        options: The setting's options.
        error: Why there is no file, or "".
        seconds: Of quantization, libraries imported before.
        times_forward: Those divided by the same round's FP32 forward pass.
        peak_bytes: Largest resident set of the process.
        imported_bytes: The same before it began: what its libraries take.
        versions: Library to version.
        dialect: Fields of `quantizer_dialect.Dialect`, empty without a file.
        file_share: File size divided by the FP32 file's.
        accuracy: Mode of ONNX Runtime to fields of `quantizer_statistics.Accuracy`, or to "error".
        latency_ms: One image in ONNX Runtime, default options, median of each round.
        latency_error: Why it did not run, or "".
    """

    name: str
    role: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""
    seconds: list[float] = field(default_factory=list)
    times_forward: list[float] = field(default_factory=list)
    peak_bytes: list[int] = field(default_factory=list)
    imported_bytes: list[int] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=dict)
    dialect: dict[str, Any] = field(default_factory=dict)
    file_share: float | None = None
    accuracy: dict[str, dict[str, Any]] = field(default_factory=dict)
    latency_ms: list[float] = field(default_factory=list)
    latency_error: str = ""

    def measured(self, name: str, mode: str = "exact") -> float | None:
        """Return a field of the accuracy in a mode, None where it was not measured."""
        value = self.accuracy.get(mode, {}).get(name)
        return None if value is None else float(value)


@dataclass(slots=True)
class RunResult:
    """A run on one network.

    Attributes:
        network: In words.
        model_sha256: Of the FP32 file.
        images: In words.
        machine: Processor, cores, instruction sets that decide INT8's speed.
        load: Load average when the run began: processes that wanted a core besides this run.
        date: ISO 8601.
        batch_size: Images per batch for those that take batches.
        repeats: Rounds.
        versions: Of the evaluator: library to version.
        float_bytes: Size of the FP32 file.
        float_latency_ms: One image through FP32, median of each round.
        forward_seconds: FP32 forward pass over the calibration images, per round.
        forward_peak_bytes: Its peak memory, per round.
        float_top1: Share of held-out images that FP32 gets right, None without labels.
        rows: The quantizers.
    """

    network: str
    model_sha256: str
    images: str
    machine: str
    load: float
    date: str
    batch_size: int
    repeats: int
    versions: dict[str, str]
    float_bytes: int
    float_latency_ms: list[float] = field(default_factory=list)
    forward_seconds: list[float] = field(default_factory=list)
    forward_peak_bytes: list[int] = field(default_factory=list)
    float_top1: float | None = None
    rows: list[RowResult] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return all fields."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunResult:
        """Return what `to_json` gave; unknown or missing keys raise TypeError."""
        rows = [RowResult(**row) for row in content["rows"]]
        return cls(**{**content, "rows": rows})


def merged(runs: Sequence[RunResult]) -> RunResult:
    """Return the first run with the rows of later ones that it lacks.

    Raises:
        ValueError: If the runs are not of the same network, images and machine: their figures do not compare.
    """
    first = runs[0]
    for other in runs[1:]:
        for name in ("model_sha256", "images", "machine", "batch_size"):
            if getattr(first, name) != getattr(other, name):
                raise ValueError(
                    f"runs to merge differ in {name}: {getattr(first, name)!r} and {getattr(other, name)!r}; "
                    "measure them in one run"
                )
    present: set[str] = set()
    rows = []
    for run in runs:
        rows += [row for row in run.rows if row.name not in present]
        present |= {row.name for row in run.rows}
    values = {item.name: getattr(first, item.name) for item in fields(RunResult)}
    dates = sorted({run.date for run in runs})
    values |= {"rows": rows, "load": max(run.load for run in runs), "date": " and ".join(dates)}
    return RunResult(**values)


def median(values: Sequence[float]) -> float | None:
    """Return the median, None of nothing."""
    return float(statistics.median(values)) if values else None
