"""The project's targets beside what a run measured: met, or missed and by how much.

The reference of each target is the best peer of the same run, so that other images or another network move it too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from benchmarks.quantizer_dialect import TENSORRT
from benchmarks.quantizer_result import RowResult, RunResult, median

OURS = "resnet-export"


@dataclass(frozen=True, slots=True)
class Target:
    """One line.

    Attributes:
        measure: What is measured, with its unit.
        ours: The measured value.
        bound: What it is held against.
        source: Where the bound comes from.
        at_least: Whether more is better.
    """

    measure: str
    ours: float
    bound: float
    source: str
    at_least: bool

    @property
    def missed_by(self) -> float:
        """How far the value is on the wrong side of the bound; 0 when it is met."""
        return max(0.0, self.bound - self.ours if self.at_least else self.ours - self.bound)


def targets(run: RunResult) -> list[Target]:
    """Return the targets of which both sides were measured."""
    default, fastest, integer, best_effort = (_row(run, role) for role in ("default", "max", "onnxruntime", "best"))
    activations = _row(run, "activations")
    peers = [row for row in run.rows if not row.name.startswith(OURS) and not row.error]
    found: list[Target | None] = []
    if default is not None:
        found += _accuracy_targets(default, peers)
        found += [
            _held(
                "SQNR, TensorRT dialect, dB",
                default.measured("sqnr_db"),
                None if activations is None or (alone := _sqnr(activations)) is None else (activations.name, alone),
                1.5,
                at_least=True,
            ),
            _fixed("x FP32 forward, default", median(default.times_forward), 2.0, at_least=False),
            _fixed("peak memory, GB", _scaled(median(default.peak_bytes), 1e-9), 0.8, at_least=False),
            _fixed("file, whole % of FP32", _whole_percent(default.file_share), 25.0, at_least=False),
        ]
    if best_effort is not None:
        found.append(
            _fixed("agreement at effort 2, %", _scaled(best_effort.measured("agreement"), 100.0), 99.4, at_least=True)
        )
    if fastest is not None:
        found.append(_fixed("x FP32 forward, max", median(fastest.times_forward), 1.3, at_least=False))
    if integer is not None:
        best = _best((row for row in peers if row.name.startswith("nncf")), lambda row: median(row.latency_ms), min)
        found.append(_held("latency, ms", median(integer.latency_ms), best, 0.0, at_least=False))
        found.append(_fixed("SQNR, ONNX Runtime dialect, dB", integer.measured("sqnr_db"), 36.0, at_least=True))
    return [target for target in found if target is not None]


def _accuracy_targets(default: RowResult, peers: list[RowResult]) -> list[Target | None]:
    sqnr = default.measured("sqnr_db")
    legal = _best((row for row in peers if row.dialect.get("name") == TENSORRT), _sqnr, max)
    simulated = _best((row for row in peers if row.name.startswith("aimet")), _sqnr, max)
    return [
        _held("SQNR, TensorRT dialect, dB", sqnr, legal, 8.0, at_least=True),
        _held("SQNR, dB", sqnr, simulated, 2.0, at_least=True),
        _fixed("agreement, %", _scaled(default.measured("agreement"), 100.0), 99.4, at_least=True),
        _fixed("KL(softmax)", default.measured("kl_softmax"), 0.0003, at_least=False),
        _fixed("McNemar p of the top-1 drop", default.measured("p_value"), 0.05, at_least=True),
    ]


def markdown(run: RunResult) -> str:
    """Return the table of targets, or a sentence that says why there is none."""
    lines = [
        f"| {target.measure} | {target.ours:.4g} | {'>=' if target.at_least else '<='} {target.bound:.4g} | "
        f"{target.source} | {'met' if not target.missed_by else f'missed by {target.missed_by:.2g}'} |"
        for target in targets(run)
    ]
    if not lines:
        return "No row of ours that targets are held against was in this run."
    return "\n".join(["| target | ours | bound | from | |", "|---|---|---|---|---|", *lines])


def _row(run: RunResult, role: str) -> RowResult | None:
    return next((row for row in run.rows if row.role == role and not row.error), None)


def _sqnr(row: RowResult) -> float | None:
    return row.measured("sqnr_db")


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _whole_percent(share: float | None) -> float | None:
    return None if share is None else float(round(100 * share))


def _best(
    rows: Iterable[RowResult], value: Callable[[RowResult], float | None], choose: Callable[[list[float]], float]
) -> tuple[str, float] | None:
    known = {row.name: found for row in rows if (found := value(row)) is not None}
    if not known:
        return None
    best = choose(list(known.values()))
    return next(name for name, found in known.items() if found == best), best


def _held(
    measure: str, ours: float | None, peer: tuple[str, float] | None, margin: float, *, at_least: bool
) -> Target | None:
    if ours is None or peer is None:
        return None
    bound = peer[1] + margin if at_least else peer[1] - margin
    source = peer[0] if not margin else f"{peer[0]} {'+' if at_least else '-'} {margin:g}"
    return Target(measure, ours, bound, source, at_least)


def _fixed(measure: str, ours: float | None, bound: float, *, at_least: bool) -> Target | None:
    return None if ours is None else Target(measure, ours, bound, "fixed", at_least)
