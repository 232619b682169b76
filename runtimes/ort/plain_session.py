"""A file as a plain ONNX Runtime session runs it, beside the same file as it is written: do they answer the same?

A plain session is what Triton, most users and other languages open: `InferenceSession(file)`, nothing asked for. It
rewrites Q/DQ files before it runs them: layers become integer kernels, biases become INT32. What is measured as
written says nothing about that, so it is measured too, and where it is worse than the file's own error, the rewriting
that did it is found by leaving one out after the other.

Source: findings/onnxruntime_quantizes_float_weights.sh (layers left in float between others get INT8 weights),
findings/onnxruntime_weight_only_quantizes_inputs.sh (float inputs of layers with INT8 weights become INT8),
findings/onnxruntime_two_pairs_become_finer.sh (two pairs in a row become one with a scale of its own).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.errors import RuntimeAdapterError
from runtimes.io.file_name import name_or_bytes
from runtimes.ort.adapter import spec_of
from runtimes.ort.int8_kernels import PRECISE_OPTION, why_int8_saturates
from runtimes.ort.session import BOTH_PAIRS, CPU_PROVIDER, FLOAT_INPUTS, WEIGHT_QUANTIZATION, SerializableModel
from runtimes.protocol import Array, RuntimeAdapter

ALLOWED_DB = 3.0
"""How much lower a plain session's signal-to-noise ratio may be: two independent errors of one size add up to 3 dB."""

ENOUGH_DB = 60.0
"""From here on, noise of a thousandth of the signal, nothing is asked for."""

_AS_WRITTEN = (("session.disable_quant_qdq", "1"), BOTH_PAIRS)

Model = str | Path | bytes | SerializableModel
Entry = tuple[str, str]


class PlainRuntime(RuntimeAdapter):
    """A model in a session that nothing was asked of, on the CPU: `OrtRuntime` leaves out what computes wrongly.

    Args:
        model: Path, bytes or `ModelProto`.
        entries: Configuration entries, key and value, that are asked for nevertheless.
        disabled: Name of an optimizer that is left out nevertheless.

    Raises:
        RuntimeAdapterError: If the model does not load.
    """

    def __init__(self, model: Model, *, entries: Iterable[Entry] = (), disabled: str | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        for entry in entries:
            options.add_session_config_entry(*entry)
        source: Any = model
        if isinstance(model, (str, Path)):
            source = name_or_bytes(model)
        elif not isinstance(model, bytes):  # never str() of a model: that spells out every weight
            source = model.SerializeToString()
        try:
            self._session: Any = onnxruntime.InferenceSession(
                source, options, providers=[CPU_PROVIDER], disabled_optimizers=[disabled] if disabled else None
            )
        except Exception as err:  # ONNX Runtime raises a class per status code, without a common public base
            raise _not_run(err) from err
        self.input_specs = {info.name: spec_of(info) for info in self._session.get_inputs()}
        self.output_specs = {info.name: spec_of(info) for info in self._session.get_outputs()}

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model once; see `Runtime.run`."""
        try:
            outputs = self._session.run(None, dict(inputs))
        except Exception as err:  # likewise
            raise _not_run(err) from err
        return dict(zip(self.output_specs, outputs, strict=True))

    def close(self) -> None:
        """Release the session; a second call does nothing."""
        self._session = None


@dataclass(frozen=True, slots=True)
class PlainSession:
    """Behavior of a file in a plain session.

    Attributes:
        written_db: Signal to noise of the file as it is written, against the reference; inf where there is no noise,
            -inf where an answer is NaN or Inf.
        plain_db: The same of the plain session.
        cause: Where the plain session is worse, what made it so; else empty.
        saturates: Whether that is this CPU's doing, not the file's: integer kernels that saturate.
    """

    written_db: float
    plain_db: float
    cause: str = ""
    saturates: bool = False

    @property
    def agrees(self) -> bool:
        """Whether the plain session is as near to the reference as the file, up to `ALLOWED_DB`."""
        return self.plain_db >= self.least_db

    @property
    def least_db(self) -> float:
        """The signal-to-noise ratio that a plain session must reach."""
        return min(self.written_db - ALLOWED_DB, ENOUGH_DB)

    @property
    def sentence(self) -> str:
        """The comparison as a person reads it."""
        figures = f"{_decibel(self.plain_db)} in a plain ONNX Runtime session, {_decibel(self.written_db)} as written"
        return figures if self.agrees else f"{figures}: {self.cause}"


def compare_plain_session(
    model: Model, inputs: Array, expected: Array, written: Array | None = None, plain: Array | None = None
) -> PlainSession:
    """Run a file as it is written and in a plain session, both on the CPU, and compare each with the reference.

    Args:
        model: Path, bytes or `ModelProto` of a model with one input.
        inputs: What the model takes, [n, ...].
        expected: The reference's first output for them, [n, ...].
        written: The file's, computed as written; None computes them here.
        plain: What `PlainRuntime` gives; likewise.

    Raises:
        RuntimeAdapterError: If the model does not load or run.
    """

    def ratio(*entries: Entry, disabled: str | None = None) -> float:
        return _sqnr_db(expected, _first_output(model, inputs, entries, disabled))

    found = PlainSession(
        ratio(*_AS_WRITTEN) if written is None else _sqnr_db(expected, written),
        ratio() if plain is None else _sqnr_db(expected, plain),
    )
    if found.agrees:
        return found
    key, value = PRECISE_OPTION
    if (why := why_int8_saturates()) and ratio(PRECISE_OPTION) >= found.least_db:
        why = f"{why}; sessions with {key}={value} answer right, and so does OrtRuntime"
        return replace(found, cause=why, saturates=True)
    key, value = FLOAT_INPUTS
    if ratio(FLOAT_INPUTS) >= found.least_db:
        why = "ONNX Runtime rounds the float inputs of layers with INT8 weights to INT8 in blocks"
        return replace(found, cause=f"{why}; sessions with {key}={value} answer right, and so does OrtRuntime")
    key, value = BOTH_PAIRS
    if ratio(BOTH_PAIRS) >= found.least_db:
        why = "ONNX Runtime makes one pair of two Q/DQ pairs in a row, with a scale that is neither's"
        return replace(found, cause=f"{why}; sessions with {key}={value} answer right, and so does OrtRuntime")
    cause = "ONNX Runtime's integer kernels compute something else than the nodes that they replace"
    if ratio(disabled=WEIGHT_QUANTIZATION) >= found.least_db:
        cause = (
            f"ONNX Runtime's {WEIGHT_QUANTIZATION} turns biases into INT32 that do not fit, or float weights into INT8 "
            f"of one scale; sessions with the optimizer {WEIGHT_QUANTIZATION} disabled answer right"
        )
    return replace(found, cause=cause)


def _first_output(model: Model, inputs: Array, entries: Iterable[Entry], disabled: str | None) -> Array:
    """Return the first output, a file fixed to a batch size run in such pieces."""
    with PlainRuntime(model, entries=entries, disabled=disabled) as runtime:
        ((name, spec),) = runtime.input_specs.items()
        output = next(iter(runtime.output_specs))
        size = spec.shape[0] or len(inputs)
        parts = []
        for first in range(0, len(inputs), size):
            piece = inputs[first : first + size]
            filled = np.ascontiguousarray(np.resize(piece, (size, *piece.shape[1:])))
            parts.append(runtime.run({name: filled})[output][: len(piece)])
    answers: Array = np.concatenate(parts)
    return answers


def _not_run(err: Exception) -> RuntimeAdapterError:
    return RuntimeAdapterError(f"ONNX Runtime does not run the model: {err}")


def _sqnr_db(expected: Array, got: Array) -> float:
    if not np.isfinite(got).all():
        return -np.inf
    signal = np.square(expected.astype(np.float64))
    noise = np.square(expected.astype(np.float64) - got.astype(np.float64)).sum()
    if not noise:
        return np.inf
    return float(10 * np.log10(signal.sum() / noise)) if signal.any() else -np.inf


def _decibel(value: float) -> str:
    if np.isfinite(value):
        return f"{value:.1f} dB"
    return "exact" if value > 0 else "NaN or Inf"
