"""Bring a graph to an opset, and check what every exported float graph promises."""

from __future__ import annotations

import onnx
import onnx.inliner
from onnx import ModelProto, NodeProto

from exporter.errors import ExportError
from exporter.graph.onnx_graph import (
    array_from_initializer,
    attribute,
    copy_model,
    infer_shapes,
    name_nodes,
    opset_of,
    refill,
    tensor_shapes,
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
            converted = onnx.version_converter.convert_version(_shield(_spell_out_newer(model, opset)), opset)
        except ExportError:
            raise
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


def _spell_out_newer(model: ModelProto, opset: int) -> ModelProto:
    """Return `model` with what `opset` does not have (RMSNormalization, Swish, ...) as the standard's own functions.

    Raises:
        ExportError: If the standard has no function for it.
    """
    newer = [node for node in model.graph.node if node.domain == "" and not _is_known(node.op_type, opset)]
    if not newer or opset > opset_of(model):
        return model
    for node in newer:
        schema = onnx.defs.get_schema(node.op_type, opset_of(model))
        if not schema.has_function and not schema.has_context_dependent_function:
            raise ExportError(
                f"the graph cannot be written in opset {opset}: it has no {node.op_type}, which is of opset "
                f"{schema.since_version}, in {node.output[0]!r}; write it in other operators"
            )
    typed = infer_shapes(copy_model(model))
    for tensor in typed.graph.initializer:  # the inliner asks for the types of all that a function reads
        typed.graph.value_info.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    for node in typed.graph.node:
        _state_defaults(node, opset_of(model))
    functions = [("", op_type) for op_type in {node.op_type for node in newer}]
    spelled = onnx.inliner.inline_selected_functions(typed, functions, inline_schema_functions=True)
    refill(spelled.graph.value_info, list(model.graph.value_info))
    return spelled


def _is_known(op_type: str, opset: int) -> bool:
    try:
        return not onnx.defs.get_schema(op_type, opset).deprecated
    except onnx.defs.SchemaError:
        return False


def _state_defaults(node: NodeProto, opset: int) -> None:
    """Give `node` the attributes that it leaves at a default: the inliner of onnx 1.23 forgets Swish's."""
    if node.domain or not onnx.defs.has(node.op_type):
        return
    given = {attribute.name for attribute in node.attribute}
    for name, known in onnx.defs.get_schema(node.op_type, opset).attributes.items():
        if name not in given and known.default_value.type:
            node.attribute.append(known.default_value)


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


def checked(model: ModelProto, *, num_outputs: int = 1, file: str = "") -> ModelProto:
    """Return `model` with the shapes of its tensors.

    Args:
        model: Its batch axis is `BATCH_AXIS`.
        num_outputs: How many outputs it has.
        file: What it was read from, if it was not traced from a module.

    Raises:
        ExportError: If it does not pass `onnx.checker`, has another number of inputs or outputs than one and
            `num_outputs`, or a batch axis that is not symbolic.
    """
    try:
        typed = infer_shapes(model)
        onnx.checker.check_model(typed, full_check=True)
    except Exception as err:  # the checker and shape inference raise unrelated types
        raise ExportError(f"{file or 'the exported graph'} does not pass onnx.checker: {err}") from err
    for kind, infos, expected in (("input", typed.graph.input, 1), ("output", typed.graph.output, num_outputs)):
        if len(infos) != expected:
            wanted = "one: images in, logits out" if expected == 1 else str(expected)
            raise ExportError(f"{file or 'the module'} has {len(infos)} {kind}s, expected {wanted}")
    for info in (*typed.graph.input, *typed.graph.output):
        dims = info.type.tensor_type.shape.dim
        if not dims or dims[0].dim_param != BATCH_AXIS:
            got = dims[0].dim_value if dims else "none"
            what = f"{info.name!r}: the batch axis did not stay symbolic, got {got}, expected {BATCH_AXIS!r}"
            raise ExportError(f"{file}: {what}; {_who_fixes(typed)}" if file else f"{what}; {_DEPENDS}")
    return typed


_DEPENDS = "the module's forward depends on the batch size of its example"


def _who_fixes(typed: ModelProto) -> str:
    """Return in words which node of a file makes one batch size of any, and what to do."""
    shapes = tensor_shapes(typed)
    constants = {tensor.name: list(tensor.dims) for tensor in typed.graph.initializer}
    found = "a node"
    for node in typed.graph.node:
        read = [name for name in node.input if shapes.get(name, ())[:1] == (BATCH_AXIS,)]
        made = shapes.get(node.output[0], ())
        if read and len(made) > 1 and BATCH_AXIS not in made:
            fixed = [name for name in node.input if len(constants.get(name, ())) > 1]
            with_it = f" with the constant {fixed[0]!r} of shape {constants[fixed[0]]}" if fixed else ""
            found = f"{node.name or node.output[0]!r} ({node.op_type}){with_it}"
            break
    return f"the file is made for that many images: {found} keeps them; export it with a dynamic batch axis"
