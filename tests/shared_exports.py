"""Exports that tests share: the same network, exported with the same options, is traced once in a run.

Tracing is the slowest step of most tests of the command, and the same for all of them. What tests the export itself
imports `exporter.tracing.export.export_loaded`, which traces every time.
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
from typing import Any

from built_once import built_once

from exporter.models.loaded_model import LoadedModel
from exporter.tracing import export
from exporter.tracing.export import ExportConfig, ExportedModel

MAX_WEIGHTS = 12_000_000
"""Larger networks are exported by one test each; keeping them would only fill the disk."""


class _Fingerprint(pickle.Pickler):
    """Pickles a module with the hash of each tensor in the tensor's place."""

    def persistent_id(self, obj: Any) -> tuple[str, ...] | None:
        if not isinstance(obj, sys.modules["torch"].Tensor):
            return None
        content = obj.detach().contiguous().numpy().tobytes()
        return str(obj.dtype), str(tuple(obj.shape)), hashlib.sha256(content).hexdigest()


def fingerprint(*content: object) -> str:
    """Return the hash of modules and options: classes by name, attributes, hooks, weights."""
    written = io.BytesIO()
    _Fingerprint(written).dump(content)
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
            exported = export_loaded(loaded, config)
            path.write_bytes(pickle.dumps((exported.onnx.SerializeToString(), exported.folding)))

        content, folding = pickle.loads(built_once(folder / key, build).read_bytes())
        return ExportedModel(onnx=onnx.load_from_string(content), loaded=loaded, folding=folding, config=config)

    return shared


def keep_the_list_of_operators() -> None:
    """Let PyTorch and onnxscript list their operators once a process; left alone they do so at every export.

    A fifth of the time of exporting a small network, most of it for `py_impl`, called 11,000 times an export.
    """
    from onnxscript._framework_apis import torch_2_5
    from torch._export import utils
    from torch._ops import OperatorBase
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    if hasattr(torch_2_5.get_torchlib_ops, "cache_info"):
        return
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
