"""OpenVINO behind the `Runtime` contract. Float is float32, and INT8 kernels that may saturate are not run."""

from __future__ import annotations

import io
import os
import sys
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.errors import ModelClosedError, ProviderUnavailableError, RuntimeAdapterError
from runtimes.fork_guard import never_release_in_a_child, refuse_in_a_child
from runtimes.io.file_name import name_or_bytes
from runtimes.nan_images import with_nan_of
from runtimes.openvino.misread_levels import why_levels_are_misread
from runtimes.openvino.misread_operators import why_misread
from runtimes.openvino.node_precision import integer_layers, node_precisions
from runtimes.openvino.openvino_library import INT8_KERNELS, PRECISION, load_core, properties_for
from runtimes.ort.int8_kernels import why_int8_saturates
from runtimes.protocol import Array, InputCheck, RuntimeAdapter, TensorSpec

_NO_VNNI = "this CPU has no VNNI, and OpenVINO's INT8 kernels saturate without"
_SINK = "/sink_port_0"
"""Suffix that OpenVINO's ONNX reader puts behind the name of an output."""


class OpenVinoRuntime(RuntimeAdapter):
    """An ONNX model compiled by OpenVINO for the CPU. Any number of threads may call `run`.

    Args:
        num_threads: Threads of one operator; 0 lets OpenVINO choose.
        properties: Further properties of OpenVINO's CPU plug-in; they win over `runtimes.openvino.openvino_library`'s.

    Raises:
        MissingDependencyError: If OpenVINO is not installed.
        ProviderUnavailableError: If INT8 kernels would saturate on this CPU and cannot be kept from it.
        RuntimeAdapterError: If the model is not read or compiled, or would be computed otherwise than its file says.

    Attributes:
        metadata: The file's `metadata_props`.
        node_precisions: Node name to what it computes in, such as "Convolution in u8".
        why_in_float: Why INT8 is computed in float32, where it is.
        float_precision: Type that layers other than INT8 compute in: "f32" unless another was asked for.
    """

    def __init__(
        self, model: str | Path | bytes | Any, *, num_threads: int = 0, properties: Mapping[str, str] | None = None
    ) -> None:
        core = load_core()
        named = str(model) if isinstance(model, (str, Path)) else "the model"
        wanted = properties_for(num_threads=num_threads, given=properties or {})
        try:
            network = core.read_model(_source(model))
            why = why_misread(_file_or_bytes(model), network)
            misread = why_levels_are_misread(network)
            if misread and str(wanted.setdefault(INT8_KERNELS, False)).lower() not in ("no", "false"):
                why = why or f"{misread}; leave {INT8_KERNELS} alone"
            compiled: Any = None if why else core.compile_model(network, "CPU", wanted)
        except Exception as err:  # OpenVINO raises RuntimeError and others, whose first lines are places in its source
            raise RuntimeAdapterError(f"OpenVINO does not load {named}: {_sentence(err)}") from err
        if why:
            raise RuntimeAdapterError(f"OpenVINO would compute {named} wrongly: {why}")
        self._compiled: Any = compiled
        never_release_in_a_child(self._compiled)
        self._process = os.getpid()
        self.node_precisions = node_precisions(self._compiled)
        _refuse_saturation(self.node_precisions)
        self.why_in_float = misread or _NO_VNNI
        self.metadata = _metadata(network)
        self.float_precision = str(wanted[PRECISION])
        self.input_specs = {port.get_any_name(): _spec(port) for port in self._compiled.inputs}
        self.output_specs = {_output_name(port): _spec(port) for port in self._compiled.outputs}
        self._check = InputCheck(self.input_specs)
        self._tensor: Any = sys.modules["openvino"].Tensor
        # A request holds the activations of one call: as many are made as threads call at the same time.
        self._idle: deque[Any] = deque()

    @property
    def num_integer_layers(self) -> int:
        """How many of the convolutions and fully connected layers compute in integers."""
        return len(integer_layers(self.node_precisions))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model once; see `Runtime.run`.

        Raises:
            ModelClosedError: After `close`.
            ForkedProcessError: In a forked child.
            RuntimeAdapterError: When OpenVINO fails.
            InputMismatchError: If an input has a wrong name, dtype or shape.
        """
        compiled = self._compiled
        if compiled is None:
            raise ModelClosedError("this runtime is closed; open the model again")
        refuse_in_a_child(self._process)
        inputs = self._check(inputs)
        # Shared with the request, which reads plain C memory only, and takes no memory that may not be written.
        given = {name: np.require(inputs[name], requirements=("C", "W")) for name in self.input_specs}
        try:
            request = self._idle.pop()
        except IndexError:
            request = compiled.create_infer_request()
        try:
            # Set here, and not given to `infer`, which looks up each input's port and type again.
            for place, array in enumerate(given.values()):
                request.set_input_tensor(place, self._tensor(array, shared_memory=True))
            results = request.infer()
        except Exception as err:  # OpenVINO raises RuntimeError and others
            raise RuntimeAdapterError(f"OpenVINO failed: {_sentence(err)}") from err
        outputs = with_nan_of(given, dict(zip(self.output_specs, results.values(), strict=True)))
        self._idle.append(request)
        if self._compiled is None:  # closed meanwhile: nothing may stay
            self._idle.clear()
        return outputs

    def close(self) -> None:
        """Release the model, as soon as no other thread computes in it; a second call does nothing."""
        self._compiled = None
        self._idle.clear()


def _source(model: str | Path | bytes | Any) -> Any:
    """Return what OpenVINO reads: a path, or a stream of the file's bytes."""
    found = _file_or_bytes(model)
    named = name_or_bytes(found) if isinstance(found, Path) else found
    return named if isinstance(named, str) else io.BytesIO(named)


def _file_or_bytes(model: str | Path | bytes | Any) -> Path | bytes:
    if isinstance(model, (str, Path)):
        return Path(model)
    return model if isinstance(model, bytes) else bytes(model.SerializeToString())


def _refuse_saturation(precisions: Mapping[str, str]) -> None:
    """Raise where INT8 kernels run on a CPU on which they may saturate, although they were switched off."""
    why, layers = why_int8_saturates(), integer_layers(precisions)
    if why and layers:
        raise ProviderUnavailableError(
            f"{len(layers)} layers, such as {layers[0]}, would run in OpenVINO's INT8 kernels, which may saturate here "
            f'({why}); nothing was run; use provider="cpu", or the FP32 file'
        )


def _metadata(network: Any) -> dict[str, str]:
    """Return what OpenVINO's ONNX reader keeps of the file's metadata."""
    if "framework" not in network.get_rt_info():
        return {}
    kept = network.get_rt_info("framework").value
    return {str(key): str(kept[key]) for key in kept}


def _spec(port: Any) -> TensorSpec:
    shape = tuple(None if size.is_dynamic else int(size.get_length()) for size in port.get_partial_shape())
    return TensorSpec(np.dtype(port.get_element_type().to_dtype()).name, shape)


def _output_name(port: Any) -> str:
    """Return the ONNX name of an output; a tensor that several names are known by has others too."""
    name = str(port.get_node().get_friendly_name()).removesuffix(_SINK)
    return name if name in port.get_names() else str(port.get_any_name())


def _sentence(err: Exception) -> str:
    """Return what an exception of OpenVINO says, without the places in its source."""
    lines = [line.strip() for line in str(err).splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith("Exception from src/")) or type(err).__name__
