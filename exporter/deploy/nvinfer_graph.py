"""A bundle's file as nvinfer can feed it: float32 planes in, probabilities out.

--input uint8 bundles   the camera-frame steps come off again: nvinfer writes float32 [N, 3, H, W], never uint8
several stds            levels 0-255 in; / 255, - mean, / std in the graph, in the steps and bits of training
logits                  + Softmax: nvinfer's own parser takes the largest value above 0 as a probability
"""

from __future__ import annotations

import onnx
from onnx import GraphProto, ModelProto

from exporter.errors import ExportError
from exporter.graph.onnx_graph import copy_model, index_graph, refill, remove_unused_initializers, replace_nodes
from exporter.passes.add_pre_post import Step, finish_graph, take_instead
from exporter.passes.pre_post_options import Finish
from runtimes.preprocessing.transform import Preprocessing

LEVELS = "levels"
"""The input of levels 0-255. It has a name of its own: normalized data must not fit it by accident."""

_PIXEL_STEPS = ("Cast", "Div", "Sub", "Div", "Transpose")


def graph_for_nvinfer(model: ModelProto, preprocessing: Preprocessing, *, normalize: bool, softmax: bool) -> ModelProto:
    """Return a checked copy of a bundle's file of one input, float32 [N, 3, H, W] or uint8 [N, H, W, 3].

    Raises:
        ExportError: If a uint8 input is not followed by the steps that `resnet-export` writes.
    """
    result = copy_model(model)
    if result.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8:
        _take_off_pixel_steps(result.graph)
    if normalize:
        _put_normalization(result.graph, preprocessing)
    finished = finish_graph(result, Finish(softmax=softmax), preprocessing=preprocessing)
    onnx.checker.check_model(finished, full_check=True)
    return finished


def _take_off_pixel_steps(graph: GraphProto) -> None:
    """Make the normalized tensor of a camera-frame model its input again, in place."""
    index = index_graph(graph)
    tensor, steps = graph.input[0].name, set[str]()
    for op_type in _PIXEL_STEPS:
        uses = index.uses.get(tensor, ())
        if len(uses) != 1 or uses[0].node.op_type != op_type:
            raise ExportError(
                f"the uint8 input {graph.input[0].name!r} is not followed by {', '.join(_PIXEL_STEPS)}; export again "
                "with --input float32, which nvinfer feeds"
            )
        tensor = uses[0].node.output[0]
        steps.add(tensor)
    replace_nodes(graph, [node for node in graph.node if node.output[0] not in steps])
    remove_unused_initializers(graph)
    (info,) = (entry for entry in graph.value_info if entry.name == tensor)
    refill(graph.input, [info])
    refill(graph.value_info, [entry for entry in graph.value_info if entry.name not in steps])


def _put_normalization(graph: GraphProto, preprocessing: Preprocessing) -> None:
    """Read levels 0-255 and normalize them, in the steps of `runtimes.preprocessing.transform.normalize`, in place."""
    (old,) = graph.input
    new = onnx.ValueInfoProto()
    new.CopyFrom(old)
    new.name = LEVELS
    steps: list[Step] = [("Div", "white", "scaled", {}), ("Sub", "mean", "centered", {}), ("Div", "std", "", {})]
    take_instead(graph, new, steps, preprocessing, axes_behind=2)
