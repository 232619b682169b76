"""Export every variant and write what came of it: docs/variants.md.

    python benchmarks/sweep.py [--only resnet18,densenet121] [--family cifar_resnet] [--size 64] [--again]

Each variant is a process of its own, so that one that crashes or hangs is one red row. What a process found is a JSON
file in --results; a later run skips variants that have one (--again does not), and the table shows all there are.

Weights are random, with the statistics of trained ones (`--weights random`): structure, types and arithmetic are
checked, accuracy is not. A row is green when FP32 equals PyTorch within 1e-4 of the largest logit at batch 1, 2 and 7
(where float32 itself rounds by more: is as near to PyTorch in float64 as PyTorch in float32 is, within a factor of 2),
every FP16 activation is finite, INT8 holds every layer that the placement names, and TensorRT-RTX builds all three.
"""

from __future__ import annotations

import sys
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import sweep_rows
from sweep_rows import Row, Stage

PUBLISHED_PARAMETERS = {
    # He et al. 2015, as torchvision counts them, and table 6 for CIFAR-10 (in millions, as printed there).
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "cifar_resnet20_a": 0.27e6,
    "cifar_resnet32_a": 0.46e6,
    "cifar_resnet44_a": 0.66e6,
    "cifar_resnet56_a": 0.85e6,
    "cifar_resnet110_a": 1.7e6,
    "cifar_resnet1202_a": 19.4e6,
}


def fill(row: Row, name: str, size: int | None) -> None:
    """Fill one row."""
    from calibration.methods.effort import DEFAULT_EFFORT, EFFORTS
    from exporter.passes.float16 import float16_from_float32
    from exporter.tracing.check_export import check_against_pytorch, first_nonfinite_tensor
    from exporter.tracing.export import ExportConfig, export_loaded
    from exporter.tracing.float32_rounding import exact_outputs
    from runtimes.ort.adapter import OrtRuntime
    from runtimes.pytorch import TorchRuntime

    variant = sweep_rows.load_variant(row, name, size)
    loaded, compared = variant.loaded, variant.compared
    row["parameters"] = sum(parameter.numel() for parameter in loaded.module.parameters())
    row["macs"] = macs_of(loaded.module, loaded.preprocessing.input_size)

    with Stage(row, "export"):
        exported = export_loaded(loaded, ExportConfig())
    row["folded"] = len(exported.folding.folded)
    row["kept"] = dict(Counter(general(reason) for _, reason in exported.folding.kept))
    with Stage(row, "compare"), TorchRuntime(loaded.module) as reference:
        in_float64 = partial(exact_outputs, loaded.module)
        check = check_against_pytorch(reference, exported.onnx, compared, open_runtime=OrtRuntime, exact=in_float64)
        expected = reference.run({"input": compared})["logits"]
    row["parity"] = check.relative
    row["rounding"] = None if check.max_rounding is None else check.max_rounding / check.max_abs_logit

    with Stage(row, "fp16"):
        half = float16_from_float32(exported.onnx).model
        row["fp16_nonfinite"] = first_nonfinite_tensor(half, compared[:2], open_runtime=OrtRuntime)
    row["fp16_sqnr_db"] = sweep_rows.sqnr_db(expected, sweep_rows.logits(half, compared))
    with Stage(row, "int8"):
        quantized = sweep_rows.quantize_variant(exported.onnx, variant, EFFORTS[DEFAULT_EFFORT]).quantized
    row["int8_sqnr_db"] = sweep_rows.sqnr_db(expected, sweep_rows.logits(quantized.model, compared))
    placement = quantized.placement
    row["int8"] = {
        "layers": len(placement.weights),
        "tensors": len(placement.activations),
        "adds": len(placement.residual_adds),
        "all_adds": placement.num_adds,
        "gated_adds": sum(add.kernel != "Conv" for add in placement.residual_adds),
        "shared_scales": len(placement.shared_scales),
        "skipped": dict(Counter(sentence.partition(": ")[2] for sentence in placement.skipped)),
    }
    row["engines"] = {}
    with Stage(row, "build"):
        for precision, model in (("fp32", exported.onnx), ("fp16", half), ("int8", quantized.model)):
            row["engines"][precision] = sweep_rows.engine_bytes(model)


def general(reason: str) -> str:
    """Return a reason without the names in it, so that equal ones can be counted."""
    return " ".join("..." if word.startswith(("'", "max_", "relu", "add_")) else word for word in reason.split())


def macs_of(module: Any, input_size: tuple[int, int]) -> int:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        module(torch.zeros(1, 3, *input_size))
    return int(counter.get_total_flops()) // 2  # a MAC is two floating-point operations


# The table


def wrong(row: Row) -> str:
    return "" if row["fp16_nonfinite"] is None else f"FP16 overflows in {row['fp16_nonfinite']}"


def closing(rows: dict[str, Row]) -> list[str]:
    """Return why something is not folded, or stays in float, with the variants of which it holds."""
    from exporter.models.model_names import FAMILIES

    notes: dict[str, list[str]] = {}
    for name in (name for family in FAMILIES.values() for name in family.models if name in rows):
        for note in notes_of(rows[name]):
            notes.setdefault(note, []).append(name)
    lines = [f"- {note} ({', '.join(names)})" for note, names in notes.items()]
    return ["## Why something is not folded, or stays in float", "", *lines]


def cells(row: Row) -> list[str]:
    int8 = row["int8"]
    layers = sum(count for reason, count in int8["skipped"].items() if is_layer(reason))
    adds = f"{int8['adds']} of {int8['all_adds']}" if int8["all_adds"] else "none"
    adds += f" ({int8['gated_adds']} behind a gate)" if int8["gated_adds"] else ""
    return [
        parameters(row),
        f"{row['macs'] / 1e9:.2f} G" if row["macs"] >= 1e8 else f"{row['macs'] / 1e6:.1f} M",
        sweep_rows.pixels(row),
        f"{row['parity']:.1e}",
        f"{row['folded']} / {sum(row['kept'].values())}",
        sweep_rows.decibel(row["fp16_sqnr_db"]),
        sweep_rows.decibel(row["int8_sqnr_db"]),
        f"{int8['layers']}" + (f", {layers} in float" if layers else ""),
        adds,
        sweep_rows.megabytes(row["engines"][key] for key in ("fp32", "fp16", "int8")),
        f"{row['seconds']['all']:.0f}",
    ]


def parameters(row: Row) -> str:
    published = PUBLISHED_PARAMETERS.get(row["name"])
    if published is None:
        return f"{row['parameters']:,}"
    digits = 1e-9 if isinstance(published, int) else 0.03  # the paper prints two or three digits
    agrees = abs(row["parameters"] / published - 1) <= digits
    return f"{row['parameters']:,} ({'as published' if agrees else f'published: {published:,.0f}'})"


def is_layer(reason: str) -> bool:
    from calibration.placement.residual_adds import LAYER_NORM, NO_CONV

    return reason not in (LAYER_NORM, NO_CONV)


def notes_of(row: Row) -> list[str]:
    if "error" in row:
        return []
    notes = [f"BatchNorm kept as one affine operation: {reason}" for reason in row["kept"]]
    if rounding := row.get("rounding"):
        notes.append(f"PyTorch's own float32 is off by {rounding:.1e} of the largest logit from its float64")
    return notes + [f"In float: {reason}" for reason in row["int8"]["skipped"]]


SWEEP = sweep_rows.Sweep(
    script=Path(__file__),
    description=__doc__ or "",
    document=sweep_rows.ROOT / "docs" / "variants.md",
    fill=fill,
    wrong=wrong,
    opening=(
        "# Variants",
        "",
        "Written by `make sweep` (`benchmarks/sweep.py`), which says what is checked and what makes a row green.",
        "Weights are random with the statistics of trained ones, so SQNR compares arithmetic, not accuracy.",
    ),
    header=(
        "model | verdict | parameters | MACs | input | FP32 parity | BatchNorms folded / kept | FP16 | INT8 "
        "| layers in INT8 | residual Adds | RTX plans FP32 / FP16 / INT8 | seconds"
    ),
    cells=cells,
    closing=closing,
)

if __name__ == "__main__":
    sys.exit(sweep_rows.run_all(SWEEP))
