"""Quantize every variant at every `--effort` and write whether TensorRT-RTX builds it: docs/variants_efforts.md.

    python benchmarks/sweep_efforts.py [--only resnet18,densenet121] [--family cifar_resnet] [--size 64] [--again]

`benchmarks/sweep.py` checks the variants themselves; this looks at the INT8 files of one export, weights, images and
processes as there. What a file must be is read from the file, not from what was planned. A row is green when at each
effort every layer of the placement multiplies INT8 by INT8 with zero point 0 and a positive, finite scale, each
residual Add has Q/DQ on exactly one side, the nodes are those of the other efforts but for added biases, once zero
points are given back (rectifiers return, Pads go), and TensorRT-RTX builds the file.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import sweep_rows
from onnx import ModelProto, numpy_helper
from quantizer_dialect import TENSORRT, dialect_of
from sweep_rows import Row, Stage


def fill(row: Row, name: str, size: int | None) -> None:
    """Fill one row."""
    from calibration.methods.effort import EFFORTS
    from exporter.tracing.export import ExportConfig, export_loaded

    variant = sweep_rows.load_variant(row, name, size)
    with Stage(row, "export"):
        model = export_loaded(variant.loaded, ExportConfig()).onnx
    expected = sweep_rows.logits(model, variant.compared)
    row["efforts"], nodes = {}, []
    for effort, steps in EFFORTS.items():
        found = row["efforts"][str(effort)] = {}
        with Stage(row, f"effort {effort}"):
            result = sweep_rows.quantize_variant(model, variant, steps)
        quantized = result.quantized.model
        found["wrong"] = what_is_wrong(quantized, result.quantized.placement)
        found["sqnr_db"] = sweep_rows.sqnr_db(expected, sweep_rows.logits(quantized, variant.compared))
        nodes.append(wiring(quantized, model))
        with Stage(row, f"build {effort}"):
            found["engine"] = sweep_rows.engine_bytes(quantized)
    row["same_nodes"] = all(each == nodes[0] for each in nodes)
    placement = result.quantized.placement
    row["layers"], row["adds"] = len(placement.weights), len(placement.residual_adds)


def wiring(model: ModelProto, reference: ModelProto) -> list[tuple[str, ...]]:
    """Return operator, inputs and outputs of every node as they are with zero points, and without biases.

    A layer that had no bias may get one by correction.
    """
    from calibration.qdq.offsets import give_offsets_back

    nodes = []
    for node in give_offsets_back(model, reference).graph.node:
        layer, pair = node.op_type in ("Conv", "Gemm"), node.op_type in ("QuantizeLinear", "DequantizeLinear")
        nodes.append((node.op_type, *node.input[: 2 if layer else 1 if pair else None], *node.output))
    return nodes


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


def wrong(row: Row) -> str:
    found = [f"effort {effort}: {one}" for effort, of_effort in row["efforts"].items() for one in of_effort["wrong"]]
    return "; ".join(found if row["same_nodes"] else [*found, "the nodes differ between efforts"])


def cells(row: Row) -> list[str]:
    efforts = row["efforts"]
    return [
        sweep_rows.pixels(row),
        str(row["layers"]),
        str(row["adds"]) if row["adds"] else "none",
        " / ".join(sweep_rows.decibel(found["sqnr_db"], 1) for found in efforts.values()),
        sweep_rows.megabytes(found["engine"] for found in efforts.values()),
        " / ".join(f"{row['seconds'][f'effort {effort}']:.0f}" for effort in efforts),
    ]


SWEEP = sweep_rows.Sweep(
    script=Path(__file__),
    description=__doc__ or "",
    document=sweep_rows.ROOT / "docs" / "variants_efforts.md",
    fill=fill,
    wrong=wrong,
    opening=(
        "# Variants at every effort",
        "",
        "Written by `make sweep-efforts` (`benchmarks/sweep_efforts.py`), which says what is checked and what makes a",
        "row green. Weights are random with the statistics of trained ones, so SQNR compares arithmetic, not accuracy;",
        "seconds are for orientation. `--size` makes the images smaller; the column tells what was run.",
        "A verdict with a date is of an earlier run, by the code of that day; the others:",
    ),
    header=(
        "model | verdict | input | layers in INT8 | Adds with Q/DQ on one side | SQNR at effort 0 / 1 / 2 "
        "| RTX plan at 0 / 1 / 2 | seconds to quantize at 0 / 1 / 2"
    ),
    cells=cells,
)

if __name__ == "__main__":
    sys.exit(sweep_rows.run_all(SWEEP))
