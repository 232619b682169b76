"""Optimize what `torch.onnx` traced, without what its optimizer would lose: small constants, BatchNorm's own folding.

    x + c, x - c with 0 < |c| <= 1e-8, and x * c, x / c with 0 < |c - 1| <= 1e-5   ->  x

onnxscript's rules compare a constant that has no axes with 0 and 1 within these tolerances, in any type (seen with
0.7.0 to 0.7.2). What is lost is what keeps `x / (x.sum() + 1e-8)` finite on a black picture. The rules do not look at
constants with an axis, so such a constant gets one, [1], before the optimizer runs; by broadcasting the result is the
same where the other operand has an axis too.

Another of its rules folds BatchNormalization in float32. `exporter.passes.fold_affine` folds in float64 and says what
it folded into what, so BatchNormalization goes by a name of another domain while the optimizer runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.onnx import ONNXProgram

_HIDDEN = "resnet_export.hidden"

ADDED = ("Add", "Sub")
MULTIPLIED = ("Mul", "Div")

ADDED_TOLERANCE, MULTIPLIED_TOLERANCE = 1e-8, 1e-5
"""Source: onnxscript 0.7.2, rewriter/_pattern_ir.py, class Constant (abs_tol, rel_tol)."""


def optimize(program: ONNXProgram) -> None:
    """Optimize a program that was exported with `optimize=False`, in place, and lose nothing of the docstring."""
    from onnxscript import optimizer

    optimizer.inline(program.model)
    optimizer.fold_constants(program.model)  # computed ones too
    _give_an_axis(program.model)
    for node in program.model.graph:
        if node.op_type == "BatchNormalization":
            node.domain = _HIDDEN
    program.optimize()
    for node in program.model.graph:
        if node.domain == _HIDDEN:
            node.domain = ""


def _give_an_axis(model: Any) -> None:
    import numpy as np
    import onnx_ir as ir

    for node in list(model.graph):
        if node.domain not in ("", "ai.onnx") or node.op_type not in (*ADDED, *MULTIPLIED):
            continue
        for place, value in enumerate(node.inputs):
            constant = ir.convenience.get_const_tensor(value) if value is not None else None
            other = node.inputs[1 - place]
            if constant is None or constant.size != 1 or len(constant.shape) or not _has_axes(other):
                continue
            array = np.asarray(constant.numpy())
            if array.dtype.kind == "f" and is_nearly_neutral(node.op_type, float(array)):
                name = f"{node.outputs[0].name}.constant"
                given = ir.Value(name=name, const_value=ir.tensor(array.reshape(1), name=name))
                model.graph.register_initializer(given)
                node.replace_input_with(place, given)


def _has_axes(value: Any) -> bool:
    return value is not None and value.shape is not None and len(value.shape) > 0


def is_nearly_neutral(op_type: str, constant: float) -> bool:
    """Tell whether adding or multiplying by a number changes little, but something."""
    neutral, tolerance = (0.0, ADDED_TOLERANCE) if op_type in ADDED else (1.0, MULTIPLIED_TOLERANCE)
    return constant != neutral and abs(constant - neutral) <= 2 * tolerance
