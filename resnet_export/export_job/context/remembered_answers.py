"""A runtime that answers a picture once: check after check asks for the same sixteen and the same frames."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import blake2b

import numpy as np

from runtimes.protocol import Array, Runtime, RuntimeAdapter

MAX_PICTURES = 64
"""Pictures whose answers are kept: those that are asked for first, the golden inputs and the hard frames."""

MAX_BYTES = 2**20
"""Answers of one picture that are kept at most; feature maps may be larger."""

Row = dict[str, Array]


class RememberedAnswers(RuntimeAdapter):
    """A runtime of one input whose rows are independent (`exporter.tracing.check_rows`), asked once for a picture.

    What is remembered for a picture is what it was answered when it was asked for first, alone or beside others.

    Args:
        runtime: What answers; closed with this one.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._known: dict[bytes, Row] = {}
        self.input_specs, self.output_specs = runtime.input_specs, runtime.output_specs

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the model on the pictures that are new to it; see `Runtime.run`."""
        ((name, images),) = inputs.items()
        keys = [_key(image) for image in images]
        new = [place for place, key in enumerate(keys) if key not in self._known]
        if not new:
            return self._joined([self._known[key] for key in keys])
        got = self._runtime.run(inputs if len(new) == len(keys) else {name: images[new]})
        if any(len(values) != len(new) for values in got.values()):  # no row for each picture
            return got if len(new) == len(keys) else self._runtime.run(inputs)
        rows = {place: {name: values[row] for name, values in got.items()} for row, place in enumerate(new)}
        answers = [rows[place] if place in rows else self._known[key] for place, key in enumerate(keys)]
        for place, row in rows.items():
            if len(self._known) < MAX_PICTURES and sum(values.nbytes for values in row.values()) <= MAX_BYTES:
                self._known[keys[place]] = {name: values.copy() for name, values in row.items()}
        return got if len(new) == len(keys) else self._joined(answers)

    def _joined(self, rows: list[Row]) -> dict[str, Array]:
        return {name: np.stack([row[name] for row in rows]) for name in self.output_specs}

    def close(self) -> None:
        """Close the runtime; a second call does nothing."""
        self._runtime.close()
        self._known.clear()


def _key(image: Array) -> bytes:
    return blake2b(np.ascontiguousarray(image).data, digest_size=16).digest() + f"{image.dtype}{image.shape}".encode()
