"""Check what the target reads: opset, IR version, operators that it takes for something else.

TensorRT's parser does not check the opset: it reads a newer operator as if it were old and answers wrongly in silence.
TensorRT 8.6 passes no axes to ReduceMean, so that axes given as an input (opset 18) become all axes.

A last window of a ceil_mode pool that begins behind the picture is left out by PyTorch, ONNX Runtime and the standard,
and kept by TensorRT: one row and one column more. Some operators have forms that its parser refuses (a dilated pool),
and one is computed without its absolute values. OpenVINO, which runs files for ONNX Runtime too, misreads others.

Source: onnx-tensorrt, builtin_op_importers.cpp and onnx2trt_utils.cpp at 8.6-GA and 10.1-GA; ONNX docs/Versioning.md;
TensorRT-RTX 1.7.1 (findings/tensorrt_rtx_pool_keeps_window_outside.sh, findings/tensorrt_rtx_global_lp_pool.sh; its
parser, which the tests ask); OpenVINO 2026.4 (findings/openvino_reduction_over_all_axes.sh,
findings/openvino_softmax_before_13.sh, findings/openvino_average_pool_pads_level_zero.sh); ONNX Runtime 1.31
(findings/onnxruntime_pad_into_max_pool.sh).
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import NodeProto

from calibration.lint.finding import Finding, Grouped, LintTarget, Rule, Severity
from calibration.lint.quantized_graph import QuantizedGraph
from calibration.lint.rule_registry import RuleFamily, rules_in
from exporter.graph.joined_padding import joined_padding
from exporter.graph.onnx_graph import STANDARD_DOMAINS, attribute, infer_types, opset_of
from runtimes.openvino.misread_operators import AXES_NOT_READ, NOT_HEARD, REDUCTIONS, SOFTMAX_OF_ONE_AXIS

MIN_OPSET_PER_CHANNEL = 13
"""QuantizeLinear and DequantizeLinear have an axis since. Source: ONNX operator specification, QuantizeLinear-13."""

OPSET_TOO_NEW = Rule(
    "T001",
    "opset-too-new",
    Severity.ERROR,
    "The opset is one that the target reads",
    "Export with an older opset, or choose a newer target",
)
OPSET_TOO_OLD = Rule(
    "T002",
    "opset-too-old",
    Severity.WARNING,
    "The opset has the operators that quantization needs",
    "Export anew with opset 17 or 20",
)
IR_VERSION = Rule(
    "T003",
    "ir-version-too-new",
    Severity.WARNING,
    "The IR version is one that the target loads",
    "Set ir_version to the one that was released with the opset before saving",
)
REDUCE_AXES = Rule(
    "T004",
    "reduce-axes-ignored",
    Severity.ERROR,
    "No reduction gets its axes as an input on TensorRT 8",
    "Export with opset 17, where axes are an attribute",
)
POOL_WINDOW = Rule(
    "T005",
    "pool-window-outside",
    Severity.ERROR,
    "No window of a pool with ceil_mode begins behind the picture, where TensorRT keeps it",
    "Write the padding that is meant into pads, without ceil_mode, as export does",
)
REFUSED_FORM = Rule(
    "T006",
    "refused-form",
    Severity.ERROR,
    "Every operator has a form that TensorRT's parser takes",
    "Write it with other attributes or operators: the engine is not built",
)
SIGNED_NORM = Rule(
    "T007",
    "norm-without-absolute",
    Severity.ERROR,
    "No GlobalLpPool has an odd p: TensorRT leaves out its absolute values",
    "Put an Abs before it, which changes nothing elsewhere",
)
OPENVINO_MISREADS = Rule(
    "T008",
    "openvino-misreads",
    Severity.WARNING,
    "Every operator means the same to OpenVINO, which runs files for ONNX Runtime, too",
    "Write it otherwise (reductions: opset 18 or newer), or do not run it with OpenVINO (its adapter here refuses it)",
)
PAD_BEFORE_MAX_POOL = Rule(
    "T009",
    "pad-into-max-pool",
    Severity.ERROR,
    "No MaxPool reads a Pad of zeros, unless what is padded is never negative",
    "Export it again with this tool, which writes it so that nothing fuses; else open it with ONNX Runtime 1.32 or "
    "newer, or with the optimizer Pad_Fusion disabled",
)
PAD_TOO_WIDE = Rule(
    "T010",
    "pad-as-wide-as-window",
    Severity.ERROR,
    "No pool reads a Pad of zeros that is as wide as the pool's window",
    PAD_BEFORE_MAX_POOL.remedy,
)
_NEVER_NEGATIVE = ("Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs")

_POOLS = ("MaxPool", "AveragePool", "LpPool")

_AXES_AS_ATTRIBUTE = frozenset(
    ("ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp")
)
"""Reductions whose axes input TensorRT 8.6 does not read; only ReduceSum's it does."""


def check(graph: QuantizedGraph, target: LintTarget) -> Iterator[Finding]:
    """Yield what the target does not read as written."""
    opset = opset_of(graph.model)
    if opset > target.newest_opset:
        reads = f"{target.newest_reader or target.reads} reads up to {target.newest_opset}"
        effect = "newer operators as if they were old" if target.is_tensorrt else "and refuses newer files"
        yield Finding(OPSET_TOO_NEW, Severity.ERROR, f"opset {opset}; {reads}, {effect}")
    elif opset > target.max_opset:
        yield Finding(
            OPSET_TOO_NEW,
            Severity.WARNING if target.is_tensorrt else Severity.NOTE,
            f"opset {opset}; {target.newest_reader} reads it, but not all of {target.reads}: up to {target.max_opset} "
            "is safe",
        )
    elif opset < MIN_OPSET_PER_CHANNEL and graph.is_quantized:
        yield Finding(OPSET_TOO_OLD, Severity.WARNING, f"opset {opset}: Q/DQ has scales per channel only since 13")
    elif opset < target.min_opset:
        yield Finding(
            OPSET_TOO_OLD,
            Severity.NOTE,
            f"opset {opset}, older than {target.min_opset}, the oldest that is tested here",
        )
    ir_version = int(graph.model.ir_version)
    if ir_version > target.newest_ir_version and not target.is_tensorrt:
        reader = target.newest_reader or target.reads
        message = f"IR version {ir_version}; {reader} loads up to {target.newest_ir_version}"
        yield Finding(IR_VERSION, Severity.ERROR, message)
    elif ir_version > target.max_ir_version:
        effect = "TensorRT only logs that" if target.is_tensorrt else "older releases of ONNX Runtime refuse the file"
        severity = Severity.NOTE if target.is_tensorrt else Severity.WARNING
        message = f"IR version {ir_version}; opset {target.max_opset} came with {target.max_ir_version}: {effect}"
        yield Finding(IR_VERSION, severity, message)
    grouped = Grouped()
    if target.is_tensorrt:
        _check_pool_windows(graph, grouped)
        _check_forms(graph, grouped)
    else:
        _check_openvino(graph, opset, grouped)
        _check_pads_of_pools(graph, grouped)
    if target.is_tensorrt_8:
        for node in graph.model.graph.node:
            if node.op_type in _AXES_AS_ATTRIBUTE and len(node.input) > 1 and node.input[1]:
                message = f"{node.op_type} with its axes as an input: TensorRT 8 takes all axes"
                grouped.add(REDUCE_AXES, message, graph.where(node))
    yield from grouped.findings()


def _check_openvino(graph: QuantizedGraph, opset: int, grouped: Grouped) -> None:
    for node in graph.model.graph.node:
        words, severity = _misread(node, opset) if node.domain in STANDARD_DOMAINS else ("", None)
        if words:
            grouped.add(OPENVINO_MISREADS, f"{node.op_type} {words}", graph.where(node), severity=severity)
        elif node.op_type == "AveragePool" and _pads_behind_zero_point(graph, node):
            words = "AveragePool that counts its padding behind a zero point: OpenVINO's INT8 kernels pad with level 0"
            grouped.add(OPENVINO_MISREADS, words, graph.where(node), severity=Severity.NOTE)


def _pads_behind_zero_point(graph: QuantizedGraph, pool: NodeProto) -> bool:
    maker = graph.index.producer.get(pool.input[0])
    counts = attribute(pool, "count_include_pad", 0) and any(attribute(pool, "pads", None) or ())
    if not counts or maker is None or maker.op_type != "DequantizeLinear" or len(maker.input) < 3:
        return False
    zero_point = graph.constants.array(maker.input[2])
    return zero_point is not None and bool(zero_point.any())


def _misread(node: NodeProto, opset: int) -> tuple[str, Severity | None]:
    """Return how OpenVINO takes a node for another, in words, and how bad it is if no warning; empty where it does not.

    Reductions whose axes it does not read, what it does not hear of, an old Softmax over several axes.
    """
    kind = node.op_type
    if opset in AXES_NOT_READ and kind in REDUCTIONS and attribute(node, "axes", None):
        return f"of opset {opset}: OpenVINO does not read its axes and reduces over all of them", None
    if kind == "Resize" and (named := [name for name in NOT_HEARD if attribute(node, name, 0)]):
        return f"with {named[0]}: OpenVINO resizes without it", None
    if kind == "LRN" and (bias := float(attribute(node, "bias", 1.0))) != int(bias):
        return f"with the bias {bias:g}: OpenVINO computes with {int(bias)}", None
    rounds_up = attribute(node, "ceil_mode", 0) and attribute(node, "count_include_pad", 0)
    if kind == "AveragePool" and rounds_up and any(attribute(node, "pads", None) or ()):
        words = "with ceil_mode and count_include_pad: OpenVINO divides windows beyond the padding wrongly"
        return words, Severity.NOTE
    if kind == "Softmax" and opset < SOFTMAX_OF_ONE_AXIS and (axis := attribute(node, "axis", 1)) != -1:
        words = (
            f"of opset {opset}, over axis {axis} and all behind it: OpenVINO takes that axis alone, which is the same"
        )
        return f"{words} for the last", Severity.NOTE
    return "", None


def _check_pads_of_pools(graph: QuantizedGraph, grouped: Grouped) -> None:
    """Look for each pool that a session joins with the Pad of zeros before it, where that changes anything."""
    for node in graph.model.graph.node:
        joined = joined_padding(node, graph.index, graph.constants.array)
        if joined is None:
            continue
        maker = graph.index.producer.get(joined.source)
        if joined.is_too_wide:
            told = (
                "a Pad as wide as its window before it: ONNX Runtime before 1.32 joins both and does not open the file"
            )
            grouped.add(PAD_TOO_WIDE, told, graph.where(node))
        elif node.op_type == "MaxPool" and (maker is None or maker.op_type not in _NEVER_NEGATIVE):
            told = "a Pad of zeros before it: ONNX Runtime before 1.32 joins both and pads with minus infinity instead"
            grouped.add(PAD_BEFORE_MAX_POOL, told, graph.where(node))


def _check_pool_windows(graph: QuantizedGraph, grouped: Grouped) -> None:
    """Look for the pools of known size whose last window lies behind the picture."""
    same = (b"SAME_UPPER", b"SAME_LOWER")  # then the stride alone decides about the size
    pools = [
        node
        for node in graph.model.graph.node
        if node.op_type in _POOLS and attribute(node, "ceil_mode", 0) and attribute(node, "auto_pad", b"") not in same
    ]
    if not pools:
        return
    try:
        types = infer_types(graph.model)
    except Exception:  # inference raises unrelated types; onnx's checker has said what is wrong
        return
    for node in pools:
        known = types.get(node.input[0])
        dims = [] if known is None else list(known.tensor_type.shape.dim)[2:]
        if any(_begins_outside(node, axis, dim.dim_value) for axis, dim in enumerate(dims) if dim.dim_value > 0):
            message = f"{node.op_type} with ceil_mode whose last window begins behind the picture: TensorRT keeps it"
            grouped.add(POOL_WINDOW, message, graph.where(node))


def forms(graph: QuantizedGraph) -> Iterator[Finding]:
    """Yield what TensorRT's parser refuses, or takes for something else, whatever the shapes are."""
    grouped = Grouped()
    _check_forms(graph, grouped)
    yield from grouped.findings()


def _check_forms(graph: QuantizedGraph, grouped: Grouped) -> None:
    for node in graph.model.graph.node:
        if node.domain not in STANDARD_DOMAINS:
            continue
        if words := _refused_form(node):
            grouped.add(REFUSED_FORM, f"{node.op_type} {words}: TensorRT refuses it", graph.where(node))
        if node.op_type == "GlobalLpPool" and attribute(node, "p", 2) % 2:
            message = f"GlobalLpPool of p = {attribute(node, 'p', 2)}: TensorRT adds x**p, not |x|**p"
            grouped.add(SIGNED_NORM, message, graph.where(node))


def _refused_form(node: NodeProto) -> str:
    """Return what the node has that TensorRT's parser has no layer for, in words; empty where there is nothing."""
    kind = node.op_type
    if kind in _POOLS and any(size != 1 for size in attribute(node, "dilations", None) or ()):
        return "with dilations"
    if kind == "MaxPool" and len(node.output) > 1 and node.output[1]:
        return "with indices"
    if kind == "LpPool" and attribute(node, "p", 2) > 2:
        return f"of p = {attribute(node, 'p', 2)}"
    if kind == "LRN" and attribute(node, "size", 1) % 2 == 0:
        return "over an even number of channels"
    return _refused_resize(node) if kind == "Resize" else ""


def _refused_resize(node: NodeProto) -> str:
    policy = attribute(node, "keep_aspect_ratio_policy", b"stretch").decode()
    mode = attribute(node, "coordinate_transformation_mode", b"half_pixel").decode()
    nearest = attribute(node, "nearest_mode", b"round_prefer_floor").decode()
    if attribute(node, "antialias", 0):
        return "with antialias"
    if policy != "stretch":
        return f"with keep_aspect_ratio_policy {policy}"
    if mode in ("half_pixel_symmetric", "tf_crop_and_resize"):
        return f"with coordinates {mode}"
    if mode == "tf_half_pixel_for_nn" and nearest != "round_prefer_floor":
        return f"with coordinates {mode} and nearest_mode {nearest}"
    return ""


def _begins_outside(node: NodeProto, axis: int, size: int) -> bool:
    kernel: list[int] = list(attribute(node, "kernel_shape", []))
    ones, zeros = [1] * len(kernel), [0] * 2 * len(kernel)
    strides, dilations = attribute(node, "strides", None) or ones, attribute(node, "dilations", None) or ones
    pads = attribute(node, "pads", None) or zeros
    if axis >= min(len(kernel), len(strides), len(dilations), len(pads) // 2) or strides[axis] < 1:
        return False  # onnx's checker or ONNX Runtime refuses it
    stride, dilation, begin, end = strides[axis], dilations[axis], pads[axis], pads[axis + len(pads) // 2]
    steps = -(-(size + begin + end - dilation * (kernel[axis] - 1) - 1) // stride)
    return bool(steps * stride >= size + begin)


FAMILY = RuleFamily(rules_in(globals()), lambda subject: check(subject.graph, subject.target))
