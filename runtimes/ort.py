"""ONNX Runtime behind the `Runtime` contract. What runs is what was asked for: no silent fall-back to the CPU."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import onnxruntime

from runtimes.errors import ProviderUnavailableError, RuntimeAdapterError
from runtimes.int8_kernels import PRECISE_OPTION, why_int8_saturates
from runtimes.protocol import Array, TensorSpec, check_inputs

if TYPE_CHECKING:
    from typing_extensions import Self

CPU_PROVIDER = "CPUExecutionProvider"
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}


class SerializableModel(Protocol):
    """An `onnx.ModelProto`, named by the one method used, so that this module does not import onnx."""

    def SerializeToString(self) -> bytes:  # noqa: N802 - protobuf's name
        """Return the file's bytes."""
        ...


class OrtRuntime:
    """An ONNX model opened in ONNX Runtime.

    Args:
        model: Path, bytes or `ModelProto`.
        providers: Execution providers in order of preference; the first must load.
        exact_qdq: Compute Q/DQ models as they are written (quantize, dequantize, float arithmetic between), which
            is what TensorRT's INT8 kernels compute up to rounding of the sum.
        allow_saturation: Run ONNX Runtime's integer kernels as any session without options runs them. By default they
            are exact on every CPU: where the default ones may saturate (`runtimes.int8_kernels`) the slower ones are
            asked for. ONNX Runtime cannot do that for files whose weights share a zero point, as those for TensorRT
            do; these open with the default kernels, and `may_saturate` says so.
        num_threads: Threads of one operator; 0 lets ONNX Runtime choose.

    Raises:
        ProviderUnavailableError: If the first provider did not load.
        RuntimeAdapterError: If the model does not load.
        ValueError: If `providers` is empty.
    """

    def __init__(
        self,
        model: str | Path | bytes | SerializableModel,
        *,
        providers: Sequence[str] = (CPU_PROVIDER,),
        exact_qdq: bool = False,
        allow_saturation: bool = False,
        num_threads: int = 0,
    ) -> None:
        saturates = not exact_qdq and bool(why_int8_saturates())
        self._may_saturate = saturates and allow_saturation
        options = _session_options(exact_qdq=exact_qdq, num_threads=num_threads)
        if saturates and not allow_saturation:
            options.add_session_config_entry(*PRECISE_OPTION)
            # Fatal errors only: what is logged on the first attempt is either no error or raised by the second one.
            options.log_severity_level = 4
        try:
            self._session: Any = _open_session(model, options, providers)
        except RuntimeAdapterError:
            if not saturates or allow_saturation:
                raise
            self._session = _open_session(
                model, _session_options(exact_qdq=exact_qdq, num_threads=num_threads), providers
            )
            self._may_saturate = True
        self._input_specs = {info.name: _spec(info) for info in self._session.get_inputs()}
        self._output_specs = {info.name: _spec(info) for info in self._session.get_outputs()}

    @property
    def input_specs(self) -> Mapping[str, TensorSpec]:
        """Name to specification of every input."""
        return self._input_specs

    @property
    def output_specs(self) -> Mapping[str, TensorSpec]:
        """Name to specification of every output, in the model's order."""
        return self._output_specs

    @property
    def may_saturate(self) -> bool:
        """Whether integer kernels, if the file has any for ONNX Runtime, add products in 16 bits."""
        return self._may_saturate

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model once; see `Runtime.run`.

        Raises:
            RuntimeAdapterError: After `close`, or when ONNX Runtime fails.
            InputMismatchError: If an input has a wrong name, dtype or shape.
        """
        if self._session is None:
            raise RuntimeAdapterError("this runtime is closed; open the model again")
        check_inputs(self._input_specs, inputs)
        try:
            outputs = self._session.run(None, dict(inputs))
        except Exception as err:  # ONNX Runtime raises a class per status code, without a common public base
            raise RuntimeAdapterError(f"ONNX Runtime failed: {err}") from err
        return dict(zip(self._output_specs, outputs, strict=True))

    def close(self) -> None:
        """Release the session; a second call does nothing."""
        self._session = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _session_options(*, exact_qdq: bool, num_threads: int) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = num_threads
    # From the second run of a shape on, a memory pattern holds one more block for all intermediate tensors: 40 MB
    # for 64 images of a ResNet-20 with its activations as outputs, and no faster (measured on x86-64).
    options.enable_mem_pattern = False
    if exact_qdq:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    return options


def _open_session(
    model: str | Path | bytes | SerializableModel, options: Any, providers: Sequence[str]
) -> onnxruntime.InferenceSession:
    source = os.fspath(model) if isinstance(model, (str, Path)) else model
    if not isinstance(source, (str, bytes)):
        source = source.SerializeToString()
    if not providers:
        raise ValueError(f"providers: got none, expected at least one such as {CPU_PROVIDER}")
    unknown = [name for name in providers if name not in onnxruntime.get_available_providers()]
    if unknown:
        raise ProviderUnavailableError(
            f"ONNX Runtime has no {unknown[0]}; it has {', '.join(onnxruntime.get_available_providers())}"
        )
    try:
        session = onnxruntime.InferenceSession(source, options, providers=list(providers))
    except Exception as err:  # ONNX Runtime raises a class per status code, without a common public base
        named = source if isinstance(source, str) else "the model"
        raise RuntimeAdapterError(f"ONNX Runtime does not load {named}: {err}") from err
    if providers[0] not in session.get_providers():
        raise ProviderUnavailableError(
            f"asked for {providers[0]}, ONNX Runtime loaded {session.get_providers()}; nothing was run"
        )
    return session


def _spec(info: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else None for size in info.shape)
    return TensorSpec(_DTYPES.get(info.type, info.type), shape)
