"""The passes that every float graph goes through, traced here or written elsewhere: one shape for all that follow."""

from __future__ import annotations

from onnx import ModelProto

from exporter.graph.onnx_graph import infer_shapes
from exporter.passes.canonicalize_ops import canonical_ops
from exporter.passes.decompose_gelu import spell_out_gelu
from exporter.passes.fold_affine import FoldReport, fold_affine
from exporter.passes.fold_constants import fold_constants
from exporter.passes.input_layout import fold_input_layout
from exporter.passes.split_maxpool_padding import split_zero_padding


def tidy_graph(model: ModelProto) -> tuple[ModelProto, FoldReport]:
    """Return `model` tidied, and what became of every BatchNormalization; nodes must have unique names.

    The result declares no intermediate shapes: constants are computed, operators canonical, affine maps folded.

    Raises:
        WeightsError: If folding gives a weight that is not finite.
    """
    canonical = spell_out_gelu(canonical_ops(fold_constants(model).model).model).model
    folded, report = fold_affine(split_zero_padding(infer_shapes(canonical)).model)
    return fold_input_layout(folded), report
