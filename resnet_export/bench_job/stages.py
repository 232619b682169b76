"""Time what an app does with a picture, stage by stage: prepare, run, read the answer. Candidates take turns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.inference.model import Model
from runtimes.metrics.interleaved_timing import Comparison, Timing, compare_timings, time_in_turns
from runtimes.protocol import Array

STAGES = ("prepare", "run", "answer")


@dataclass(frozen=True, slots=True)
class BenchedModel:
    """A model under test and the name it has in the table."""

    name: str
    model: Model


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One candidate at one batch size.

    Attributes:
        batch: Pictures in one call.
        stages: Stage to timing of one call; a stage that the model does not have is left out.
        against_first: The time of `run` beside the first candidate's at this batch, or None for the first.
    """

    name: str
    batch: int
    stages: dict[str, Timing]
    against_first: Comparison | None

    @property
    def images_per_second(self) -> float:
        """Pictures that `run` alone takes in a second, by its median."""
        return self.batch / self.stages["run"].p50_ms * 1000

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON holds it."""
        stages = {name: {**asdict(timing), "spread": timing.spread} for name, timing in self.stages.items()}
        other = self.against_first
        told = None if other is None else {**asdict(other), "differs": other.differs, "statement": str(other)}
        return {
            "name": self.name,
            "batch": self.batch,
            "stages": stages,
            "images_per_second": self.images_per_second,
            "against_first": told,
        }


def bench(
    candidates: Sequence[BenchedModel], pictures: Sequence[Path], *, batches: Sequence[int], rounds: int, seconds: float
) -> list[BenchRow]:
    """Time every candidate at every batch size; all others are compared with the first."""
    rows = []
    for batch in batches:
        calls = {
            f"{candidate.name}\n{stage}": call
            for candidate in candidates
            for stage, call in _stages(candidate.model, pictures, batch).items()
        }
        timings = time_in_turns(calls, rounds=rounds, seconds=seconds)
        first = timings[f"{candidates[0].name}\nrun"]
        for place, candidate in enumerate(candidates):
            stages = {stage: timings[key] for stage in STAGES if (key := f"{candidate.name}\n{stage}") in timings}
            against = None if place == 0 else compare_timings(stages["run"], first)
            rows.append(BenchRow(candidate.name, batch, stages, against))
    return rows


def _stages(model: Model, pictures: Sequence[Path], batch: int) -> dict[str, Callable[[], object]]:
    chosen = [pictures[place % len(pictures)] for place in range(batch)]
    calls: dict[str, Callable[[], object]] = {}
    inputs = _inputs(model, batch)
    if model.preparation is not None:
        inputs = model.prepare(chosen)
        calls["prepare"] = lambda: model.prepare(chosen)
    calls["run"] = lambda: model.run(inputs)
    if model.is_classifier:
        outputs = model.run(inputs)
        calls["answer"] = lambda: model.classes(outputs)
    return calls


def _inputs(model: Model, batch: int) -> dict[str, Array]:
    """Return random inputs of a model whose preparation is not known. Seed 0."""
    random = np.random.default_rng(0)
    inputs: dict[str, Array] = {}
    for name, spec in model.input_specs.items():
        shape = tuple(batch if axis == 0 else size or 1 for axis, size in enumerate(spec.shape))
        dtype = np.dtype(spec.dtype)
        values = random.normal(size=shape) if dtype.kind == "f" else random.integers(0, 100, shape)
        inputs[name] = values.astype(dtype)
    return inputs
