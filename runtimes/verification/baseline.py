"""`--baseline`: what moved since a stored report, beyond noise. The same bundle after a library or driver upgrade.

    deterministic metrics   beyond a tolerance: SQNR by more than 1 dB, KL and the relative difference by more than a
                            factor of 2 (our choice): another version adds up in another order, and rounds a few values
                            to the next INT8 level.
                            Differences in what is rounding noise in both (SQNR above 100 dB, ...) do not count.
    agreement, top-1        where the two reports' 95 % Wilson intervals do not overlap

A file or a set of images that the baseline has and this report lacks is a failure: a check that was lost looks like one
that passed.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtimes.errors import RuntimeAdapterError
from runtimes.metrics.confidence_interval import wilson_interval
from runtimes.verification.report import SCHEMA_VERSION


class BaselineError(RuntimeAdapterError):
    """A stored report is missing, no report, or of another schema."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """When a deterministic metric has moved.

    Attributes:
        larger_is_worse: Which way is bad.
        step: Differences up to this do not count.
        factor: Nor do ratios up to this; 1 for metrics in dB.
        negligible: Nor does anything while both values are on the good side of this: rounding noise of float32.
    """

    larger_is_worse: bool
    step: float
    factor: float
    negligible: float


TOLERANCES: Mapping[str, Tolerance] = {
    "sqnr_db": Tolerance(False, 1.0, 1.0, 100.0),
    "relative_max_diff": Tolerance(True, 0.0, 2.0, 1e-5),
    "kl": Tolerance(True, 0.0, 2.0, 1e-7),
}
_EXPECTED = "expected what `verify BUNDLE --json FILE` wrote (a bundle's report.json is the export's)"
SHARES = ("agreement", "top1_candidate")


def load_baseline(path: Path) -> dict[str, Any]:
    """Read a stored report.

    Raises:
        BaselineError: If it is missing, not JSON, or no report that this version reads.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as err:
        raise BaselineError(f"--baseline {path}: cannot be read ({err.strerror}); {_EXPECTED}") from err
    except (ValueError, RecursionError) as err:
        raise BaselineError(f"--baseline {path}: not JSON ({err}); {_EXPECTED}") from err
    schema = content.get("schema_version") if isinstance(content, dict) else None
    if schema != SCHEMA_VERSION or not isinstance(content.get("files"), list):
        raise BaselineError(f"--baseline {path}: got schema {schema!r}, known is {SCHEMA_VERSION}; {_EXPECTED}")
    return dict(content)


def compare_baseline(report: Mapping[str, Any], baseline: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return `baseline` of the report.

    Raises:
        BaselineError: If it lacks what a report has.
    """
    try:
        changes = list(_changes(report, baseline))
        created = str(baseline["tool"]["created"])
        versions = _moved_versions(report, baseline)
    except (KeyError, TypeError) as err:
        raise BaselineError(f"--baseline {path}: a key of the report is missing or of a wrong type: {err!r}") from err
    bad = [change for change in changes if change["verdict"] in ("worse", "missing")]
    better = [change for change in changes if change["verdict"] == "better"]
    if bad:
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        statement = f"worse than the baseline of {created} beyond noise: {bad[0]['sentence']}{more}"
    elif better:
        statement = f"better than the baseline of {created}: {better[0]['sentence']}"
    else:
        statement = f"nothing moved beyond noise since the baseline of {created}"
    if versions:
        statement += f"; changed since: {', '.join(versions)}"
    return {
        "path": str(path),
        "created": created,
        "verdict": "fail" if bad else "pass",
        "statement": statement,
        "changes": changes,
    }


def _moved_versions(report: Mapping[str, Any], baseline: Mapping[str, Any]) -> list[str]:
    now, before = report["environment"], baseline["environment"]
    names = dict.fromkeys([*before, *now])
    return [
        f"{name} {before.get(name, 'none')} to {now.get(name, 'none')}"
        for name in names
        if before.get(name) != now.get(name)
    ]


def _changes(report: Mapping[str, Any], baseline: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    now = {(file["name"], part["on"]): part["metrics"] for file in report["files"] for part in file["comparisons"]}
    for file in baseline["files"]:
        for part in file["comparisons"]:
            key = (str(file["name"]), str(part["on"]))
            if key not in now:
                sentence = f"{key[0]} was compared on {part['images']} in the baseline, and not in this run"
                yield _change(key, "comparison", (None, None), "missing", sentence)
                continue
            yield from _moved(key, part["metrics"], now[key])


def _moved(key: tuple[str, str], before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if before["num_images"] != now["num_images"]:
        sentence = f"{key[0]}, {key[1]}: {now['num_images']} images, {before['num_images']} in the baseline"
        verdict = "missing" if now["num_images"] < before["num_images"] else "same"
        yield _change(key, "num_images", (before["num_images"], now["num_images"]), verdict, sentence)
    for metric, tolerance in TOLERANCES.items():
        values = (before[metric], now[metric])
        if values[0] is None and values[1] is None:
            continue
        verdict = _moved_beyond(values, tolerance, exact=(before["exact"], now["exact"]), metric=metric)
        yield _change(key, metric, values, verdict, _sentence(key, metric, values, verdict))
    for metric in SHARES:
        values = (before[metric], now[metric])
        if values[0] is None:
            continue
        if values[1] is None:
            sentence = f"{key[0]}, {key[1]}: {metric} was {values[0]:.4g} in the baseline and is not known now"
            yield _change(key, metric, values, "missing", sentence)
            continue
        verdict = _intervals_apart(values, (before["num_images"], now["num_images"]))
        yield _change(key, metric, values, verdict, _sentence(key, metric, values, verdict))


def _moved_beyond(
    values: tuple[float | None, float | None], tolerance: Tolerance, *, exact: tuple[bool, bool], metric: str
) -> str:
    # No SQNR means no noise where every logit is equal, else no signal at all or NaN.
    best = float("inf") if metric == "sqnr_db" else 0.0
    worst = -float("inf") if metric == "sqnr_db" else float("inf")
    before, now = (
        (best if equal else worst) if value is None else value for value, equal in zip(values, exact, strict=True)
    )
    if not tolerance.larger_is_worse:
        before, now = -before, -now
    if max(before, now) <= (tolerance.negligible if tolerance.larger_is_worse else -tolerance.negligible):
        return "same"
    for verdict, low, high in (("worse", before, now), ("better", now, before)):
        if high > low + tolerance.step and (tolerance.factor == 1.0 or high > low * tolerance.factor):
            return verdict
    return "same"


def _intervals_apart(values: tuple[float, float], counts: tuple[int, int]) -> str:
    before, now = (wilson_interval(round(value * n), n) for value, n in zip(values, counts, strict=True))
    if now[1] < before[0]:
        return "worse"
    return "better" if now[0] > before[1] else "same"


def _sentence(key: tuple[str, str], metric: str, values: tuple[Any, Any], verdict: str) -> str:
    shown = ["none" if value is None else f"{value:.4g}" for value in values]
    how = "the same within noise" if verdict == "same" else verdict
    return f"{key[0]}, {key[1]}: {metric} was {shown[0]}, is {shown[1]}: {how}"


def _change(key: tuple[str, str], metric: str, values: tuple[Any, Any], verdict: str, sentence: str) -> dict[str, Any]:
    before, now = values
    return {
        "file": key[0],
        "on": key[1],
        "metric": metric,
        "before": before,
        "now": now,
        "verdict": verdict,
        "sentence": sentence,
    }
