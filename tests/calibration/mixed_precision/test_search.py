"""leave_in_float on made-up networks: each layer adds its divergence, some cancel others."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from counted_logits import counted

from calibration.mixed_precision.accuracy_budget import AccuracyBudget
from calibration.mixed_precision.search import Search, kept_layers, leave_in_float
from calibration.mixed_precision.sensitivity import Cost, Sensitivity, Unit
from runtimes.metrics.logit_comparison import LogitComparison

BUDGET = AccuracyBudget(min_agreement=0.99)
NONE = LogitComparison(num_images=64, num_equal=64)


class Network:
    """Blocks `b0`, `b1`, ... of two layers each, `b0.0` and `b0.1`; agreement falls with the sum of divergences.

    Args:
        divergences: Layer to what it adds in INT8; negative where it cancels others.
        harder: What the verdict images add to it.
    """

    def __init__(self, divergences: Mapping[str, float], harder: float = 0.0) -> None:
        self.divergences = divergences
        self.harder = harder
        self.measured: list[frozenset[str]] = []
        self.judged: list[frozenset[str]] = []
        names = sorted({layer.split(".")[0] for layer in divergences})
        self.blocks = [
            Unit(name, name, tuple(layer for layer in divergences if layer.startswith(f"{name}.")), self._layers(name))
            for name in names
        ]

    def _layers(self, block: str) -> tuple[str, ...]:
        return tuple(layer for layer in self.divergences if layer.startswith(f"{block}."))

    def tally(self, nodes: frozenset[str], more: float = 0.0) -> LogitComparison:
        divergence = sum(amount for layer, amount in self.divergences.items() if layer not in nodes)
        divergence += more * bool(set(self.divergences) - nodes)
        return counted(1000, 1000 - round(100 * max(divergence, 0.0)), divergence=1000 * abs(divergence))

    def select(self, nodes: frozenset[str]) -> LogitComparison:
        self.measured.append(nodes)
        return self.tally(nodes)

    def judge(self, nodes: frozenset[str]) -> LogitComparison:
        self.judged.append(nodes)
        return self.tally(nodes, self.harder)

    def int8_share(self, nodes: frozenset[str]) -> float:
        return 1 - len(nodes) / len(self.divergences)

    def ranking(self, order: str) -> Sensitivity:
        by_name = {unit.name: unit for unit in self.blocks}
        costs = [Cost(by_name[name], 0.1, NONE, NONE, -place) for place, name in enumerate(order.split())]
        layers = sorted(self.divergences, key=self.divergences.__getitem__, reverse=True)
        parts = [Cost(Unit(layer, layer.split(".")[0], (layer,), (layer,)), 0.1, NONE, NONE, 0.0) for layer in layers]
        return Sensitivity(NONE, tuple(costs), tuple(parts))

    def search(self, order: str, budget: AccuracyBudget = BUDGET) -> Search:
        return leave_in_float(
            budget,
            self.ranking(order),
            whole=self.tally(frozenset()),
            select=self.select,
            judge=self.judge,
            int8_share=self.int8_share,
        )


def names(search: Search) -> list[str]:
    return [unit.name for unit in search.units]


def layers(**blocks: tuple[float, float]) -> dict[str, float]:
    return {f"{block}.{place}": amount for block, pair in blocks.items() for place, amount in enumerate(pair)}


QUIET = (0.005, 0.005)


def test_the_worst_block_is_enough_and_its_quiet_layer_goes_back():
    network = Network(layers(b0=QUIET, b1=(0.0, 1.0), b2=QUIET, b3=QUIET))
    found = network.search("b1 b0 b2 b3")
    assert names(found) == ["b1.1"]
    assert found.nodes == {"b1.1"}
    assert kept_layers(found.units) == {"b1": ("b1.1",)}
    assert network.judged == [frozenset({"b1.1"})]
    assert found.num_verdicts == 1


def test_a_block_whose_layers_are_both_bad_stays_whole():
    found = Network(layers(b0=QUIET, b1=(0.5, 0.5), b2=QUIET, b3=QUIET)).search("b1 b0 b2 b3")
    assert names(found) == ["b1"]


def test_as_many_blocks_as_it_takes():
    network = Network(layers(b0=(0.05, 0.3), b1=(0.05, 0.5), b2=QUIET, b3=QUIET, b4=QUIET))
    found = network.search("b1 b0 b2 b3 b4", AccuracyBudget(min_agreement=0.997))
    assert {unit.block for unit in found.units} == {"b0", "b1"}
    assert all(network.tally(step).kl > 0 for step in network.measured)


def test_a_block_that_makes_it_worse_goes_back_to_int8():
    """b0 is ranked worst but cancels b1: without it the error is larger."""
    network = Network(layers(b0=(-0.4, -0.4), b1=(2.0, 2.0), b2=QUIET, b3=QUIET))
    found = network.search("b0 b1 b2 b3", AccuracyBudget(min_agreement=0.9))
    assert {unit.block for unit in found.units} == {"b1"}


def test_a_block_put_back_is_tried_again_when_all_others_are_not_enough():
    network = Network(layers(b0=(-0.5, 0.0), b1=(0.6, 0.0), b2=(0.4, 0.1), **{f"c{n}": (0.0, 0.0) for n in range(4)}))
    found = network.search("b0 b1 b2 c0 c1 c2 c3", AccuracyBudget(min_agreement=1.0))
    assert found.nodes is not None
    assert network.tally(found.nodes).agreement == 1.0


def test_the_search_goes_on_when_the_verdict_does_not_hold():
    network = Network(layers(b0=(0.0, 1.0), b1=(0.0, 0.05), b2=QUIET, b3=QUIET, b4=QUIET, b5=QUIET), harder=0.02)
    found = network.search("b0 b1 b2 b3 b4 b5")
    assert {unit.block for unit in found.units} >= {"b0", "b1"}
    assert found.verdict is not None
    assert BUDGET.holds(found.verdict)
    assert found.num_verdicts == len(network.judged) > 1


def test_the_whole_blocks_are_judged_when_the_narrowed_ones_fail():
    network = Network(layers(b0=(0.06, 1.0), b1=(0.02, 0.0), b2=(0.0, 0.0), b3=(0.0, 0.0)), harder=0.05)
    found = network.search("b0 b1 b2 b3")
    assert network.judged[:2] == [frozenset({"b0.1"}), frozenset({"b0.0", "b0.1"})]
    assert names(found) == ["b0"]


def test_it_gives_up_when_hardly_anything_would_be_left_in_int8():
    network = Network({f"b{block}.{layer}": 0.5 for block in range(10) for layer in range(2)})
    found = network.search(" ".join(f"b{block}" for block in range(10)))
    assert found.nodes is None
    assert found.verdict is None
    assert max(len(nodes) for nodes in network.measured) <= 18
    assert not any(step.holds for step in found.steps)


def test_steps_tell_everything_that_was_tried():
    network = Network(layers(b0=QUIET, b1=(0.0, 1.0), b2=QUIET, b3=QUIET))
    found = network.search("b1 b0 b2 b3")
    assert [step.kept for step in found.steps] == [("b1",), ("b1.1",)]
    assert [step.verdict is not None for step in found.steps] == [False, True]
    content = found.steps[-1].to_json()
    assert content["kept_in_float"] == ["b1.1"]
    assert content["selection"]["agreement"] == pytest.approx(content["verdict"]["agreement"])
