"""The passes that every float graph goes through, traced here or written elsewhere: one shape for all that follow."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import ModelProto

from exporter.graph.onnx_graph import infer_shapes
from exporter.passes.canonicalize_ops import canonical_ops
from exporter.passes.decompose_gelu import spell_out_gelu
from exporter.passes.fold_affine import AffineFolds, fold_affine
from exporter.passes.fold_constants import fold_constants
from exporter.passes.input_layout import fold_input_layout
from exporter.passes.split_maxpool_padding import split_zero_padding


@dataclass(frozen=True, slots=True, eq=False)
class TidyGraph:
    """A tidied copy.

    Attributes:
        model: Constants computed, operators canonical, affine maps folded; without declared intermediate shapes.
        folds: What became of every BatchNormalization.
        skipped: Why something that could be computed was not.
    """

    model: ModelProto
    folds: AffineFolds
    skipped: tuple[str, ...]


def tidy_graph(model: ModelProto) -> TidyGraph:
    """Return `model` tidied; nodes must have unique names.

    Raises:
        WeightsError: If folding gives a weight that is not finite.
    """
    constants = fold_constants(model)
    canonical = spell_out_gelu(canonical_ops(constants.model).model).model
    folds = fold_affine(split_zero_padding(infer_shapes(canonical)).model)
    return TidyGraph(fold_input_layout(folds.model), folds, constants.skipped)
