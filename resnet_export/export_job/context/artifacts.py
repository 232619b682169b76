"""Results of the main job before they are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtimes.bundle.file_names import DLA_SCALES, MODEL_FILES

if TYPE_CHECKING:
    from onnx import ModelProto

    from calibration.pipeline.quantize_model import QuantizationResult
    from calibration.qdq.insert_qdq import QuantizedModel
    from calibration.ranges.calibration_table import CalibrationTable
    from exporter.passes.pre_post_options import Finish
    from exporter.tracing.check_export import CheckReport
    from exporter.tracing.export import ExportedModel
    from runtimes.metrics.answer_kind import AnswerKind


@dataclass(frozen=True, slots=True, eq=False)
class BudgetOutcome:
    """The INT8 model within its budget, and how it came there: `accuracy_budget` of `report.json`."""

    result: QuantizationResult
    report: dict[str, Any]


@dataclass(frozen=True, slots=True, eq=False)
class DlaFiles:
    """Models to write, and how the INT8 file will answer.

    Attributes:
        models: File name to float32 model.
        cache: TensorRT's calibration cache, where there is an INT8 file.
        simulation: The INT8 file as a DLA computes it, before its last edits; for the comparison.
        report: What `report.json` says of it.
    """

    models: Mapping[str, ModelProto]
    cache: str | None
    simulation: ModelProto | None
    report: Mapping[str, Any]

    def write(self, folder: Path) -> None:
        """Write the files."""
        import onnx

        for file, model in self.models.items():
            onnx.save_model(model, folder / file)
        if self.cache is not None:
            (folder / DLA_SCALES).write_text(self.cache, encoding="utf-8")


@dataclass(frozen=True, slots=True, eq=False)
class Artifacts:
    """Everything the run computed, ready to be measured and written.

    `finished` holds, by file name, what is written: the models of the other fields with the input and the head asked
    for. Accuracy is measured on the logits or features of those without; that both answer alike has been checked.
    `dla` is what `--dla` adds to the bundle. `hard` is what `report.json` says of black, white and other hard frames.
    `answers` is what the network itself gives.
    """

    exported: ExportedModel
    check: CheckReport
    float16: Any | None
    int8: QuantizationResult | None
    int8_float16: ModelProto | None
    finish: Finish
    budget: BudgetOutcome | None = None
    keep_float: dict[str, Any] | None = None
    finished: Mapping[str, ModelProto] = field(default_factory=dict)
    dla: DlaFiles | None = None
    hard: Mapping[str, Any] = field(default_factory=dict)
    answers: AnswerKind | None = None

    @property
    def table(self) -> CalibrationTable | None:
        """The calibration table, where INT8 was asked for."""
        return None if self.int8 is None else self.int8.table

    @property
    def quantized(self) -> QuantizedModel | None:
        """The Q/DQ model, where INT8 was asked for."""
        return None if self.int8 is None else self.int8.quantized

    def model_files(self) -> Mapping[str, tuple[str, ModelProto]]:
        """Return file name to (row name, model) of every ONNX file of the bundle, before its last edits."""
        files = {MODEL_FILES["fp32"]: ("ONNX FP32", self.exported.onnx)}
        if self.float16 is not None:
            files[MODEL_FILES["fp16"]] = ("ONNX FP16", self.float16)
        if self.int8 is not None:
            files[MODEL_FILES["int8"]] = ("ONNX INT8", self.int8.quantized.model)
        if self.int8_float16 is not None:
            files[MODEL_FILES["int8-fp16"]] = ("ONNX INT8+FP16", self.int8_float16)
        return files
