"""Exports that tests share: the same network, exported with the same options, is traced once in a run.

Tracing is the slowest step of most tests of the command, and the same for all of them. What tests the export itself
imports `exporter.tracing.export.export_loaded`, which traces every time.

A network of other weights gives the graph that it gave before, with other constants: PyTorch traces shapes. So what
`torch.onnx` wrote of one is filled with the weights of the next, where every weight stands in the file as it is.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import io
import pickle
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from built_once import built_once

from exporter.models.loaded_model import LoadedModel
from exporter.tracing import export
from exporter.tracing.export import ExportConfig, ExportedModel

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import Tensor, nn

MAX_WEIGHTS = 12_000_000
"""Larger networks are exported by one test each; keeping them would only fill the disk."""
MAX_CONSTANT = 64
"""Bytes of a constant that is a number or a shape, and not computed from weights."""


class _Fingerprint(pickle.Pickler):
    """Pickles a module with the hash of each tensor in the tensor's place."""

    def persistent_id(self, obj: Any) -> tuple[str, ...] | None:
        if not isinstance(obj, sys.modules["torch"].Tensor):
            return None
        content = obj.detach().contiguous().numpy().tobytes()
        return str(obj.dtype), str(tuple(obj.shape)), hashlib.sha256(content).hexdigest()


class _Outline(_Fingerprint):
    """Pickles a module with the name and shape of each of `weights` in its place."""

    def __init__(self, file: io.BytesIO, weights: dict[str, Tensor]) -> None:
        super().__init__(file)
        self.names = {id(weight): name for name, weight in weights.items()}

    def persistent_id(self, obj: Any) -> tuple[str, ...] | None:
        if id(obj) in self.names:
            return self.names[id(obj)], str(tuple(obj.shape))
        return super().persistent_id(obj)


def fingerprint(*content: object, but: dict[str, Tensor] | None = None) -> str:
    """Return the hash of modules and options: classes by name, attributes, hooks, weights; no values of `but`."""
    written = io.BytesIO()
    (_Fingerprint(written) if but is None else _Outline(written, but)).dump(content)
    return hashlib.sha256(written.getvalue()).hexdigest()


def sharing(export_loaded: Callable[..., ExportedModel], folder: Path) -> Callable[..., ExportedModel]:
    """Return `export_loaded` with its results kept in `folder`."""

    @functools.wraps(export_loaded)
    def shared(loaded: LoadedModel, config: ExportConfig) -> ExportedModel:
        import onnx
        import torch

        keep_the_list_of_operators()
        module = loaded.module
        if not isinstance(module, torch.nn.Module) or sum(each.numel() for each in module.parameters()) > MAX_WEIGHTS:
            return export_loaded(loaded, config)
        options = (loaded.outputs, loaded.preprocessing.input_size, config.resolved_opset, torch.get_default_dtype())
        try:
            key = fingerprint(type(loaded), module, options)
        except (pickle.PicklingError, AttributeError, TypeError):  # a class or function inside a test
            return export_loaded(loaded, config)

        def build(path: Path) -> None:
            with outlines_shared_in(folder):
                exported = export_loaded(loaded, config)
            path.write_bytes(pickle.dumps((exported.onnx.SerializeToString(), exported.folding)))

        content, folding = pickle.loads(built_once(folder / key, build).read_bytes())
        return ExportedModel(onnx=onnx.load_from_string(content), loaded=loaded, folding=folding, config=config)

    return shared


@contextmanager
def outlines_shared_in(folder: Path) -> Iterator[None]:
    """Let `torch.onnx` trace a network of other weights once."""
    from exporter.tracing import trace

    original = trace._torch_export

    def shared(module: nn.Module, example: Tensor, outputs: tuple[str, ...]) -> ModelProto:
        import torch

        weights = drawn_weights(module)
        key = fingerprint(module, tuple(example.shape), outputs, torch.get_default_dtype(), but=weights)
        traced = []

        def build(path: Path) -> None:
            traced.append(original(module, example, outputs))
            path.write_bytes(outline_of(traced[0], weights))

        outline = built_once(folder / f"{key}.outline", build).read_bytes()
        if traced or not outline:
            return traced[0] if traced else original(module, example, outputs)
        return filled(outline, weights)

    trace._torch_export = shared
    try:
        yield
    finally:
        trace._torch_export = original


def drawn_weights(module: nn.Module) -> dict[str, Tensor]:
    """Return the stored float32 tensors that are not even: one of zeros or ones may leave the graph, or be merged."""
    import torch

    stored = module.state_dict().keys()
    named = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {
        name: tensor
        for name, tensor in named.items()
        if name in stored and tensor.dtype == torch.float32 and not bool((tensor == tensor.flatten()[:1]).all())
    }


def outline_of(model: ModelProto, weights: dict[str, Tensor]) -> bytes:
    """Return the file without the weights, or nothing where one of them is not in it as it is."""
    from onnx import ModelProto

    outline = ModelProto.FromString(model.SerializeToString())
    places = {tensor.name: tensor for tensor in outline.graph.initializer}
    for name, weight in weights.items():
        tensor = places.pop(name, None)
        if tensor is None or tensor.raw_data != weight.detach().contiguous().numpy().tobytes():
            return b""
        tensor.ClearField("raw_data")
    if any(may_be_computed(tensor.raw_data) for tensor in places.values()):
        return b""
    return outline.SerializeToString()


def may_be_computed(constant: bytes) -> bool:
    """Tell whether a constant could come of the weights: it is no number, shape, or even tensor."""
    return len(constant) > MAX_CONSTANT and constant != constant[:4] * (len(constant) // 4)


def filled(outline: bytes, weights: dict[str, Tensor]) -> ModelProto:
    """Return the file of a network of these weights."""
    from onnx import ModelProto

    model = ModelProto.FromString(outline)
    for tensor in model.graph.initializer:
        if tensor.name in weights:
            tensor.raw_data = weights[tensor.name].detach().contiguous().numpy().tobytes()
    return model


def keep_the_list_of_operators() -> None:
    """Let PyTorch and onnxscript list their operators once a process; left alone they do so at every export.

    A fifth of the time of exporting a small network, most of it for `py_impl`, called 11,000 times an export.
    """
    from onnxscript._framework_apis import torch_2_5
    from torch import fx
    from torch._export import utils
    from torch._ops import OperatorBase
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    if hasattr(torch_2_5.get_torchlib_ops, "cache_info"):
        return
    fx.config.do_not_emit_stack_traces = True  # which an export leaves out
    OperatorBase.py_impl = registering(OperatorBase.py_impl)
    torch_2_5.get_torchlib_ops = functools.cache(torch_2_5.get_torchlib_ops)
    utils._materialize_cpp_cia_ops = functools.cache(utils._materialize_cpp_cia_ops)
    registry = functools.cache(ONNXRegistry.from_torchlib)

    def copied(_: type, **options: int) -> ONNXRegistry:
        found = copy.copy(registry(**options))
        found.functions = {name: list(decompositions) for name, decompositions in found.functions.items()}
        return found

    ONNXRegistry.from_torchlib = classmethod(copied)


def registering(py_impl: Callable[..., Any]) -> Callable[..., Any]:
    """Return `py_impl` without the type hints that it computes and the checks that a plain dispatch key passes."""
    from torch._C import DispatchKey

    def lean(operator: Any, key: Any) -> Callable[..., Any]:
        if type(key) is not DispatchKey or key is DispatchKey.Python or key in operator.py_kernels:
            return py_impl(operator, key)

        def keep(function: Callable[..., Any]) -> Callable[..., Any]:
            operator.py_kernels[key] = function
            operator._dispatch_cache.clear()
            return function

        return keep

    return lean


@contextmanager
def exports_shared_in(folder: Path) -> Iterator[None]:
    """Let `exporter.tracing.export.export_loaded`, looked up at its call as the command does, trace a network once."""
    original = export.export_loaded
    export.export_loaded = sharing(original, folder)
    try:
        yield
    finally:
        export.export_loaded = original


def export_shared(loaded: LoadedModel, config: ExportConfig | None = None) -> ExportedModel:
    """Export as `export_loaded` does, or return what another test got for the same network and options."""
    return export.export_loaded(loaded, config or ExportConfig())
