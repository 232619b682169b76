"""ONNX Runtime behind the `Runtime` contract. What runs is what was asked for: no silent fall-back to the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from runtimes.errors import ModelClosedError, ProviderUnavailableError, RuntimeAdapterError
from runtimes.fork_guard import never_release_in_a_child, refuse_in_a_child
from runtimes.nan_images import with_nan_of
from runtimes.ort.int8_kernels import PRECISE_OPTION, why_int8_saturates
from runtimes.ort.io_binding import bind_arrays
from runtimes.ort.session import (
    BOTH_PAIRS,
    CPU_PROVIDER,
    FLOAT_INPUTS,
    PluginProvider,
    SerializableModel,
    Wanted,
    node_providers,
    open_session,
)
from runtimes.protocol import Array, InputCheck, RuntimeAdapter, TensorSpec

__all__ = ["CPU_PROVIDER", "OrtRuntime", "SerializableModel"]

_DTYPES = {f"tensor({name})": name for name in ("float16", "int64", "int32", "int8", "uint8", "bool")}
_DTYPES |= {"tensor(float)": "float32", "tensor(double)": "float64"}


class OrtRuntime(RuntimeAdapter):
    """An ONNX model opened in ONNX Runtime. Any number of threads may call `run`.

    Integer kernels are exact on every CPU: where the default ones may saturate (`ort.int8_kernels`) the slower ones are
    asked for. ONNX Runtime cannot do that for files whose weights share a zero point, as those for TensorRT do; these
    open with the default kernels, and `may_saturate` says so. `plain_session.PlainRuntime` asks for nothing.

    Args:
        model: Path, bytes or `ModelProto`.
        providers: Execution providers in order of preference. The first must load, and every node must run on one of
            them: a node that ONNX Runtime left to the CPU is refused unless the CPU's provider is listed.
        provider_options: Options of each of `providers`, in the same order; none when None.
        plugin: A provider that comes in a library of its own, instead of `providers`.
        exact_qdq: Compute Q/DQ models as they are written (quantize, dequantize, float arithmetic between), which
            is what TensorRT's INT8 kernels compute up to rounding of the sum.
        num_threads: Threads of one operator; 0 lets ONNX Runtime choose.
        record_nodes: Keep which provider runs each node, for `node_providers`. Always kept but for the CPU's.
        keep_float_weights: Compute layers in float whose weights are: ONNX Runtime gives those between Q/DQ pairs INT8
            weights of one scale (findings/onnxruntime_quantizes_float_weights.sh). Float biases keep a layer in float,
            too, so this is for files whose biases are INT32.

    Raises:
        ProviderUnavailableError: If the first provider did not load, or does not run every node.
        RuntimeAdapterError: If the model does not load.
        ValueError: If `providers` is empty.

    Attributes:
        may_saturate: Whether integer kernels, if the file has any for ONNX Runtime, add products in 16 bits.
        provider: The provider that was asked for, and loaded.
        node_providers: Node name to the provider that runs it; empty where it was not recorded (or cannot be).
        metadata: The file's `metadata_props`.
    """

    def __init__(
        self,
        model: str | Path | bytes | SerializableModel,
        *,
        providers: Sequence[str] = (CPU_PROVIDER,),
        provider_options: Sequence[Mapping[str, str]] | None = None,
        plugin: PluginProvider | None = None,
        exact_qdq: bool = False,
        num_threads: int = 0,
        record_nodes: bool = False,
        keep_float_weights: bool = False,
    ) -> None:
        saturates = not exact_qdq and bool(why_int8_saturates())
        self._process = os.getpid()
        self.may_saturate = False
        wanted = Wanted(tuple(providers), provider_options, plugin, record_nodes, keep_float_weights)
        options = _session_options(exact_qdq=exact_qdq, num_threads=num_threads)
        if saturates:
            options.add_session_config_entry(*PRECISE_OPTION)
            # Fatal errors only: what is logged on the first attempt is either no error or raised by the second one.
            options.log_severity_level = 4
        try:
            self._session: Any = open_session(model, options, wanted)
        except ProviderUnavailableError:
            raise
        except RuntimeAdapterError:
            if not saturates:
                raise
            options = _session_options(exact_qdq=exact_qdq, num_threads=num_threads)
            self._session = open_session(model, options, wanted)
            self.may_saturate = True
        never_release_in_a_child(self._session)
        self.node_providers = node_providers(self._session) if wanted.records_nodes else {}
        self.provider = wanted.names[0]
        self.metadata: Mapping[str, str] = dict(self._session.get_modelmeta().custom_metadata_map)
        self.input_specs = {info.name: spec_of(info) for info in self._session.get_inputs()}
        self.output_specs = {info.name: spec_of(info) for info in self._session.get_outputs()}
        self._output_names = list(self.output_specs)
        self._check = InputCheck(self.input_specs)

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model once; see `Runtime.run`.

        Raises:
            ModelClosedError: After `close`.
            ForkedProcessError: In a forked child.
            RuntimeAdapterError: When ONNX Runtime fails.
            InputMismatchError: If an input has a wrong name, dtype or shape.
        """
        session = self._open_session()  # held here, so that a `close` meanwhile destroys nothing that computes
        inputs = self._check(inputs)
        try:
            outputs = session.run(self._output_names, inputs if type(inputs) is dict else dict(inputs))
        except Exception as err:  # ONNX Runtime raises a class per status code, without a common public base
            raise RuntimeAdapterError(f"ONNX Runtime failed: {err}") from err
        return with_nan_of(inputs, dict(zip(self._output_names, outputs, strict=True)))

    def run_into(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Run the model once and write the results into arrays of the caller, without a copy in between.

        Args:
            inputs: Name to array, as for `run`; also arrays in GPU memory (`__cuda_array_interface__`).
            outputs: Name to array, of every output, writeable and C-contiguous; also in GPU memory.

        Raises:
            ModelClosedError: After `close`.
            ForkedProcessError: In a forked child.
            RuntimeAdapterError: When ONNX Runtime fails.
            InputMismatchError: If an array has a wrong name, dtype, shape or layout.
        """
        session = self._open_session()
        binding = bind_arrays(session, self.input_specs, inputs, self.output_specs, outputs)
        try:
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        except Exception as err:  # ONNX Runtime raises a class per status code, without a common public base
            raise RuntimeAdapterError(f"ONNX Runtime failed: {err}") from err
        with_nan_of(inputs, {name: array for name, array in outputs.items() if isinstance(array, np.ndarray)})

    def close(self) -> None:
        """Release the session, as soon as no other thread computes in it; a second call does nothing."""
        self._session = None

    def _open_session(self) -> Any:
        session = self._session
        if session is None:
            raise ModelClosedError("this runtime is closed; open the model again")
        refuse_in_a_child(self._process)
        return session


def _session_options(*, exact_qdq: bool, num_threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = num_threads
    # From the second run of a shape on, a memory pattern holds one more block for all intermediate tensors: 40 MB
    # for 64 images of a ResNet-20 with its activations as outputs, and no faster (measured on x86-64).
    options.enable_mem_pattern = False
    options.add_session_config_entry(*FLOAT_INPUTS)
    options.add_session_config_entry(*BOTH_PAIRS)
    if exact_qdq:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def spec_of(info: Any) -> TensorSpec:
    """Return the specification of one of a session's inputs or outputs."""
    shape = tuple(size if isinstance(size, int) else None for size in info.shape)
    return TensorSpec(_DTYPES.get(info.type, info.type), shape)
