"""The comparison: every file against PyTorch on the same images, one pass, and each file's latency."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from exporter.cli.arguments import ExportOptions
from exporter.cli.choose_images import ChosenImages, ClassIndex
from exporter.cli.terminal import Terminal
from runtimes.int8_kernels import PRECISE_OPTION, why_int8_saturates
from runtimes.latency import Latency, measure_latency
from runtimes.parity import ParityMeter, ParityReport, first_output

if TYPE_CHECKING:
    from onnx import ModelProto

    from exporter.cli.export_job import Artefacts

POOR_AGREEMENT = 0.9
"""Below this share of equal answers the run warns. Not a gate: networks of random weights get there too."""

SATURATING_ROW = "INT8 default"
"""Target onnxruntime on a CPU without VNNI: the INT8 file as a session without options runs it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        name: "PyTorch FP32", "ONNX INT8", ...
        file: File in the bundle, or None for PyTorch.
        parity: Comparison with PyTorch; None when no image was at hand.
        latency: One image through ONNX Runtime on this machine's CPU; None for PyTorch.
    """

    name: str
    file: str | None
    parity: ParityReport | None
    latency: Latency | None


def model_files(artefacts: Artefacts) -> Mapping[str, tuple[str, ModelProto]]:
    """Return file name to (row name, model) of every ONNX file of the bundle."""
    files = {"model.onnx": ("ONNX FP32", artefacts.exported.onnx)}
    if artefacts.float16 is not None:
        files["model.fp16.onnx"] = ("ONNX FP16", artefacts.float16)
    if artefacts.int8 is not None:
        files["model.int8.onnx"] = ("ONNX INT8", artefacts.int8.quantized.model)
    return files


def measure(
    options: ExportOptions,
    artefacts: Artefacts,
    images: ChosenImages,
    classes: ClassIndex | None,
    terminal: Terminal,
) -> list[Row]:
    """Return one row for PyTorch and one per file."""
    parity = _parity(options, artefacts, images, classes, terminal) if images.measured else {}
    latency = _latency(options, artefacts, terminal)
    rows = [Row("PyTorch FP32", None, parity.get("PyTorch FP32"), None)]
    for file, (name, _) in model_files(artefacts).items():
        rows.append(Row(name, file, parity.get(name), latency[name]))
    if SATURATING_ROW in latency:
        rows.append(Row(SATURATING_ROW, "model.int8.onnx", parity.get(SATURATING_ROW), latency[SATURATING_ROW]))
    if not images.measured:
        terminal.warn(
            "no images were given, so nothing but equality on the package's own photographs was measured; "
            "--calib DIR or --val DIR fills the table"
        )
    for row in rows:
        if row.parity is not None and row.parity.agreement < POOR_AGREEMENT:
            terminal.warn(
                f"{row.name} agrees with PyTorch on {row.parity.agreement:.1%} of {row.parity.num_images} images only; "
                "do not deploy it before you know why"
            )
    return rows


def int8_kernels_note() -> str:
    """Return which of ONNX Runtime's INT8 kernels the INT8 row ran on, and what other sessions have to ask for."""
    key, value = PRECISE_OPTION
    if why := why_int8_saturates():
        return (
            f"{why}; the INT8 row ran on the exact ones, which OrtRuntime opens and other sessions get by "
            f"{key}={value}; the row {SATURATING_ROW!r} is a session without it"
        )
    return f"They are exact on this CPU; on x86 without VNNI set {key}={value}, as OrtRuntime does"


def _has_saturating_row(options: ExportOptions, artefacts: Artefacts) -> bool:
    exact = options.target.exact_int8_simulation
    return artefacts.int8 is not None and not exact and bool(why_int8_saturates())


def _parity(
    options: ExportOptions,
    artefacts: Artefacts,
    images: ChosenImages,
    classes: ClassIndex | None,
    terminal: Terminal,
) -> dict[str, ParityReport]:
    from exporter.cli.export_job import stream
    from runtimes.ort import OrtRuntime
    from runtimes.pytorch import TorchRuntime

    loaded = artefacts.exported.loaded
    exact = options.target.exact_int8_simulation
    with ExitStack() as stack:
        reference = stack.enter_context(TorchRuntime(loaded.module))
        candidates = {
            name: stack.enter_context(OrtRuntime(model, exact_qdq=exact))
            for name, model in model_files(artefacts).values()
        }
        if artefacts.int8 is not None and _has_saturating_row(options, artefacts):
            saturating = OrtRuntime(artefacts.int8.quantized.model, allow_saturation=True)
            candidates[SATURATING_ROW] = stack.enter_context(saturating)
        meters = {name: ParityMeter() for name in ("PyTorch FP32", *candidates)}
        for batch in stream("comparing", images.measured, loaded.preprocessing, images.allowed_bad, terminal):
            labels = None if classes is None else [classes.of[path] for path in batch.paths]
            expected = first_output(reference, batch.images)
            meters["PyTorch FP32"].add(expected, expected, labels)
            for name, candidate in candidates.items():
                meters[name].add(expected, first_output(candidate, batch.images), labels)
    return {name: meter.report() for name, meter in meters.items()}


def _latency(options: ExportOptions, artefacts: Artefacts, terminal: Terminal) -> dict[str, Latency]:
    """Time one image through each file, alone, on the CPU, in the sessions that parity is measured in.

    Files for TensorRT run as ONNX Runtime optimizes them, not as they are written: nobody would deploy that.
    """
    from runtimes.ort import OrtRuntime

    height, width = artefacts.exported.loaded.preprocessing.input_size
    image = {"input": np.zeros((1, 3, height, width), np.float32)}
    result: dict[str, Latency] = {}
    files = model_files(artefacts).values()
    for name, model in terminal.track("timing", files, total=len(files)):
        with OrtRuntime(model) as runtime:
            result[name] = measure_latency(lambda opened=runtime: opened.run(image))  # type: ignore[misc]
    if artefacts.int8 is not None and _has_saturating_row(options, artefacts):
        with OrtRuntime(artefacts.int8.quantized.model, allow_saturation=True) as runtime:
            result[SATURATING_ROW] = measure_latency(lambda: runtime.run(image))
    return result


def rows_to_json(rows: list[Row], sizes: Mapping[str, int]) -> list[dict[str, Any]]:
    """Return the rows as `report.json` holds them."""
    return [
        {
            "name": row.name,
            "file": row.file,
            "parity": None if row.parity is None else row.parity.to_json(),
            "size_bytes": None if row.file is None else sizes[row.file],
            "latency": None
            if row.latency is None
            else {
                "provider": "CPUExecutionProvider",
                "batch": 1,
                "p50_ms": row.latency.p50_ms,
                "p10_ms": row.latency.p10_ms,
                "p90_ms": row.latency.p90_ms,
                "num_runs": row.latency.num_runs,
            },
        }
        for row in rows
    ]
