"""Decide which tensors get a Q/DQ pair in a file for ONNX Runtime's CPU provider.

ONNX Runtime runs a node in integers when every data input comes from a DequantizeLinear, the output goes to one
QuantizeLinear and to nothing else, and all three are of one 8-bit type. A Relu between node and Q vanishes when the
zero point is the least level, 0 of UINT8, and so does a Clip to [0, M], as a ReLU6 is, when no level lies above M. So,
unlike in `placement.tensorrt`, a pair stands on each tensor between two such nodes, behind the Relu where there is one:

    Conv, Gemm (constant weight; a Gemm whose output nothing quantizes gives float)  ->  QLinearConv, QGemm
    Add, Mul, Concat, AveragePool, GlobalAveragePool, Sigmoid, LeakyRelu             ->  QLinear*
    MaxPool, Flatten, Reshape, Transpose, Squeeze, Unsqueeze, Slice                  ->  the same on UINT8

The last row only where input and output have the same scale and zero point; `Placement.same_range` sees to that. A
layer always gets its pairs; another node only if a node that runs in integers reads its output, because elsewhere it
would lose accuracy and gain nothing. Outputs of the graph are never rounded, nor is what is only moved or averaged on
the way to one: a Gemm there adds in integers and gives float logits, a Conv behind which no layer comes stays in float.

An AveragePool with both ceil_mode and count_include_pad stays in float, and with it the layer before: the integer
kernel divides the windows at the border by another count. So does one with dilations, which the integer kernel does not
know. Both read no pair, since between two pairs nothing stops ONNX Runtime.

The weights of layers that read the graph's input have 7 bits. On x86 without VNNI the kernels of a session without
options saturate in 16 bits. Behind a ReLU few values are large; an input centered at its zero point is half of 255
everywhere, and loses all there (measured; docs/int8.md).

Nodes named in `keep_float` do not run in integers, nor does a residual Add whose main path ends in one: it would round
what was just computed in float.

Source: ONNX Runtime 1.31, core/optimizer/qdq_transformer: selectors_actions/qdq_selector_action_transformer.cc (the
operators) and qdq_selectors.cc (the conditions), clip_quantizelinear.cc and relu_quantizelinear.cc (what vanishes); the
kernels that come of it are counted in tests/calibration/placement/test_onnxruntime_kernels.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from onnx import ModelProto, NodeProto, TensorProto

from calibration.methods.quantize_weight import QMAX, QMAX_7_BITS
from calibration.placement import for_tensorrt
from calibration.placement.rectifiers import is_rectifier
from calibration.placement.residual_adds import find_residual_adds
from exporter.graph.onnx_graph import GraphIndex, attribute, index_graph, infer_shapes, tensor_types
from exporter.graph.weighted_ops import ALL_WEIGHTED_OPS

QLINEAR_OPS = frozenset({"Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "Sigmoid", "LeakyRelu"})
"""Operators that become QLinear* kernels; each tensor keeps its own scale."""

SAME_RANGE_OPS = frozenset({"MaxPool", "Flatten", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice"})
"""Operators that run on UINT8 as they are, if input and output have one scale and zero point."""

_ALL_INPUTS = frozenset({"Add", "Mul", "Concat"})

_MOVING = SAME_RANGE_OPS - {"MaxPool"} | {"Identity", "Dropout", "Split", "Gather"}
"""Operators that only move or choose values: behind them an output is still an output."""


def place_for_onnxruntime(model: ModelProto, keep_float: Collection[str] = ()) -> for_tensorrt.Placement:
    """Return where Q/DQ goes in a folded float model, by the rules of the module docstring.

    Args:
        model: The folded float model.
        keep_float: Names of nodes that stay in float.

    Raises:
        PlacementError: If two nodes share a name or a node has none, or no node has a name of `keep_float`.
    """
    for_tensorrt.check_node_names(model.graph)
    index = index_graph(model.graph)
    kept = for_tensorrt.kept_nodes(model.graph, index, keep_float)
    residuals = find_residual_adds(model)
    float_adds = {
        add.name: why for add in residuals.matched if (why := for_tensorrt.why_add_stays_float(add, index, kept))
    }
    layers, skipped = _layers(model, index, kept)
    given = _moved_to_outputs(model, index)
    in_float = {*kept, *float_adds, *(node.name for node in model.graph.node if _has_no_integer_kernel(node))}
    in_integers, wanted = _in_integers(model, index, layers, in_float, given)
    pairs = _tensors_with_pairs(model, index, layers, wanted, given)
    return for_tensorrt.Placement(
        activations={name: _readers(name, index, in_integers, given) for name in pairs},
        weights=_weights(layers.values(), model, index),
        residual_adds=tuple(add for add in residuals.matched if add.name not in float_adds),
        num_adds=len(residuals.matched) + len(residuals.skipped),
        skipped=(*skipped, *(f"{name}: {why}" for name, why in float_adds.items())),
        biases=tuple(_biases(layers.values(), index)),
        same_range=_same_range(model, index, in_integers, pairs),
    )


def _layers(
    model: ModelProto, index: GraphIndex, kept: Mapping[str, str]
) -> tuple[dict[str, NodeProto], tuple[str, ...]]:
    """Return the Conv and Gemm nodes to quantize by name, and why the others stay in float."""
    graph_inputs = {info.name for info in model.graph.input}
    layers: dict[str, NodeProto] = {}
    skipped: list[str] = []
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm"):
            reason = for_tensorrt.why_not_quantized(node, index, graph_inputs)
            if reason := reason or _why_bias_not_quantized(node, index, graph_inputs) or kept.get(node.name, ""):
                skipped.append(f"{node.name}: {reason}")
            else:
                layers[node.name] = node
    return layers, tuple(skipped)


def _why_bias_not_quantized(node: NodeProto, index: GraphIndex, graph_inputs: set[str]) -> str:
    """Return why the bias of a Conv or Gemm cannot be INT32, or an empty string."""
    if len(node.input) < 3 or not node.input[2]:
        return ""
    bias = index.initializer.get(node.input[2])
    if bias is None or bias.name in graph_inputs or bias.name in index.outputs:
        return f"its bias {node.input[2]!r} is not a constant of its own"
    num_channels = index.initializer[node.input[1]].dims[for_tensorrt.output_channel_axis(node)]
    if bias.data_type != TensorProto.FLOAT or list(bias.dims) != [num_channels]:
        return f"its bias {bias.name!r} is {list(bias.dims)}, not float32 [{num_channels}]"
    return "" if attribute(node, "beta", 1.0) == 1.0 else "Gemm with beta != 1"


def _weights(
    layers: Iterable[NodeProto], model: ModelProto, index: GraphIndex
) -> tuple[for_tensorrt.QuantizedWeight, ...]:
    """Return the weights to quantize, each once, in graph order."""
    inputs = {info.name for info in model.graph.input}
    axes: dict[str, int] = {}
    levels: dict[str, int] = {}
    for node in layers:
        name = node.input[1]
        axes[name] = for_tensorrt.output_channel_axis(node)
        qmax = QMAX_7_BITS if _is_moved_input(node.input[0], inputs, index) else QMAX
        levels[name] = min(qmax, levels.get(name, QMAX))
    return tuple(for_tensorrt.QuantizedWeight(name, axis, levels[name]) for name, axis in axes.items())


def _is_moved_input(tensor: str, inputs: set[str], index: GraphIndex) -> bool:
    while tensor not in inputs:
        maker = index.producer.get(tensor)
        if maker is None or maker.op_type not in SAME_RANGE_OPS:
            return False
        tensor = maker.input[0]
    return True


def _has_no_integer_kernel(node: NodeProto) -> bool:
    """Tell whether ONNX Runtime's integer kernel computes something else than the node.

    Source: measured with ONNX Runtime 1.31.1 over paddings, strides and sizes (tests/calibration/placement); with
    dilations the session does not open.
    """
    if node.op_type != "AveragePool":
        return False
    both = bool(attribute(node, "ceil_mode", 0)) and bool(attribute(node, "count_include_pad", 0))
    return both or any(size != 1 for size in attribute(node, "dilations", ()))


def _moved_to_outputs(model: ModelProto, index: GraphIndex) -> set[str]:
    """Return the graph's outputs and the tensors that become one by being moved."""
    given = set(index.outputs)
    for node in reversed(model.graph.node):
        if node.op_type in _MOVING and given & set(node.output):
            given.add(node.input[0])
    return given


def _leading_to_layers(model: ModelProto) -> set[str]:
    """Return the tensors that some layer's answer depends on."""
    found: set[str] = set()
    for node in reversed(model.graph.node):
        if node.op_type in ALL_WEIGHTED_OPS or found & set(node.output):
            found.update(node.input)
    return found


def _in_integers(
    model: ModelProto,
    index: GraphIndex,
    layers: Mapping[str, NodeProto],
    in_float: Collection[str],
    given: Collection[str],
) -> tuple[dict[str, NodeProto], set[str]]:
    """Return the nodes that shall run in integers, by name, and the tensors that they read."""
    types = tensor_types(infer_shapes(model))
    floats = {name for name, kind in types.items() if kind.tensor_type.elem_type == TensorProto.FLOAT}
    found: dict[str, NodeProto] = dict(layers)
    wanted = {node.input[0] for node in layers.values()}
    for node in reversed(model.graph.node):
        if node.op_type not in QLINEAR_OPS | SAME_RANGE_OPS or node.output[0] in given or node.name in in_float:
            continue
        data = node.input if node.op_type in _ALL_INPUTS else node.input[:1]
        pair = _pair_tensor(node.output[0], index)
        behind_relu = pair != node.output[0]
        if pair in wanted and set(data) <= floats and not (behind_relu and node.op_type in SAME_RANGE_OPS):
            found[node.name] = node
            wanted.update(data)
    return found, wanted


def _pair_tensor(tensor: str, index: GraphIndex) -> str:
    """Return where the pair for a node's output stands: behind the Relu or ReLU6, if that is all that reads it."""
    uses = index.uses.get(tensor, ())
    if len(uses) == 1 and is_rectifier(uses[0].node, index) and tensor not in index.outputs:
        return str(uses[0].node.output[0])
    return tensor


def _tensors_with_pairs(
    model: ModelProto, index: GraphIndex, layers: Mapping[str, NodeProto], wanted: set[str], given: set[str]
) -> list[str]:
    """Return the tensors to quantize in graph order: all that integer nodes read, and what convolutions make.

    Not what nothing but the graph's outputs is made of.
    """
    chosen = set(wanted)
    leading = _leading_to_layers(model)
    for node in layers.values():
        pair = _pair_tensor(node.output[0], index)
        pooled = any(_has_no_integer_kernel(use.node) for use in index.uses.get(pair, ()))
        if node.op_type == "Conv" and not {node.output[0], pair} & given and pair in leading and not pooled:
            chosen.add(pair)
    made = [info.name for info in model.graph.input] + [name for node in model.graph.node for name in node.output]
    return [name for name in made if name in chosen]


def _readers(
    tensor: str, index: GraphIndex, in_integers: Mapping[str, NodeProto], given: Collection[str]
) -> tuple[for_tensorrt.Reader, ...]:
    """Return who reads the quantized copy.

    Everyone, if the node that makes the tensor runs in integers and the tensor is no output: a second reader of its
    float result would keep it in float. Otherwise only nodes that run in integers do; the others keep the exact tensor.
    """
    maker = index.producer.get(tensor)
    if maker is not None and is_rectifier(maker, index) and len(index.uses[maker.input[0]]) == 1:
        maker = index.producer.get(maker.input[0])
    everyone = maker is not None and maker.name in in_integers and tensor not in given
    return tuple(
        for_tensorrt.Reader(use.node.name, use.place)
        for use in index.uses[tensor]
        if use.node.name in in_integers or (everyone and not _has_no_integer_kernel(use.node))
    )


def _biases(layers: Iterable[NodeProto], index: GraphIndex) -> Iterable[for_tensorrt.QuantizedBias]:
    for node in layers:
        if len(node.input) > 2 and node.input[2]:
            shared = len(index.uses[node.input[2]]) > 1
            name = f"{node.input[2]}.{node.name}" if shared else node.input[2]
            yield for_tensorrt.QuantizedBias(name, node.input[2], node.name, node.input[0], node.input[1])


def _same_range(
    model: ModelProto, index: GraphIndex, in_integers: Mapping[str, NodeProto], pairs: Iterable[str]
) -> dict[str, str]:
    """Return, per quantized tensor, the tensor whose range it takes; itself in most cases.

    The output takes the input's range. Where nothing else reads the input it is the other way round: maximum and
    moving commute with quantization, so then only the values that are left matter.
    """
    root = {name: name for name in pairs}
    for node in model.graph.node:
        if node.name not in in_integers or node.op_type not in SAME_RANGE_OPS:
            continue
        before, after = node.input[0], node.output[0]
        if len(index.uses[before]) == 1 and before not in index.outputs:
            old = root[before]
            root.update({name: after for name, source in root.items() if source == old})
        else:
            root[after] = root[before]
    return root
