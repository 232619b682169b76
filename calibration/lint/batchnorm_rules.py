"""Remains of training: BatchNormalization that could be folded into the layer before it, and what draws by chance.

Folded, a BatchNormalization costs nothing and quantizes with the weights. Which ones fold is decided by the code that
folds (`exporter.passes.fold_affine`); its answer is handed in.
"""

from __future__ import annotations

from collections.abc import Iterator

from calibration.lint.finding import Finding, Grouped, Rule, Severity
from calibration.lint.quantized_graph import QuantizedGraph
from calibration.lint.rule_registry import BatchNormFate, RuleFamily, rules_in
from exporter.graph.unstable_nodes import is_batchnorm_in_training, unstable_nodes

FOLDABLE = Rule(
    "B001",
    "batchnorm-foldable",
    Severity.WARNING,
    "No BatchNormalization is left behind a layer that could take it in",
    "Fold it before quantizing: resnet-export MODEL.onnx does, and so does torch.onnx.export after model.eval()",
)
KEPT = Rule(
    "B002",
    "batchnorm-kept",
    Severity.NOTE,
    "BatchNormalization that cannot be folded",
    "Nothing: TensorRT runs it as one pointwise layer",
)
TRAINING = Rule(
    "B003",
    "batchnorm-training",
    Severity.ERROR,
    "BatchNormalization uses stored statistics",
    "Call model.eval() before exporting",
)
CHANCE = Rule(
    "B004",
    "answer-by-chance",
    Severity.ERROR,
    "Nothing draws by chance: no Dropout in training mode, no random operator",
    "Call model.eval() before exporting; F.dropout needs training=self.training",
)


def check(graph: QuantizedGraph, fate: BatchNormFate | None) -> Iterator[Finding]:
    """Yield every BatchNormalization; without `fate` only that it is there."""
    grouped = Grouped()
    for node, what in unstable_nodes(graph.model.graph):
        if node.op_type != "BatchNormalization":
            grouped.add(CHANCE, f"a {node.op_type} {what.removeprefix('is a Dropout ')}", graph.where(node))
    for node in graph.model.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        place = graph.where(node)
        output = str(node.output[0])
        if is_batchnorm_in_training(node):
            grouped.add(TRAINING, "a BatchNormalization that normalizes by the batch, as in training", place)
        elif fate is not None and output in fate.folded:
            grouped.add(FOLDABLE, "a BatchNormalization that could be folded into the layer beside it", place)
        else:
            reason = "" if fate is None else fate.kept.get(output, "")
            grouped.add(KEPT, f"a BatchNormalization stays{f': {reason}' if reason else ''}", place)
    yield from grouped.findings()


FAMILY = RuleFamily(rules_in(globals()), lambda subject: check(subject.graph, subject.batchnorms))
