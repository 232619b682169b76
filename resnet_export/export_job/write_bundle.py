"""Write what was computed as a bundle, manifest last, and return the report."""

from __future__ import annotations

import json
import platform
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from calibration.mixed_precision.output_error import error_json
from calibration.pipeline.judge import Judgement
from exporter.bundle.tool_entry import tool_entry
from exporter.bundle.write_folder import bundle_folder, file_entries, write_json, write_manifest
from exporter.models.check_images import load_hard_frames
from exporter.passes.convert_opset import BATCH_AXIS
from exporter.passes.pre_post_options import Finish
from exporter.tracing.check_pre_post import expected_outputs
from resnet_export.export_job.calibrate import calibration_report
from resnet_export.export_job.context.artifacts import Artifacts
from resnet_export.export_job.context.options import ExportOptions
from resnet_export.export_job.context.run import ExportRun
from resnet_export.export_job.measure import SATURATING_ROW, MeasuredRow, int8_kernels_note, row_json
from resnet_export.export_job.refused_forms import ANY_ENGINE
from runtimes.bundle import file_names
from runtimes.bundle.manifest import Manifest, TensorEntry
from runtimes.bundle.precision import option_words
from runtimes.bundle.signature import SIGNATURE_NAME, load_private_key, sign
from runtimes.machine.installed_versions import installed_versions
from runtimes.metrics.answer_kind import KEY
from runtimes.metrics.parity import first_output
from runtimes.preprocessing.restore_pixels import pixels_of
from runtimes.protocol import outputs_of

LIBRARIES = ("torch", "torchvision", "timm", "onnx", "onnxruntime-gpu", "onnxruntime", "numpy", "pillow")


def write_bundle(run: ExportRun, artifacts: Artifacts, rows: list[MeasuredRow]) -> dict[str, Any]:
    """Write the bundle and return what `report.json` holds.

    Raises:
        ExportError: If the disk refuses; nothing is left behind.
    """
    options, loaded = run.options, run.loaded
    arrays = _golden_arrays(run, artifacts)
    with bundle_folder(options.folder, force=options.force) as folder:
        for file, model in artifacts.finished.items():
            onnx.save_model(model, folder / file)
        if artifacts.dla is not None:
            artifacts.dla.write(folder)
        if artifacts.table is not None:
            write_json(folder / file_names.CALIBRATION_NAME, artifacts.table.to_json())
        if loaded.gives_logits:
            labels = loaded.labels or tuple(str(index) for index in range(loaded.num_classes))
            (folder / file_names.LABELS_NAME).write_text("\n".join(labels) + "\n", encoding="utf-8")
        np.savez_compressed(folder / file_names.GOLDEN_NAME, allow_pickle=False, **arrays)
        report = _report(run, artifacts, rows, {path.name: path.stat().st_size for path in folder.iterdir()})
        write_json(folder / file_names.REPORT_NAME, report)
        write_manifest(folder, _manifest(options, artifacts, report, folder))
        if options.sign is not None:
            content = (folder / file_names.MANIFEST_NAME).read_bytes()
            (folder / SIGNATURE_NAME).write_bytes(sign(content, load_private_key(options.sign)))
    return report


def _golden_arrays(run: ExportRun, artifacts: Artifacts) -> dict[str, NDArray[Any]]:
    """Return `input` as the files take it, what the reference gives under the outputs' names, and its `logits`."""
    loaded, finish = run.loaded, artifacts.finish
    given = pixels_of(loaded.preprocessing, run.golden) if finish.uint8_input else run.golden
    answers = [outputs_of(run.reference, image[np.newaxis]) for image in run.golden]  # one at a time: maps are large
    plain = {name: np.concatenate([answer[name] for answer in answers]) for name in loaded.outputs}
    first = plain[loaded.outputs[0]]
    head = expected_outputs(first, finish)
    logits = {"logits": first} if first.ndim == 2 else {}
    return {"input": given, **logits, **plain, **head, **_hard_arrays(run, finish)}


def _hard_arrays(run: ExportRun, finish: Finish) -> dict[str, NDArray[Any]]:
    """Return the frames of `HARD_FRAMES` as the files take them, and the reference's first output; no photographs."""
    preprocessing = run.loaded.preprocessing
    frames = load_hard_frames(preprocessing)
    answers = np.concatenate([first_output(run.reference, frame[np.newaxis]) for frame in frames])
    given = pixels_of(preprocessing, frames) if finish.uint8_input else frames
    return {"hard_input": given, **({"hard_logits": answers} if answers.ndim == 2 else {})}


def _report(run: ExportRun, artifacts: Artifacts, rows: list[MeasuredRow], sizes: Mapping[str, int]) -> dict[str, Any]:
    options, images, reporter = run.options, run.images, run.reporter
    return {
        "bundle": str(options.folder),
        "model": artifacts.exported.loaded.model_id,
        "steps": list(reporter.messages),
        "warnings": list(reporter.warnings),
        "reference": artifacts.exported.loaded.reference_name,
        "post_export_check": {
            "batch_sizes": list(artifacts.check.batch_sizes),
            "max_abs_diff": artifacts.check.max_abs_diff,
            "max_abs_logit": artifacts.check.max_abs_logit,
            "hard_frames": dict(artifacts.hard),
        },
        "measured_on": images.measured_from if images.measured else None,
        "calibration": None if artifacts.table is None else calibration_report(artifacts.table, artifacts.exported),
        "int8_arithmetic": _int8_arithmetic(options) if options.int8 else None,
        "rows": [row_json(row, sizes) for row in rows if row.is_as_written],
        "plain_sessions": [row_json(row, sizes) for row in rows if row.is_plain],
        "other_runtimes": [row_json(row, sizes) for row in rows if row.is_elsewhere],
        "int8_default_kernels": next((row_json(row, sizes) for row in rows if row.name == SATURATING_ROW), None),
        "dla": None if artifacts.dla is None else dict(artifacts.dla.report),
        "accuracy_budget": None if artifacts.budget is None else artifacts.budget.report,
        "keep_float": artifacts.keep_float,
        "machine": f"{platform.machine()}, {platform.system()}",
        "next": next_command(options, reporter.doubted),
    }


def _int8_arithmetic(options: ExportOptions) -> str:
    if options.target.exact_int8_simulation:
        return "as written in the file (quantize, dequantize, float sums), the way TensorRT computes it"
    return "ONNX Runtime's integer kernels. " + int8_kernels_note()


def next_command(options: ExportOptions, doubted: Collection[str]) -> str:
    """Return what to type next: build the engine on the device, or open the file in ONNX Runtime.

    Args:
        options: Of the job.
        doubted: What its warnings say not to deploy: files, or `ANY_ENGINE`.
    """
    folder = quote(str(options.folder))
    precision = next((each for each in options.precisions if file_names.MODEL_FILES[each] not in doubted), None)
    if precision is None:
        return f"resnet-export verify {folder} --bisect"
    if options.target.name == "onnxruntime" or ANY_ENGINE in doubted:
        path = options.folder / file_names.MODEL_FILES[precision]
        code = f"import runtimes; print(runtimes.OrtRuntime({json.dumps(str(path), ensure_ascii=False)}).input_specs)"
        return f"python -c {quote(code)}"
    words = option_words(precision)
    for_dla = [
        each for each in ("int8", "fp16") if getattr(options, each) and file_names.DLA_FILES[each] not in doubted
    ]
    if options.dla and for_dla:  # one batch size, and no file of INT8 with FP16
        words = f"--{for_dla[0]} --dla 0 --batch {options.batch.opt}"
    return f"resnet-export build {folder} {words}   (on the device)"


def _manifest(options: ExportOptions, artifacts: Artifacts, report: dict[str, Any], folder: Path) -> Manifest:
    exported, loaded = artifacts.exported, artifacts.exported.loaded
    written = artifacts.finished[file_names.MODEL_FILES["fp32"]]
    return Manifest(
        model={
            "id": loaded.model_id,
            "source": loaded.source,
            "weights": loaded.weights,
            "weights_sha256": loaded.weights_sha256,
            "num_classes": loaded.num_classes if loaded.gives_logits else None,
            "classes_named": loaded.labels is not None,
            "reference": loaded.reference_name,
            **({} if artifacts.answers is None else {KEY: artifacts.answers.value}),
        },
        preprocessing=loaded.preprocessing,
        inputs=tuple(_tensor_entry(info) for info in written.graph.input),
        outputs=tuple(_tensor_entry(info) for info in written.graph.output),
        batch=options.batch,
        target=options.target.name,
        opset=exported.config.resolved_opset,
        ir_version=exported.onnx.ir_version,
        tool=tool_entry(),
        libraries={"python": platform.python_version(), "platform": platform.platform()}
        | installed_versions(LIBRARIES),
        options=options.to_json(),
        folding={
            "folded": [list(pair) for pair in exported.folding.folded],
            "kept": [list(pair) for pair in exported.folding.kept],
        },
        quantization=_quantization(artifacts),
        parity={key: report[key] for key in ("measured_on", "post_export_check", "int8_arithmetic", "rows")},
        files=file_entries(folder),
    )


def _tensor_entry(info: onnx.ValueInfoProto) -> TensorEntry:
    kind = info.type.tensor_type
    shape = tuple(dim.dim_param or dim.dim_value for dim in kind.shape.dim)
    assert shape[0] == BATCH_AXIS  # trace() refuses anything else
    return TensorEntry(info.name, onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name, shape)


def _quantization(artifacts: Artifacts) -> dict[str, Any] | None:
    if artifacts.int8 is None:
        return None
    placement, table = artifacts.int8.quantized.placement, artifacts.int8.table
    return {
        "dialect": table.dialect.value,
        "method": dict(table.method),
        "num_images": table.num_images,
        "effort": asdict(artifacts.int8.effort) | {"zero_points": artifacts.int8.effort.zero_points.value},
        "num_refinement_images": artifacts.int8.num_sample,
        "wide_layers": _judgement(artifacts.int8.wide_layers),
        "channel_groups_scaled": artifacts.int8.num_groups,
        "layers": [asdict(layer) for layer in artifacts.int8.refinement],
        "activations": len(placement.activations),
        "weights": len(placement.weights),
        "residual_adds_quantized": len(placement.residual_adds),
        "residual_adds": placement.num_adds,
        "skipped": list(placement.skipped),
    }


def _judgement(judgement: Judgement | None) -> dict[str, Any] | None:
    if judgement is None:
        return None
    sides = {"without": error_json(judgement.without), "with": error_json(judgement.with_step)}
    return {"rounded": judgement.helps, **sides}
