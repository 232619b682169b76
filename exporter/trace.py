"""PyTorch module -> ONNX: trace, tidy, name after the modules, bring to the target's opset.

`torch.onnx.export` does the tracing. What it leaves open is done here, so that every file has one shape whatever
the exporter's version: weights inside the file, batch axis named `batch`, tensors named after PyTorch's modules,
GlobalAveragePool and Flatten spelled as such, no stack traces of the machine it was made on, and the opset really
the one asked for (the exporter silently writes opset 18 when asked for 17).
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from exporter.canonical_ops import canonical_ops
from exporter.errors import ExportError
from exporter.fold_affine import AffineFolds
from exporter.graph import attribute, copy_model, infer_shapes
from exporter.name_tensors import name_after_modules
from exporter.plain_functions import PlainFunctions
from exporter.target import IR_VERSION_OF_OPSET
from exporter.tidy_graph import tidy_graph

INPUT_NAME = "input"
OUTPUT_NAME = "logits"
BATCH_AXIS = "batch"
_SHIELD = "resnet_export.unchanged"
_TRACE_OPSET = 20
"""The exporter's own default in torch 2.15: no version conversion happens inside it."""


def trace(module: nn.Module, example: Tensor, *, opset: int, producer_version: str = "") -> ModelProto:
    """Return `module` as a checked, single-file ONNX model with a symbolic batch axis.

    Args:
        module: A network in evaluation mode, one tensor in, one tensor [N, num_classes] out.
        example: An input, float32 [N, C, H, W] with N >= 2 (a batch of 1 may be taken for a constant).
        opset: The opset of the result.
        producer_version: Recorded in the file.

    Raises:
        ExportError: If tracing, the opset conversion or the ONNX checker fails, the module has more than one input
            or output, or the batch axis did not stay symbolic.
    """
    return trace_and_fold(module, example, opset=opset, producer_version=producer_version)[0]


def trace_and_fold(
    module: nn.Module, example: Tensor, *, opset: int, producer_version: str = ""
) -> tuple[ModelProto, AffineFolds]:
    """Return what `trace` returns, and what became of each BatchNormalization that tracing found; see `trace`."""
    named = name_after_modules(canonical_ops(_torch_export(module, example)).model).model
    tidy = tidy_graph(named)
    converted = convert_opset(tidy.model, opset)
    converted.producer_name, converted.producer_version = "resnet-export", producer_version
    return _checked(converted), tidy.folds


def _torch_export(module: nn.Module, example: Tensor) -> ModelProto:
    batch = torch.export.Dim(BATCH_AXIS)
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), PlainFunctions():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: batch},),
                opset_version=_TRACE_OPSET,
                external_data=False,
                input_names=[INPUT_NAME],
                output_names=[OUTPUT_NAME],
                verbose=False,
            )
    except Exception as err:  # torch.onnx raises many unrelated types; all mean that the module did not export
        cause = err.__cause__ or err  # its own message is coloured advice to developers; the cause says what is wrong
        raise ExportError(
            f"torch.onnx.export failed on {type(module).__name__}, which must take one tensor and hold no control flow "
            f"that depends on it: {type(cause).__name__}: {cause}"
        ) from err
    finally:
        logger.setLevel(level)
    if program is None:
        raise ExportError("torch.onnx.export returned nothing")
    model: ModelProto = program.model_proto
    return model


def convert_opset(model: ModelProto, opset: int) -> ModelProto:
    """Return `model` in another opset, with the IR version that goes with it.

    Raises:
        ExportError: If an operator cannot be written in it.
    """
    converted = model
    if opset != next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")):
        try:
            converted = _unshield(onnx.version_converter.convert_version(_shield(model), opset))
        except Exception as err:  # the converter raises RuntimeError and more, by operator
            raise ExportError(f"the graph cannot be written in opset {opset}: {err}") from err
    del converted.opset_import[:]
    converted.opset_import.append(onnx.helper.make_opsetid("", opset))
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


def _unshield(model: ModelProto) -> ModelProto:
    for node in model.graph.node:
        if node.domain == _SHIELD:
            node.domain = ""
    return model


def _checked(model: ModelProto) -> ModelProto:
    """Return `model` with the shapes of its tensors, if it is what `trace` promises."""
    try:
        typed = infer_shapes(model)
        onnx.checker.check_model(typed, full_check=True)
    except Exception as err:  # the checker and shape inference raise unrelated types
        raise ExportError(f"the exported graph does not pass onnx.checker: {err}") from err
    for kind, infos in (("input", typed.graph.input), ("output", typed.graph.output)):
        if len(infos) != 1:
            raise ExportError(f"the module has {len(infos)} {kind}s, expected one: images in, logits out")
    for info in (*typed.graph.input, *typed.graph.output):
        dims = info.type.tensor_type.shape.dim
        if not dims or dims[0].dim_param != BATCH_AXIS:
            got = dims[0].dim_value if dims else "none"
            raise ExportError(
                f"{info.name!r}: the batch axis did not stay symbolic, got {got}, expected {BATCH_AXIS!r}; "
                "the module's forward depends on the batch size of its example"
            )
    return typed
