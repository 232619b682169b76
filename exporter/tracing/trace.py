"""PyTorch module -> ONNX: trace, tidy, name after the modules, bring to the target's opset.

`torch.onnx.export` does the tracing. What it leaves open is done here, so that every file has one shape whatever
the exporter's version: weights inside the file, batch axis named `batch`, tensors named after PyTorch's modules,
GlobalAveragePool and Flatten spelled as such, no stack traces of the machine it was made on, and the opset really
the one asked for (the exporter silently writes opset 18 when asked for 17).
"""

from __future__ import annotations

import errno
import inspect
import io
import threading
import warnings
from contextlib import redirect_stderr, redirect_stdout
from typing import Any

import torch
from onnx import ModelProto, TensorProto
from torch import Tensor, nn

from exporter.errors import ExportError, UnstableAnswerError
from exporter.passes.canonicalize_ops import canonical_ops
from exporter.passes.cleanup import tidy_graph
from exporter.passes.convert_opset import BATCH_AXIS, TRACE_OPSET, checked, convert_opset
from exporter.passes.fold_affine import FoldReport
from exporter.passes.name_tensors import name_after_modules
from exporter.temporary_folder import require_temporary_folder
from exporter.tracing.decompositions import PlainFunctions
from exporter.tracing.lower_ceil_pools import lower_ceil_pools
from exporter.tracing.optimize_program import optimize
from exporter.tracing.plain_program import capture
from exporter.tracing.spell_reductions import spell_reductions

INPUT_NAME = "input"
OUTPUT_NAME = "logits"
_TRACING = threading.Lock()  # PyTorch traces one network at a time, and streams are the process's
_LAYERS = frozenset(("Conv", "ConvTranspose", "Gemm", "MatMul"))
_FULL = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


def trace(
    module: nn.Module,
    example: Tensor,
    *,
    opset: int,
    producer_version: str = "",
    outputs: tuple[str, ...] = (OUTPUT_NAME,),
) -> tuple[ModelProto, FoldReport]:
    """Return `module` as a checked, single-file ONNX model with a symbolic batch axis, and what became of BatchNorm.

    Args:
        module: A network in evaluation mode, one tensor in, one tensor [N, num_classes] out; with several `outputs` it
            gives a tuple of tensors.
        example: An input, float32 [N, C, H, W] with N >= 2 (a batch of 1 may be taken for a constant).
        opset: The opset of the result.
        producer_version: Recorded in the file.
        outputs: What to call what the module gives.

    Raises:
        ExportError: If tracing, the opset conversion or the ONNX checker fails, the module has more than one input
            or output, or the batch axis did not stay symbolic.
        UnstableAnswerError: If a BatchNorm normalizes by the batch that it is given; the message names it.
        WeightsError: If folding gives a weight that is not finite.
    """
    if training := [path for path, child in module.named_modules() if child.training]:
        raise ValueError(
            f"tracing needs evaluation mode, {training[0] or type(module).__name__!r} is in training mode; "
            "call module.eval() first"
        )
    traced = lower_ceil_pools(_torch_export(module, example, outputs)).model
    named = name_after_modules(canonical_ops(traced).model).model
    tidy, report = tidy_graph(named)
    converted = convert_opset(tidy, opset)
    spell_reductions(converted)
    converted.producer_name, converted.producer_version = "resnet-export", producer_version
    return checked(converted, num_outputs=len(outputs)), report


def _torch_export(module: nn.Module, example: Tensor, outputs: tuple[str, ...]) -> ModelProto:
    require_temporary_folder()
    told = io.StringIO()  # what PyTorch prints and logs of a failure: graphs, a page each
    try:
        with _TRACING, warnings.catch_warnings(), redirect_stdout(told), redirect_stderr(told), PlainFunctions():
            warnings.simplefilter("ignore")
            shapes = _dynamic_batch(module)
            captured = capture(module, example, shapes)
            program = torch.onnx.export(
                captured,
                (example,) if captured is module else (),
                dynamo=True,
                dynamic_shapes=shapes,
                opset_version=TRACE_OPSET,
                external_data=False,
                input_names=[INPUT_NAME],
                output_names=list(outputs),
                verbose=False,
                optimize=False,
            )
            if program is not None:
                optimize(program)
    except Exception as err:  # torch.onnx raises many unrelated types; all mean that the module did not export
        err.add_note(told.getvalue())  # type: ignore[attr-defined]  # of Python 3.11, which tracing needs
        _refuse_full_disk(err)
        cause = err.__cause__ or err  # its own message is colored advice to developers; the cause says what is wrong
        first, *rest = str(cause).strip().splitlines() or ["no message"]  # pages of advice to developers may follow
        where = next((f", {line.strip()}" for line in rest if line.strip().startswith("File ")), "")
        must = "must take one tensor and hold no control flow that depends on it"
        if type(cause).__name__ == "ConversionError":
            must = "computes what torch.onnx cannot write; compute it by other operators"
        raise ExportError(
            f"torch.onnx.export failed on {type(module).__name__}, which {must}: {type(cause).__name__}: {first}{where}"
        ) from err
    if program is None:
        raise ExportError("torch.onnx.export returned nothing")
    if program.exported_program is not None:
        _refuse_other_batches(program.exported_program)
    model: ModelProto = program.model_proto
    _refuse_narrow_numbers(model, type(module).__name__)
    return model


def _refuse_full_disk(err: BaseException | None) -> None:
    """Raise where a full disk is what an error comes from."""
    while err is not None:
        if isinstance(err, OSError) and err.errno in _FULL:
            raise ExportError(
                f"PyTorch could not write while it traced: {err}; free some space, or set TMPDIR to a folder with room"
            ) from err
        err = err.__cause__ or err.__context__


def _refuse_narrow_numbers(model: ModelProto, name: str) -> None:
    """Raise where the module itself computes in bfloat16, or its layers in float16: the file would not be float32."""
    types = {info.name: info.type.tensor_type.elem_type for info in (*model.graph.value_info, *model.graph.output)}
    for node in model.graph.node:
        made = {types.get(output) for output in node.output}
        if TensorProto.BFLOAT16 in made or (TensorProto.FLOAT16 in made and node.op_type in _LAYERS):
            kind = "bfloat16" if TensorProto.BFLOAT16 in made else "float16"
            raise ExportError(
                f"{name}: its forward computes in {kind} ({node.op_type} {node.name!r}: torch.autocast or a cast "
                "inside), expected float32; take that out, FP16 and INT8 files are made of the float32 one (--fp16)"
            )


def _refuse_other_batches(program: torch.export.ExportedProgram) -> None:
    """Raise where larger batches take another way through `forward`, or a batch_norm uses the batch's own statistics.

    The exporter writes neither. A batch_norm may also standardize a weight, which has no batch: its sizes are fixed.
    """
    for bounds in program.range_constraints.values():
        if float(bounds.upper) < 4096:  # far above any batch
            raise UnstableAnswerError(f"forward treats batches above {bounds.upper} otherwise; let it treat all alike")
    for node in program.graph.nodes:
        kind = str(node.target)
        if "batch_norm" not in kind or "no_training" in kind:
            continue
        if any(isinstance(size, torch.SymInt) for size in node.args[0].meta["val"].shape):
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            path = ".".join(step.partition("@")[0] for step in stack[-1][0].split(".")) if stack else ""
            raise UnstableAnswerError(
                f"{path or node.name!r} normalizes by the batch that it is given, in evaluation mode too, so that an "
                "answer depends on the other pictures of its batch; train it with track_running_stats=True, or "
                "normalize by the picture (GroupNorm, InstanceNorm)"
            )


def _dynamic_batch(module: nn.Module) -> tuple[Any, ...]:
    """Return that axis 0 of the one input is symbolic, the way `torch.export` wants it for the signature of forward."""
    axes = {0: torch.export.Dim(BATCH_AXIS)}
    first = next(iter(inspect.signature(module.forward).parameters.values()), None)
    takes_any = first is not None and first.kind is inspect.Parameter.VAR_POSITIONAL
    return ((axes,),) if takes_any else (axes,)
