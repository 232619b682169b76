"""Open an ONNX Runtime session on the providers asked for, and see to it that these, and no others, run its nodes.

ONNX Runtime opens a session whose provider did not load, on the CPU, with no more than a line in its log. And a
provider that loads may leave nodes to the CPU. Both are found out after the session is open: by its list of providers,
and node by node. Source: ONNX Runtime 1.31, `session.record_ep_graph_assignment_info` and, where that is missing,
`session.disable_cpu_ep_fallback`, in onnxruntime_session_options_config_keys.h.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import onnxruntime
from numpy.typing import NDArray

from runtimes.errors import ProviderUnavailableError, RuntimeAdapterError
from runtimes.first_few import first_few
from runtimes.io.file_name import name_or_bytes

CPU_PROVIDER = "CPUExecutionProvider"
PAD_FUSION = "Pad_Fusion"
"""An optimization that is switched off before 1.32: it makes a Pad of zeros the padding of a MaxPool, which is minus
infinity: windows of negative values at the border answer wrongly. Source: findings/onnxruntime_pad_into_max_pool.sh."""

WEIGHT_QUANTIZATION = "WeightBiasQuantization"
"""An optimization that gives float weights between Q/DQ pairs INT8 of one scale, and float biases INT32."""

FLOAT_INPUTS = ("session.qdq_matmulnbits_accuracy_level", "1")
"""An entry that keeps the float inputs of layers with INT8 or INT4 weights in float32; by default they become INT8.

Source: findings/onnxruntime_weight_only_quantizes_inputs.sh.
"""

BOTH_PAIRS = ("session.disable_double_qdq_remover", "1")
"""An entry that keeps two Q/DQ pairs in a row; by default they become one pair, whose scale is that of neither.

Source: findings/onnxruntime_two_pairs_become_finer.sh.
"""

_RECORD = ("session.record_ep_graph_assignment_info", "1")
_NO_CPU = ("session.disable_cpu_ep_fallback", "1")
_REGISTERED: set[str] = set()
"""Libraries that this process registered: where there is no GPU they offer nothing, and a second time is refused."""


class SerializableModel(Protocol):
    """An `onnx.ModelProto`, named by the one method used, so that this module does not import onnx."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        """Return the file's bytes."""
        ...


@runtime_checkable
class WeightsBesideModel(Protocol):
    """A model whose large weights are arrays beside it, such as a `calibration.observers.split_model.SplitModel`."""

    @property
    def skeleton(self) -> SerializableModel:
        """The model, in which these weights are external data."""
        ...

    @property
    def weights(self) -> Mapping[str, NDArray[Any]]:
        """Name to values; not to be changed while a session opens, which keeps them."""
        ...


@dataclass(frozen=True, slots=True)
class PluginProvider:
    """An execution provider in a library of its own, registered with ONNX Runtime when it is first used."""

    name: str
    shared_object: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where a session is to run: providers with their options, or one plug-in."""

    providers: tuple[str, ...]
    options: Sequence[Mapping[str, str]] | None
    plugin: PluginProvider | None
    record_nodes: bool
    keep_float_weights: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The providers that may run nodes."""
        return (self.plugin.name,) if self.plugin else self.providers

    @property
    def is_strict(self) -> bool:
        """Whether a node on the CPU is an error."""
        return CPU_PROVIDER not in self.names

    @property
    def records_nodes(self) -> bool:
        """Whether ONNX Runtime is asked which provider runs each node."""
        return (self.record_nodes or self.names != (CPU_PROVIDER,)) and _can_record()


def open_session(model: str | Path | bytes | SerializableModel, options: Any, wanted: Wanted) -> Any:
    """Return an `onnxruntime.InferenceSession` that runs on what is wanted and on nothing else.

    Raises:
        ProviderUnavailableError: If a provider is unknown, the first did not load, or a node runs elsewhere.
        RuntimeAdapterError: If the model does not load.
        ValueError: If no provider is wanted.
    """
    source = _source(model, options)
    if wanted.records_nodes:
        options.add_session_config_entry(*_RECORD)
    elif wanted.is_strict and wanted.names:
        options.add_session_config_entry(*_NO_CPU)
    disabled = (_wrong_optimizers() or []) + [WEIGHT_QUANTIZATION] * wanted.keep_float_weights
    arguments = _plugin_arguments(options, wanted.plugin) if wanted.plugin else _provider_arguments(wanted)
    try:
        session = onnxruntime.InferenceSession(source, options, disabled_optimizers=disabled, **arguments)
    except Exception as err:  # ONNX Runtime raises a class per status code, without a common public base
        if "fallback to CPU EP has been explicitly disabled" in str(err):
            raise ProviderUnavailableError(
                f"asked for {wanted.names[0]}, which does not load or leaves nodes to the CPU; nothing was run"
            ) from err
        named = model if isinstance(model, (str, Path)) else "the model"
        raise RuntimeAdapterError(f"ONNX Runtime does not load {named}: {err}") from err
    if isinstance(model, WeightsBesideModel):
        session.weights_beside = model.weights  # 1.31 copies them, as tried; nothing promises that others do
    if wanted.names[0] not in session.get_providers():
        raise ProviderUnavailableError(
            f"asked for {wanted.names[0]}, ONNX Runtime loaded {session.get_providers()}; nothing was run"
        )
    if wanted.records_nodes:
        _check_placement(node_providers(session), wanted)
    return session


def _wrong_optimizers() -> list[str] | None:
    """Return the optimizations that are switched off, as the installed version of them computes something else."""
    major, minor = (int(part) for part in onnxruntime.__version__.split(".")[:2])
    return [PAD_FUSION] if (major, minor) < (1, 32) else None


def _source(model: str | Path | bytes | SerializableModel, options: Any) -> str | bytes:
    """Return what ONNX Runtime opens; weights that lie beside it are given to the options."""
    if isinstance(model, bytes):
        return model
    if isinstance(model, (str, Path)):
        return name_or_bytes(model)
    if isinstance(model, WeightsBesideModel):
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in model.weights.values()]
        options.add_external_initializers(list(model.weights), values)
        return model.skeleton.SerializeToString()
    return model.SerializeToString()


def node_providers(session: Any) -> dict[str, str]:
    """Return node name to the provider that runs it, of a session opened with that being recorded."""
    found: dict[str, str] = {}
    for subgraph in session.get_provider_graph_assignment_info():
        for node in subgraph.get_nodes():
            found[node.name or f"{node.op_type} {len(found)}"] = str(subgraph.ep_name)
    return found


def _can_record() -> bool:
    return hasattr(onnxruntime.InferenceSession, "get_provider_graph_assignment_info")


def _check_placement(placement: Mapping[str, str], wanted: Wanted) -> None:
    strangers = {node: provider for node, provider in placement.items() if provider not in wanted.names}
    if strangers:
        named = first_few(f"{node} on {provider}" for node, provider in strangers.items())
        raise ProviderUnavailableError(
            f"asked for {wanted.names[0]}, {len(strangers)} of {len(placement)} nodes would run elsewhere: "
            f"{named}; nothing was run"
        )


def _provider_arguments(wanted: Wanted) -> dict[str, Any]:
    if not wanted.providers:
        raise ValueError(f"providers: got none, expected at least one such as {CPU_PROVIDER}")
    available = onnxruntime.get_available_providers()
    if unknown := [name for name in wanted.providers if name not in available]:
        raise ProviderUnavailableError(f"ONNX Runtime has no {unknown[0]}; it has {', '.join(available)}")
    if wanted.options is None:
        return {"providers": list(wanted.providers)}
    return {"providers": list(wanted.providers), "provider_options": [dict(each) for each in wanted.options]}


def _plugin_arguments(options: Any, plugin: PluginProvider) -> dict[str, Any]:
    """Register the library once in this process, and choose the first device that it offers."""
    if not hasattr(onnxruntime, "get_ep_devices"):
        raise ProviderUnavailableError(
            f"ONNX Runtime {onnxruntime.__version__} takes no plug-in providers; install onnxruntime 1.24 or newer"
        )
    devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == plugin.name]
    if not devices and plugin.shared_object not in _REGISTERED:
        try:
            onnxruntime.register_execution_provider_library(plugin.name, plugin.shared_object)
        except Exception as err:  # ONNX Runtime raises a class per status code, without a common public base
            raise ProviderUnavailableError(f"{plugin.name} does not load: {err}") from err
        _REGISTERED.add(plugin.shared_object)
        devices = [device for device in onnxruntime.get_ep_devices() if device.ep_name == plugin.name]
    if not devices:
        raise ProviderUnavailableError(f"{plugin.name} loads, but offers no device on this machine")
    options.add_provider_for_devices(devices[:1], dict(plugin.options))
    return {}
