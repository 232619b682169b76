"""How long each layer of an engine takes, as TensorRT's profiler reports it, and what that means by precision.

TensorRT waits after every layer while it is profiled, so the sum is more than the engine needs; read the shares.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from runtimes.errors import RuntimeAdapterError
from runtimes.io.json_fields import JsonFields
from runtimes.io.json_types import check_kinds, finite
from runtimes.trt.engine_layers import REFORMAT, EngineLayer, EngineLayers

UNKNOWN = "?"
"""Precision of a layer that the inspector did not name."""


@dataclass(frozen=True, slots=True)
class EngineTimes(JsonFields):
    """Median milliseconds of each layer, in the order they run, over `num_runs` runs of `batch` images."""

    batch: int
    num_runs: int
    layer_ms: Mapping[str, float]

    @property
    def total_ms(self) -> float:
        """The sum over all layers."""
        return sum(self.layer_ms.values())

    def by_precision(self, layers: EngineLayers) -> dict[str, float]:
        """Return milliseconds per precision, most first; reformats under their own name, `REFORMAT`."""
        sums: dict[str, float] = {}
        for layer, spent in self._timed(layers):
            word = REFORMAT if layer.kind == REFORMAT else layer.precision
            sums[word] = sums.get(word, 0.0) + spent
        return dict(sorted(sums.items(), key=lambda item: -item[1]))

    def slowest(self, layers: EngineLayers, count: int) -> list[tuple[EngineLayer, float]]:
        """Return the layers that take longest, with their milliseconds."""
        return sorted(self._timed(layers), key=lambda item: -item[1])[:count]

    def _timed(self, layers: EngineLayers) -> Iterator[tuple[EngineLayer, float]]:
        known = {layer.name: layer for layer in layers.layers}
        for name, spent in self.layer_ms.items():
            yield known.get(name, EngineLayer(name, UNKNOWN, UNKNOWN, (name,))), spent


def times_from_runs(batch: int, runs: Sequence[Sequence[tuple[str, float]]]) -> EngineTimes:
    """Return the medians of runs of `batch` images, each (layer, milliseconds) as profiled; equal names are summed.

    Raises:
        RuntimeAdapterError: If a run reported nothing, or another run other layers.
    """
    sums: list[dict[str, float]] = []
    for run in runs:
        of_run: dict[str, float] = {}
        for name, spent in run:
            of_run[name] = of_run.get(name, 0.0) + spent
        sums.append(of_run)
    if not sums or not sums[0] or any(of_run.keys() != sums[0].keys() for of_run in sums):
        counts = sorted({len(of_run) for of_run in sums})
        raise RuntimeAdapterError(
            f"TensorRT's profiler reported {counts} layers in {len(sums)} runs; expected the same"
        )
    return EngineTimes(batch, len(sums), {name: median(of_run[name] for of_run in sums) for name in sums[0]})


def times_from_json(text: str) -> EngineTimes:
    """Return what `to_json` gave.

    Raises:
        RuntimeAdapterError: If it is something else.
    """
    try:
        content = json.loads(text)
        check_kinds(content, {"batch": int, "num_runs": int, "layer_ms": dict})
        layer_ms = {str(name): finite(name, spent) for name, spent in content["layer_ms"].items()}
        return EngineTimes(content["batch"], content["num_runs"], layer_ms)
    except (ValueError, TypeError, KeyError, AttributeError) as err:
        raise RuntimeAdapterError(f"the times of the engine's layers cannot be read: {err!r}") from err
