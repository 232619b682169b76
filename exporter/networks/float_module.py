"""What a user's module has to be before it is traced: code of Python around float32 numbers that are known.

Refused, each with what to give instead: TorchScript, which is traced no second time; layers that are quantized or that
watch and round for a quantization to come, whose float network is what INT8 is made of here; weights without values.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from exporter.errors import ModelObjectError

_FLOAT_FIRST = "give the float32 model, before it is quantized"
_TO_ONNX = (
    'torch.onnx.export(module.eval(), (torch.zeros(2, 3, 224, 224),), "model.onnx", dynamo=False, '
    'input_names=["input"], dynamic_axes={"input": {0: "batch"}})'
)
_WATCHERS = ("torch.ao.quantization.", "torchao.quantization.")
"""Packages whose modules observe ranges or round in training; `torch.ao.nn.qat` layers hold such ones."""


def check_is_float(module: nn.Module, name: str) -> None:
    """Raise unless `module` and all in it are layers of Python with float32 weights.

    Raises:
        ModelObjectError: Naming the first layer or weight that is not, and what to give instead.
    """
    for path, child in module.named_modules():
        kind = f"{type(child).__module__}.{type(child).__name__}"
        where = path or "itself"
        if isinstance(child, torch.jit.ScriptModule):
            raise ModelObjectError(
                f"{name}: {where} is TorchScript; give the module that it was made from, or convert it and give "
                f"model.onnx: {_TO_ONNX}"
            )
        if ".quantized" in kind or kind.startswith("torch.ao.nn.quantized"):
            raise ModelObjectError(f"{name}: it is quantized already ({where} is a {kind}); {_FLOAT_FIRST}")
        if kind.startswith(_WATCHERS) and not kind.endswith("Stub"):
            raise ModelObjectError(
                f"{name}: it is prepared for PyTorch's own quantization ({where} is a {kind}), whose ranges are not "
                f"taken over; {_FLOAT_FIRST} (of quantization-aware training load its weights into that)"
            )
    for path, tensor in module.named_parameters():
        _check_tensor(tensor, f"{name}: {path}", name, path)


def _check_tensor(tensor: Tensor, told: str, name: str, path: str) -> None:
    if is_lazy(tensor):
        raise ModelObjectError(f"{told} has no shape yet (a lazy layer); call the module once on pictures first")
    if tensor.layout is not torch.strided:
        raise ModelObjectError(f"{told} is stored as {tensor.layout}; give it as an array of numbers: .to_dense()")
    if tensor.is_complex():
        raise ModelObjectError(f"{told} is {tensor.dtype}, expected torch.float32; no ONNX runtime computes with it")
    if tensor.is_quantized or type(tensor) not in (Tensor, nn.Parameter) or not tensor.is_floating_point():
        kind = type(tensor).__name__
        raise ModelObjectError(
            f"{name}: it is quantized already ({path} is a {kind} of {tensor.dtype}); {_FLOAT_FIRST}"
        )
