"""Whether the additions of residual blocks are as fast as they can be.

TensorRT makes one INT8 kernel of Conv + Add + ReLU when the convolution's own output carries no Q/DQ and the other
operand of the Add does (see `placement.residual_adds`, which finds both in the graph without Q/DQ). ONNX Runtime wants
the opposite: its integer Add takes Q/DQ on both sides.

Source: NVIDIA, tensorflow-quantization toolkit, "add custom Q/DQ cases"; ONNX Runtime, QLinearAdd in its QDQ selectors.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from calibration.lint.finding import Finding, Grouped, LintTarget, Rule, Severity
from calibration.lint.quantized_graph import QuantizedGraph
from calibration.lint.rule_registry import RuleFamily, rules_in
from calibration.placement.residual_adds import Residuals, find_residual_adds
from exporter.graph.onnx_graph import node_name
from exporter.graph.weighted_ops import ALL_WEIGHTED_OPS

BOTH_SIDES = Rule(
    "R001",
    "residual-add-both-sides",
    Severity.WARNING,
    "The main path's operand of a residual Add has no Q/DQ, so that Conv + Add + ReLU can be one INT8 kernel",
    "Remove the pair between the block's last convolution and the Add",
)
FLOAT_ADD = Rule(
    "R002",
    "residual-add-float",
    Severity.WARNING,
    "The shortcut's operand of a residual Add has Q/DQ, so that Conv + Add + ReLU can be one INT8 kernel",
    "Put a pair on the shortcut's operand; on an identity shortcut let the Add read the one of the block's input",
)
WRONG_SIDE = Rule(
    "R003",
    "residual-add-wrong-side",
    Severity.WARNING,
    "Of a residual Add the shortcut is quantized, not the main path",
    "Move the pair from the block's last convolution to the shortcut",
)
FLOAT_LAYER = Rule(
    "R004",
    "residual-add-float-layer",
    Severity.NOTE,
    "The convolution before a residual Add is quantized",
    "Quantize the block's last convolution, or leave the block in float knowingly",
)
ONE_SIDE = Rule(
    "R005",
    "residual-add-not-integer",
    Severity.WARNING,
    "Both operands and the result of a residual Add have Q/DQ, so that ONNX Runtime adds integers",
    "Quantize Add as well (op_types_to_quantize)",
)


@dataclass(frozen=True, slots=True)
class AddState:
    """One residual addition of a quantized file.

    Attributes:
        name: In PyTorch's terms.
        node: As the file calls it.
        main: Whether the main path's operand comes out of a DQ.
        shortcut: Whether the shortcut's does.
        kernel_is_quantized: Whether the main path's convolution reads quantized data; true for a gate's Mul.
        result: Whether the sum, or the ReLU behind it, goes into a Q.
    """

    name: str
    node: str
    main: bool
    shortcut: bool
    kernel_is_quantized: bool
    result: bool

    @property
    def is_fusable(self) -> bool:
        """Whether TensorRT can make one INT8 kernel of it."""
        return self.shortcut and not self.main and self.kernel_is_quantized

    @property
    def is_integer(self) -> bool:
        """Whether ONNX Runtime can add integers."""
        return self.shortcut and self.main and self.result


def add_states(graph: QuantizedGraph) -> tuple[AddState, ...]:
    """Return the residual additions of a file, quantized or not, in graph order."""
    return tuple(_states(graph, find_residual_adds(graph.float_model)))


def _states(graph: QuantizedGraph, residuals: Residuals) -> Iterator[AddState]:
    for add in residuals.matched:
        node = graph.node(add.name)
        operands = [graph.dequantizer(name) is not None for name in node.input]
        kernel = graph.index.producer.get(add.main)
        is_layer = kernel is not None and kernel.op_type in ALL_WEIGHTED_OPS
        yield AddState(
            name=graph.name(node),
            node=node_name(node),
            main=operands[1 - add.shortcut_index],
            shortcut=operands[add.shortcut_index],
            kernel_is_quantized=not is_layer or (kernel is not None and graph.dequantizer(kernel.input[0]) is not None),
            result=_goes_into_pair(str(node.output[0]), graph),
        )


def _goes_into_pair(tensor: str, graph: QuantizedGraph) -> bool:
    uses = graph.index.uses.get(tensor, ())
    if len(uses) == 1 and uses[0].node.op_type in ("Relu", "Clip"):
        uses = graph.index.uses.get(uses[0].node.output[0], ())
    return any(use.node.op_type == "QuantizeLinear" for use in uses)


def check(graph: QuantizedGraph, target: LintTarget) -> Iterator[Finding]:
    """Yield the residual additions that stay slower than they could be; of a float file nothing."""
    if not graph.quantizers:
        return
    grouped = Grouped()
    for add in add_states(graph):
        place = (add.name, add.node)
        if not target.is_tensorrt:
            if not add.is_integer:
                grouped.add(ONE_SIDE, "a residual Add in float: not all three of its tensors have Q/DQ", place)
        elif not add.kernel_is_quantized:
            grouped.add(FLOAT_LAYER, "a residual Add behind a convolution in float", place)
        elif add.main and add.shortcut:
            grouped.add(BOTH_SIDES, "Q/DQ on both sides of a residual Add: Conv + Add cannot fuse", place)
        elif add.main:
            grouped.add(WRONG_SIDE, "Q/DQ on the main path's side of a residual Add: Conv + Add cannot fuse", place)
        elif not add.shortcut:
            grouped.add(FLOAT_ADD, "Q/DQ on neither side of a residual Add: the sum is computed in float", place)
    yield from grouped.findings()


FAMILY = RuleFamily(rules_in(globals()), lambda subject: check(subject.graph, subject.target))
