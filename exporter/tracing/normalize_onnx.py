"""An existing `.onnx` file in the shape that tracing gives: batch symbolic, BatchNorm folded, canonical operators."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from exporter.errors import ExportError
from exporter.graph import onnx_graph
from exporter.graph.onnx_file import OnnxSource
from exporter.passes.canonicalize_ops import canonical_ops
from exporter.passes.cleanup import tidy_graph
from exporter.passes.convert_opset import BATCH_AXIS, TRACE_OPSET, checked, convert_opset
from exporter.passes.fold_affine import FoldReport
from exporter.passes.fold_constants import fold_constants
from exporter.passes.input_layout import take_nchw, take_rgb
from exporter.tracing.flatten_softmax import flatten_softmax
from exporter.tracing.lower_ceil_pools import lower_ceil_pools
from exporter.tracing.spell_reductions import spell_reductions

_OLD_OPSET = 17
"""To which older files are brought first: the passes here know the operators from 11 on."""


def tidied_onnx(
    source: OnnxSource, *, input_size: tuple[int, int], opset: int, takes_bgr: bool = False
) -> tuple[ModelProto, FoldReport]:
    """Return the file's graph in the shape that `tracing.trace` gives: batch symbolic, BatchNorm folded, checked.

    Args:
        source: A file as `read_onnx` gives it; unchanged.
        input_size: Height and width of the images, fixed in the result.
        opset: The opset of the result.
        takes_bgr: Whether the file takes blue, green, red; the result takes red, green, blue.

    Raises:
        ExportError: If the opset conversion or the checker fails, or the batch cannot be made symbolic.
        WeightsError: If folding gives a weight that is not finite.
    """
    model = onnx_graph.copy_model(source.model)
    model = flatten_softmax(model).model  # before any conversion, which forgets Hardmax
    if source.opset < _OLD_OPSET:
        model = convert_opset(model, _OLD_OPSET)
    model = fold_constants(model).model
    _free_batch(model, source, input_size)
    if takes_bgr:
        take_rgb(model.graph)
    model.ir_version = max(model.ir_version, 8)
    model = lower_ceil_pools(model).model  # first: what follows infers shapes
    converted = convert_opset(model, TRACE_OPSET)
    try:
        tidy, report = tidy_graph(canonical_ops(converted).model)  # types first: they make more nodes constant
    except onnx.shape_inference.InferenceError as err:
        raise ExportError(f"{source.path}: the shapes do not fit images of {input_size}: {err}") from err
    result = convert_opset(tidy, opset)
    spell_reductions(result)
    result.producer_name = "resnet-export"
    del result.metadata_props[:]
    return checked(result, num_outputs=len(source.output_names), file=str(source.path)), report


def _free_batch(model: ModelProto, source: OnnxSource, input_size: tuple[int, int]) -> None:
    """Call the batch axis `batch` and fix the image size, in place; a Reshape to the fixed batch keeps it instead."""
    graph = model.graph
    index = onnx_graph.index_graph(graph)
    for node in graph.node if source.batch is not None else ():
        target = index.initializer.get(node.input[1]) if node.op_type == "Reshape" else None
        sizes = [] if target is None else onnx_graph.array_from_initializer(target).tolist()
        if sizes and sizes[0] == source.batch:
            _take_batch_from_input(graph, node, [int(size) for size in sizes])
    if source.is_nhwc:
        take_nchw(graph)
    dims = graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_param = BATCH_AXIS
    dims[2].dim_value, dims[3].dim_value = input_size
    del graph.value_info[:], graph.output[:]
    for name, sizes in zip(source.output_names, source.output_shapes, strict=True):
        shape = [BATCH_AXIS, *sizes]
        graph.output.append(onnx.helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def _take_batch_from_input(graph: GraphProto, reshape: NodeProto, sizes: list[int]) -> None:
    """Let a Reshape to a fixed batch keep whatever batch comes in, in place: -1 where that is free, else 0 (copy)."""
    if -1 not in sizes[1:]:
        sizes[0] = -1
    elif onnx_graph.attribute(reshape, "allowzero", 0) and 0 in sizes[1:]:
        return  # a size of 0 really; the checks that follow tell
    else:
        sizes[0] = 0
        onnx_graph.set_attributes(reshape, "allowzero")
    name = f"{reshape.name}.shape"
    graph.initializer.append(onnx_graph.initializer_from_array(name, np.asarray(sizes, np.int64)))
    reshape.input[1] = name
