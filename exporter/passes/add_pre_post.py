"""The last edits of a file, after folding, FP16 and INT8: a camera frame as input, the answer as output, metadata.

    --input uint8    images uint8 [N, H, W, 3] -> Cast -> /255 - mean / std -> Transpose -> the float input of before
    --softmax        logits -> Softmax -> probabilities
    --topk K         logits or probabilities -> TopK -> scores float32 [N, K], indices int64 [N, K]

The normalization takes the steps of `preprocessing.transform.normalize` one by one, in float32, so that both ways give
the same bits. It comes before the first Q or Cast of the file, which stay as calibrated. Runtimes fuse the steps; as
`x * a + b` they would be one operation less and another rounding.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from exporter.graph.onnx_graph import (
    copy_model,
    initializer_from_array,
    refill,
    remove_unused_initializers,
    rename_tensors,
    replace_nodes,
)
from exporter.passes.convert_opset import BATCH_AXIS
from exporter.passes.pre_post_options import Finish
from runtimes.metrics.answer_kind import KEY, AnswerKind
from runtimes.preprocessing.transform import Preprocessing

PIXELS = "images"
"""The uint8 input. It has a name of its own: data for the float input must not fit it by accident."""

PROBABILITIES, SCORES, INDICES = "probabilities", "scores", "indices"

_TOPK = "topk"  # the node's name; that of a Softmax is its output's
_NUM_PIXEL_STEPS = 5

Step = tuple[str, str, str, dict[str, Any]]
"""An operator in front of the network, the constant it reads (white, mean or std; "" is none), a word for what it makes
("" is what the network takes) and its attributes."""


def finish_graph(
    model: ModelProto, finish: Finish, *, preprocessing: Preprocessing, metadata: dict[str, Any] | None = None
) -> ModelProto:
    """Return a checked copy with the edits of the module docstring.

    Args:
        model: One float32 input [batch, 3, H, W]; one output [batch, classes] where `finish` adds a head.
        finish: What to add.
        preprocessing: Whose mean and standard deviation go into the graph.
        metadata: Key to what becomes JSON in the file's `metadata_props`.

    Raises:
        ValueError: If a head does not fit: no [batch, classes] output, or fewer classes than `topk`.
    """
    result = copy_model(model)
    graph = result.graph
    for name in _new_names(finish):
        _rename(graph, name, f"{name}.before")
    if finish.uint8_input:
        _take_pixels(graph, preprocessing)
    if finish.changes_output:
        _add_head(graph, finish)
    for key, value in (metadata or {}).items():
        result.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False, allow_nan=False))
    onnx.checker.check_model(result, full_check=True)
    return result


def without_finish(model: ModelProto, finish: Finish) -> ModelProto:
    """Return a copy without what `finish_graph` added for `finish`: the float input, and the network's own answers.

    Raises:
        ValueError: If the file lacks what `finish` adds.
    """
    result = copy_model(model)
    graph = result.graph
    nodes = list(graph.node)
    if finish.uint8_input:
        first, nodes = nodes[:_NUM_PIXEL_STEPS], nodes[_NUM_PIXEL_STEPS:]
        _end_at(graph, graph.input, [node.output[0] for node in first[-1:] if node.input[0].startswith(f"{PIXELS}.")])
    if finish.changes_output:
        count = finish.softmax + (finish.topk is not None)
        last, nodes = nodes[-count:], nodes[:-count]
        _end_at(graph, graph.output, [node.input[0] for node in last[:1] if node.name in (PROBABILITIES, _TOPK)])
    replace_nodes(graph, nodes)
    remove_unused_initializers(graph)
    return result


def _end_at(graph: GraphProto, ends: Any, names: Sequence[str]) -> None:
    """Let a graph begin or end at a tensor whose type it knows, in place."""
    known = [info for info in graph.value_info if info.name in names]
    if len(known) != 1:
        raise ValueError("it does not begin or end as the manifest's options say")
    refill(graph.value_info, [info for info in graph.value_info if info.name not in names])
    refill(ends, known)


def _new_names(finish: Finish) -> list[str]:
    names = [PIXELS] * finish.uint8_input + [PROBABILITIES] * finish.softmax
    return [*names, SCORES, INDICES] if finish.topk is not None else names


def _rename(graph: GraphProto, old: str, new: str) -> None:
    """Call a tensor that has a name needed here otherwise, in place: a file of elsewhere may call anything `scores`."""
    rename_tensors(graph, {old: new})
    for item in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        if item.name == old:
            item.name = new


def _take_pixels(graph: GraphProto, preprocessing: Preprocessing) -> None:
    height, width = preprocessing.input_size
    pixels = onnx.helper.make_tensor_value_info(
        PIXELS, TensorProto.UINT8, [BATCH_AXIS, height, width, preprocessing.channels]
    )
    steps: list[Step] = [
        ("Cast", "", "float", {"to": TensorProto.FLOAT}),
        ("Div", "white", "scaled", {}),
        ("Sub", "mean", "centered", {}),
        ("Div", "std", "normalized", {}),
        ("Transpose", "", "", {"perm": [0, 3, 1, 2]}),
    ]
    take_instead(graph, pixels, steps, preprocessing)


def take_instead(
    graph: GraphProto, new: ValueInfoProto, steps: Sequence[Step], preprocessing: Preprocessing, *, axes_behind: int = 0
) -> None:
    """Let a graph take `new` and make what it took of that, in place; `axes_behind`: of the channels, in `new`."""
    (old,) = graph.input
    prefix = new.name
    for word, values in (("white", 255.0), ("mean", preprocessing.mean), ("std", preprocessing.std)):
        constant = np.array(values, np.float32)
        shape = constant.shape + (1,) * axes_behind if constant.ndim else ()
        graph.initializer.append(initializer_from_array(f"{prefix}.{word}", constant.reshape(shape)))
    nodes = []
    read = prefix
    for place, (operator, word, made, attributes) in enumerate(steps):
        inputs = [read, f"{prefix}.{word}"] if word else [read]
        read = f"{prefix}.{made}" if made else old.name
        nodes.append(onnx.helper.make_node(operator, inputs, [read], name=f"{prefix}.{place}", **attributes))
    replace_nodes(graph, [*nodes, *graph.node])
    graph.value_info.append(old)
    refill(graph.input, [new])


def _add_head(graph: GraphProto, finish: Finish) -> None:
    if len(graph.output) != 1 or len(graph.output[0].type.tensor_type.shape.dim) != 2:
        raise ValueError("--softmax and --topk need one output [N, classes]")
    (logits,) = graph.output
    num_classes = logits.type.tensor_type.shape.dim[1].dim_value
    tensor, nodes, outputs = logits.name, list[NodeProto](), []
    shape = [BATCH_AXIS, num_classes]
    if finish.softmax:
        nodes.append(onnx.helper.make_node("Softmax", [tensor], [PROBABILITIES], name=PROBABILITIES, axis=1))
        tensor = PROBABILITIES
        outputs = [onnx.helper.make_tensor_value_info(tensor, TensorProto.FLOAT, shape)]
    if finish.topk is not None:
        if finish.topk > num_classes:
            raise ValueError(f"--topk {finish.topk}: the model has {num_classes} classes only")
        count = initializer_from_array("topk.count", np.array([finish.topk], np.int64))
        graph.initializer.append(count)
        nodes.append(
            onnx.helper.make_node(
                "TopK", [tensor, count.name], [SCORES, INDICES], name=_TOPK, axis=1, largest=1, sorted=1
            )
        )
        outputs = [
            onnx.helper.make_tensor_value_info(SCORES, TensorProto.FLOAT, [BATCH_AXIS, finish.topk]),
            onnx.helper.make_tensor_value_info(INDICES, TensorProto.INT64, [BATCH_AXIS, finish.topk]),
        ]
    graph.node.extend(nodes)
    graph.value_info.append(logits)
    refill(graph.output, outputs)


def metadata_of(
    preprocessing: Preprocessing,
    *,
    model_id: str,
    num_classes: int | None,
    labels: tuple[str, ...] | None,
    answers: AnswerKind | None = None,
) -> dict[str, Any]:
    """Return what a finished file says about itself; `preprocessing` is also what a uint8 input has built in."""
    known = {"model": model_id, "preprocessing": preprocessing.to_json(), "num_classes": num_classes, "labels": labels}
    known[KEY] = None if answers is None else answers.value
    return {key: value for key, value in known.items() if value is not None}
