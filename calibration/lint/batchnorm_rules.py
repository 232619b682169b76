"""BatchNormalization that is left: folded into the layer before it, it costs nothing and quantizes with the weights.

Which ones fold is decided by the code that folds (`exporter.passes.fold_affine`); its answer is handed in.
"""

from __future__ import annotations

from collections.abc import Iterator

from calibration.lint.finding import Finding, Grouped, Rule, Severity
from calibration.lint.quantized_graph import QuantizedGraph
from calibration.lint.rule_registry import BatchNormFate, RuleFamily
from exporter.graph.onnx_graph import attribute

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
RULES = (FOLDABLE, KEPT, TRAINING)


def check(graph: QuantizedGraph, fate: BatchNormFate | None) -> Iterator[Finding]:
    """Yield every BatchNormalization; without `fate` only that it is there."""
    grouped = Grouped()
    for node in graph.model.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        place = graph.where(node)
        output = str(node.output[0])
        if attribute(node, "training_mode", 0) or len([name for name in node.output if name]) > 1:
            grouped.add(TRAINING, "a BatchNormalization that normalizes by the batch, as in training", place)
        elif fate is not None and output in fate.folded:
            grouped.add(FOLDABLE, "a BatchNormalization that could be folded into the layer beside it", place)
        else:
            reason = "" if fate is None else fate.kept.get(output, "")
            message = f"a BatchNormalization stays{f': {reason}' if reason else ''}"
            grouped.add(KEPT, message, place)
    yield from grouped.findings()


FAMILY = RuleFamily(RULES, lambda subject: check(subject.graph, subject.batchnorms))
