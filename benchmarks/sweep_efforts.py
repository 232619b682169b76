"""Quantize every variant at every `--effort` and write whether TensorRT-RTX builds it: docs/variants_efforts.md.

    python benchmarks/sweep_efforts.py [--only resnet18,densenet121] [--family cifar_resnet] [--size 64] [--again]

`benchmarks/sweep.py` checks the variants themselves; this looks at the INT8 files of one export, weights, images and
processes as there. What a file must be is read from the file, not from what was planned. A row is green when at each
effort every layer of the placement multiplies INT8 by INT8 with zero point 0 and a positive, finite scale, each
residual Add has Q/DQ on exactly one side, the nodes but for added biases are those of the other efforts, and
TensorRT-RTX builds the file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, numpy_helper
from quantizer_dialect import TENSORRT, dialect_of
from sweep_rows import (
    ROOT,
    Row,
    Stage,
    Sweep,
    conditions,
    decibel,
    engine_bytes,
    load_variant,
    logits,
    megabytes,
    pixels,
    quantize_variant,
    run_all,
    sqnr_db,
    told_error,
)


def fill(row: Row, name: str, size: int | None) -> None:
    """Fill one row."""
    from calibration.methods.effort import EFFORTS
    from exporter.tracing.export import ExportConfig, export_loaded

    variant = load_variant(row, name, size)
    with Stage(row, "export"):
        model = export_loaded(variant.loaded, ExportConfig()).onnx
    expected = logits(model, variant.compared)
    row["efforts"], nodes = {}, []
    for effort, steps in EFFORTS.items():
        found = row["efforts"][str(effort)] = {}
        with Stage(row, f"effort {effort}"):
            result = quantize_variant(model, variant, steps)
        quantized = result.quantized.model
        found["wrong"] = what_is_wrong(quantized, result.quantized.placement)
        found["sqnr_db"] = sqnr_db(expected, logits(quantized, variant.compared))
        nodes.append([_without_bias(node) for node in quantized.graph.node])
        with Stage(row, f"build {effort}"):
            found["engine"] = engine_bytes(quantized)
    row["same_nodes"] = all(each == nodes[0] for each in nodes)
    placement = result.quantized.placement
    row["layers"], row["adds"] = len(placement.weights), len(placement.residual_adds)


def _without_bias(node: NodeProto) -> tuple[str, ...]:
    """Return operator, inputs and outputs: a layer that had no bias may get one by correction."""
    inputs = node.input[:2] if node.op_type in ("Conv", "Gemm") else node.input
    return (node.op_type, *inputs, *node.output)


def what_is_wrong(model: ModelProto, placement: Any) -> list[str]:
    """Read a quantized file; return what it should not be, nothing where it is well."""
    wrong = []
    dialect = dialect_of(model)
    if dialect.name != TENSORRT:
        wrong.append(f"its dialect is {dialect.name}: {', '.join(dialect.reasons)}")
    if dialect.num_integer != len(placement.weights):
        wrong.append(f"{dialect.num_integer} layers multiply INT8, {len(placement.weights)} were planned")
    producer = {output: node for node in model.graph.node for output in node.output}
    adds = {add.name for add in placement.residual_adds}
    for node in model.graph.node:
        if node.name in adds:
            sides = [producer[name].op_type == "DequantizeLinear" for name in node.input if name in producer]
            if sides.count(True) != 1:
                wrong.append(f"{node.name} has Q/DQ on {sides.count(True)} sides")
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in {node.input[1] for node in model.graph.node if node.op_type == "QuantizeLinear"}:
        scale = numpy_helper.to_array(constants[name])
        if not (np.isfinite(scale).all() and (scale > 0).all()):
            wrong.append(f"scale {name} is not positive and finite")
    return wrong


def verdict(row: Row) -> str:
    """Return "green", or in a few words why not."""
    if "error" in row:
        return told_error(row)
    wrong = [f"effort {effort}: {one}" for effort, found in row["efforts"].items() for one in found["wrong"]]
    if not row["same_nodes"]:
        wrong.append("the nodes differ between efforts")
    return "; ".join(wrong) or "green"


def page(rows: dict[str, Row]) -> str:
    from exporter.models.model_names import FAMILIES

    lines = [
        "# Variants at every effort",
        "",
        "Written by `make sweep-efforts` (`benchmarks/sweep_efforts.py`), which says what is checked and what makes a",
        "row green. Weights are random with the statistics of trained ones, so SQNR compares arithmetic, not accuracy;",
        "seconds are for orientation. `--size` makes the images smaller; the column tells what was run.",
        conditions(rows),
        "",
    ]
    for family in FAMILIES.values():
        lines += [f"## {family.title}", "", *HEADER]
        for name in family.models:
            lines.append(f"| {name} | {cells(rows[name]) if name in rows else 'not run yet'} |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


HEADER = (
    "| model | verdict | input | layers in INT8 | Adds with Q/DQ on one side | SQNR at effort 0 / 1 / 2 "
    "| RTX plan at 0 / 1 / 2 | seconds to quantize at 0 / 1 / 2 |",
    "|---|---|---|---|---|---|---|---|",
)


def cells(row: Row) -> str:
    if "error" in row:
        return " | ".join([verdict(row), *["-"] * 6])
    efforts = row["efforts"]
    return " | ".join(
        [
            verdict(row),
            pixels(row),
            str(row["layers"]),
            str(row["adds"]) if row["adds"] else "none",
            " / ".join(decibel(found["sqnr_db"], 1) for found in efforts.values()),
            megabytes(found["engine"] for found in efforts.values()),
            " / ".join(f"{row['seconds'][f'effort {effort}']:.0f}" for effort in efforts),
        ]
    )


SWEEP = Sweep(
    script=Path(__file__),
    description=__doc__ or "",
    document=ROOT / "docs" / "variants_efforts.md",
    results=ROOT / "build" / "sweep_efforts",
    fill=fill,
    verdict=verdict,
    page=page,
)

if __name__ == "__main__":
    sys.exit(run_all(SWEEP))
