"""Find what has to stay in float for a budget to hold: worst blocks first, measured again after every step.

    1. The worst block that is left stays in float. The model is quantized again and measured on the selection images.
       Where the divergence from FP32 grew (errors had cancelled), the block goes back to INT8 till others are tried.
    2. When the budget holds there, layers of the blocks left in float go back to INT8 one by one, least noisy first:
       those without which it still holds and nine tenths of what was won stay won.
    3. The verdict is measured on images that chose nothing. If it does not hold there, the search goes on with step 1.

The search ends without result when less than a tenth of the multiply-adds would be left in INT8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from calibration.mixed_precision.accuracy_budget import AccuracyBudget, budget_figures
from calibration.mixed_precision.sensitivity import Sensitivity, Unit, layers_of
from runtimes.metrics.logit_comparison import LogitComparison

MIN_INT8_SHARE = 0.1
"""Share of the multiply-adds below which a file is INT8 in name only."""

MAX_LOSS = 0.1
"""Share of the divergence won that layers may cost again by going back to INT8."""

Measure = Callable[[frozenset[str]], LogitComparison]


@dataclass(frozen=True, slots=True)
class Step:
    """One quantized model that was tried: what was in float, and the figures on selection and, late, verdict images."""

    kept: tuple[str, ...]
    selection: LogitComparison
    holds: bool
    verdict: LogitComparison | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the step as `report.json` holds it."""
        return {
            "kept_in_float": list(self.kept),
            "selection": budget_figures(self.selection),
            "holds": self.holds,
            "verdict": None if self.verdict is None else budget_figures(self.verdict),
        }


@dataclass(frozen=True, slots=True)
class Search:
    """How it went.

    Attributes:
        nodes: Names of the nodes to keep in float; None when the budget cannot hold.
        units: Blocks, or layers of blocks of which the rest is INT8 again.
        verdict: The last verdict, or None if there was none.
    """

    nodes: frozenset[str] | None
    units: tuple[Unit, ...]
    steps: tuple[Step, ...]
    verdict: LogitComparison | None
    num_verdicts: int


@dataclass(slots=True)
class _Search:
    budget: AccuracyBudget
    ranking: Sensitivity
    select: Measure
    judge: Measure
    int8_share: Callable[[frozenset[str]], float]
    now: LogitComparison
    steps: list[Step] = field(default_factory=list)
    num_verdicts: int = 0
    last_verdict: LogitComparison | None = None

    def run(self) -> Search:
        """Search; see the module's first lines."""
        before = self.now
        kept: list[Unit] = []
        put_back: list[Unit] = []
        for cost in self.ranking.blocks:
            if self._try(kept, cost.unit, put_back) and (found := self._narrowed(kept, before)):
                return found
        for unit in put_back:
            if self._try(kept, unit, None) and (found := self._narrowed(kept, before)):
                return found
        return Search(None, tuple(kept), tuple(self.steps), self.last_verdict, self.num_verdicts)

    def _try(self, kept: list[Unit], unit: Unit, put_back: list[Unit] | None) -> bool:
        """Leave one more block in float, if that is allowed and helps; tell whether the budget then holds."""
        units = (*kept, unit)
        if self.int8_share(_nodes(units)) < MIN_INT8_SHARE:
            return False
        measured = self._measure(units)
        holds = self.budget.holds(measured)
        helps = measured.kl < self.now.kl or (holds and not self.budget.holds(self.now))
        if put_back is not None and not helps:
            put_back.append(unit)
            return False
        kept.append(unit)
        self.now = measured
        return holds

    def _narrowed(self, kept: Sequence[Unit], before: LogitComparison) -> Search | None:
        """Give layers back to INT8 and ask for the verdict; if that fails, for that on the whole blocks."""
        narrow = self._give_back(kept, before)
        if self._verdict(narrow):
            return self._found(narrow)
        return self._found(kept) if narrow != tuple(kept) and self._verdict(kept) else None

    def _give_back(self, kept: Sequence[Unit], before: LogitComparison) -> tuple[Unit, ...]:
        limit = self.now.kl + MAX_LOSS * max(0.0, before.kl - self.now.kl)
        order = {cost.unit.name: place for place, cost in enumerate(self.ranking.layers)}
        units = list(kept)
        for block in reversed(kept):
            layers = sorted(layers_of(block), key=lambda layer: -order.get(layer.name, -1))
            left = list(layers)
            for layer in layers[: len(layers) - 1]:
                others = [unit for unit in left if unit is not layer]
                measured = self._measure(_replaced(units, block, others))
                if self.steps[-1].holds and measured.kl <= limit:
                    left = others
            if len(left) < len(layers):
                units = list(_replaced(units, block, left))
        return tuple(units)

    def _measure(self, units: Sequence[Unit]) -> LogitComparison:
        measured = self.select(_nodes(units))
        self.steps.append(Step(_names(units), measured, self.budget.holds(measured)))
        return measured

    def _verdict(self, units: Sequence[Unit]) -> bool:
        self.num_verdicts += 1
        self.last_verdict = self.judge(_nodes(units))
        place = max(place for place, step in enumerate(self.steps) if step.kept == _names(units))
        self.steps[place] = replace(self.steps[place], verdict=self.last_verdict)
        return self.budget.holds(self.last_verdict)

    def _found(self, units: Sequence[Unit]) -> Search:
        return Search(_nodes(units), tuple(units), tuple(self.steps), self.last_verdict, self.num_verdicts)


def leave_in_float(
    budget: AccuracyBudget,
    ranking: Sensitivity,
    *,
    whole: LogitComparison,
    select: Measure,
    judge: Measure,
    int8_share: Callable[[frozenset[str]], float],
) -> Search:
    """Return what has to stay in float.

    Args:
        budget: What must hold.
        ranking: Blocks, worst first.
        whole: The fully quantized model on the selection images.
        select: Nodes in float to the figures on the selection images.
        judge: Nodes in float to the figures on the verdict images.
        int8_share: Nodes in float to the share of multiply-adds that is left in INT8.
    """
    return _Search(budget, ranking, select, judge, int8_share, whole).run()


def kept_layers(units: Sequence[Unit]) -> Mapping[str, tuple[str, ...]]:
    """Return block to its layers in float."""
    layers: dict[str, tuple[str, ...]] = {}
    for unit in units:
        layers[unit.block] = (*layers.get(unit.block, ()), *unit.layers)
    return layers


def _replaced(units: Sequence[Unit], block: Unit, by: Sequence[Unit]) -> tuple[Unit, ...]:
    place = units.index(block)
    return (*units[:place], *by, *units[place + 1 :])


def _nodes(units: Sequence[Unit]) -> frozenset[str]:
    return frozenset(node for unit in units for node in unit.nodes)


def _names(units: Sequence[Unit]) -> tuple[str, ...]:
    return tuple(unit.name for unit in units)
