"""The result of an export as a typed value: one result per file, steps, warnings, and the whole of report.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from runtimes.bundle.file_names import MODEL_FILES


@dataclass(frozen=True, slots=True)
class FileResult:
    """One file of the bundle beside PyTorch, on images that calibrated nothing.

    Attributes:
        path: The file.
        size_bytes: Of the file.
        num_images: Images compared; 0 where none were given, and then every figure below is None.
        agreement: Share of images with PyTorch's answer, 0 to 1.
        sqnr_db: Signal to quantization noise in dB; None where both are bit-equal (`max_abs_diff` is 0).
        max_abs_diff: Largest difference of a logit.
        top1: Share of labelled images answered right, 0 to 1.
        top1_drop_pp: What PyTorch answers right beyond that, in percentage points.
        latency_ms: Median of one image in ONNX Runtime on this machine's CPU.
        features: With `features`: output's name to its comparison, instead of the figures above.
    """

    path: Path
    size_bytes: int
    num_images: int = 0
    agreement: float | None = None
    sqnr_db: float | None = None
    max_abs_diff: float | None = None
    top1: float | None = None
    top1_drop_pp: float | None = None
    latency_ms: float | None = None
    features: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class ExportReport:
    """Files and measurements of an export.

    Attributes:
        bundle: The folder.
        model: Its model.
        fp32: `model.onnx`.
        fp16: `model.fp16.onnx`, where it was asked for.
        int8: `model.int8.onnx`, where it was asked for.
        int8_fp16: `model.int8.fp16.onnx`, where both were.
        steps: What was done, one sentence each.
        warnings: What is worth a look.
        content: Everything, as `report.json` holds it.
    """

    bundle: Path
    model: str
    fp32: FileResult
    fp16: FileResult | None
    int8: FileResult | None
    int8_fp16: FileResult | None
    steps: tuple[str, ...]
    warnings: tuple[str, ...]
    content: Mapping[str, Any] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Return the report as `report.json` holds it."""
        return dict(self.content)


def report_from_content(content: Mapping[str, Any]) -> ExportReport:
    """Return the typed form of what `report.json` holds."""
    bundle = Path(content["bundle"])
    rows = {row["file"]: row for row in content["rows"] if row["file"] is not None}

    def result(precision: str) -> FileResult | None:
        row = rows.get(MODEL_FILES[precision])
        return None if row is None else _file_result(bundle, row)

    fp32 = result("fp32")
    assert fp32 is not None  # every bundle holds it
    return ExportReport(
        bundle=bundle,
        model=content["model"],
        fp32=fp32,
        fp16=result("fp16"),
        int8=result("int8"),
        int8_fp16=result("int8-fp16"),
        steps=tuple(content["steps"]),
        warnings=tuple(content["warnings"]),
        content=content,
    )


def _file_result(bundle: Path, row: Mapping[str, Any]) -> FileResult:
    parity, latency = row["parity"] or {}, row["latency"] or {}
    return FileResult(
        path=bundle / row["file"],
        size_bytes=row["size_bytes"],
        num_images=parity.get("num_images", 0),
        agreement=parity.get("agreement"),
        sqnr_db=parity.get("sqnr_db"),
        max_abs_diff=parity.get("max_abs_diff"),
        top1=parity.get("top1_candidate"),
        top1_drop_pp=parity.get("top1_drop_pp"),
        latency_ms=latency.get("p50_ms"),
        features=row.get("features", {}),
    )
