"""Bring a graph to an opset, and check what every exported float graph promises."""

from __future__ import annotations

import onnx
from onnx import ModelProto

from exporter.errors import ExportError
from exporter.graph.onnx_graph import (
    array_from_initializer,
    attribute,
    copy_model,
    infer_shapes,
    name_nodes,
    opset_of,
    refill,
)
from exporter.target import IR_VERSION_OF_OPSET

BATCH_AXIS = "batch"
TRACE_OPSET = 20
"""The exporter's own default in torch 2.15: no version conversion happens inside it."""
_SHIELD = "resnet_export.unchanged"
_RESIZE_HAS_MODES = 11


def convert_opset(model: ModelProto, opset: int) -> ModelProto:
    """Return `model` in another opset, with the IR version that goes with it.

    Raises:
        ExportError: If an operator cannot be written in it.
    """
    converted = model
    if opset != opset_of(model):
        try:
            converted = onnx.version_converter.convert_version(_shield(model), opset)
        except Exception as err:  # the converter raises RuntimeError and more, by operator
            raise ExportError(f"the graph cannot be written in opset {opset}: {err}") from err
        for node in converted.graph.node:
            if node.domain == _SHIELD:
                node.domain = ""
        if opset_of(model) < _RESIZE_HAS_MODES <= opset:
            _keep_old_resizing(converted)
        name_nodes(converted)  # the converter adds nodes without names, around Softmax of opset 12 and older, say
    refill(converted.opset_import, [onnx.helper.make_opsetid("", opset)])
    converted.ir_version = IR_VERSION_OF_OPSET[opset]
    return converted


def _shield(model: ModelProto) -> ModelProto:
    """Hide from the version converter what it refuses although nothing changed: Pad without axes, opset 13 to 24.

    Source: ONNX, Changelog.md, Pad-13 to Pad-24: 18 adds the input `axes`, 19 the mode "wrap".
    """
    shielded = copy_model(model)
    for node in shielded.graph.node:
        if node.op_type == "Pad" and len(node.input) <= 3 and attribute(node, "mode", b"constant") != b"wrap":
            node.domain = _SHIELD
    if any(node.domain == _SHIELD for node in shielded.graph.node):
        shielded.opset_import.append(onnx.helper.make_opsetid(_SHIELD, 1))
    return shielded


def _keep_old_resizing(model: ModelProto) -> None:
    """Let every Resize that was an Upsample or a Resize of opset 10 count from the corner as those did, in place.

    They have no attribute for it, and the converter leaves the new ones at their defaults (half_pixel): a bilinear
    picture moves by half a pixel (findings/onnx_converter_linear_resize.sh).

    Source: ONNX, Resize-11 ("asymmetric": x_original = x_resized / x_scale). Opset 10 leaves open which neighbor is the
    nearest: ONNX Runtime 1.31 takes the one below, and the one above where it shrinks.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    constants |= {node.output[0]: attribute(node, "value") for node in model.graph.node if node.op_type == "Constant"}
    for node in model.graph.node:
        if node.op_type != "Resize":
            continue
        node.attribute.append(onnx.helper.make_attribute("coordinate_transformation_mode", "asymmetric"))
        scales = constants.get(node.input[2]) if len(node.input) > 2 else None
        if attribute(node, "mode", b"nearest") == b"nearest":
            shrinks = scales is not None and bool((array_from_initializer(scales) < 1).any())
            node.attribute.append(onnx.helper.make_attribute("nearest_mode", "ceil" if shrinks else "floor"))


def checked(model: ModelProto, *, num_outputs: int = 1) -> ModelProto:
    """Return `model` with the shapes of its tensors.

    Raises:
        ExportError: If it does not pass `onnx.checker`, has another number of inputs or outputs than one and
            `num_outputs`, or a batch axis that is not symbolic.
    """
    try:
        typed = infer_shapes(model)
        onnx.checker.check_model(typed, full_check=True)
    except Exception as err:  # the checker and shape inference raise unrelated types
        raise ExportError(f"the exported graph does not pass onnx.checker: {err}") from err
    for kind, infos, expected in (("input", typed.graph.input, 1), ("output", typed.graph.output, num_outputs)):
        if len(infos) != expected:
            wanted = "one: images in, logits out" if expected == 1 else str(expected)
            raise ExportError(f"the module has {len(infos)} {kind}s, expected {wanted}")
    for info in (*typed.graph.input, *typed.graph.output):
        dims = info.type.tensor_type.shape.dim
        if not dims or dims[0].dim_param != BATCH_AXIS:
            got = dims[0].dim_value if dims else "none"
            raise ExportError(
                f"{info.name!r}: the batch axis did not stay symbolic, got {got}, expected {BATCH_AXIS!r}; "
                "the module's forward depends on the batch size of its example"
            )
    return typed
