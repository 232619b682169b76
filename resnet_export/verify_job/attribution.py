"""Who lost what: the reference, the Q/DQ file on ONNX Runtime, and the engine built from it, on the same images.

    quantization   reference -> ONNX file: what writing it in INT8 (or FP16) cost
    engine         ONNX file -> engine: what TensorRT's kernels add
    total          reference -> engine

Noise powers add up where errors are independent, so total minus quantization, in top-1 and agreement, is the engine's
share as well; both figures are given, as they need not be the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from shlex import quote
from typing import Any

from resnet_export.verify_job.compare import Compared, Opened
from resnet_export.verify_job.subject import ENGINE_ENDINGS, Candidate, Subject
from runtimes.bundle.precision import option_words
from runtimes.metrics.logit_comparison import LogitComparison


def attribution(
    subject: Subject, opened: Opened, compared: Sequence[Compared], *, against: bool
) -> dict[str, Any] | None:
    """Return `attribution` of the report for the lowest precision that was judged; None where it lost nothing."""
    lossy = [one for one in opened.candidates if one.candidate.precision != "fp32"]
    if not lossy or not compared:
        return None
    candidate = lossy[-1].candidate
    part = compared[-1]
    if candidate.is_engine:
        origin, engine = part.origins.get(candidate.name), part.engine_losses.get(candidate.name)
        total = part.found[candidate.name]
        if origin is None or engine is None:
            why = "ONNX Runtime is not installed"
            if candidate.built_from is None:
                why = "the ONNX file that the engine was built from does not lie beside it, unchanged"
            return _entry(part, {"total": ("reference", candidate.name, total)}, {"onnx": why})
        source = candidate.built_from.name if candidate.built_from is not None else ""
        losses = {
            "quantization": ("reference", source, origin),
            "engine": (source, candidate.name, engine),
            "total": ("reference", candidate.name, total),
        }
        return _entry(part, losses, {})
    losses = {"quantization": ("reference", candidate.name, part.found[candidate.name])}
    missing = {"engine": _why_no_engine(subject, candidate)}
    if not against and part.images.on != "golden":
        missing["pytorch"] = "no --against was given: the bundle's FP32 file stands in for it on these images"
    return _entry(part, losses, missing)


def _entry(
    part: Compared, losses: Mapping[str, tuple[str, str, LogitComparison]], missing: Mapping[str, str]
) -> dict[str, Any]:
    return {
        "on": part.images.on,
        "sides": ["reference", *(side for side in ("onnx", "engine") if side not in missing)],
        "missing": dict(missing),
        "losses": {
            what: {
                "from": before,
                "to": after,
                "sqnr_db": found.sqnr_db,
                "kl": found.kl if found.has_classes else None,
                "agreement": found.agreement if found.has_classes else None,
                "top1_drop_pp": None if found.labelled is None else found.labelled.top1_drop_pp,
            }
            for what, (before, after, found) in losses.items()
        },
        "statement": " ".join(_sentences(part, losses, missing)),
    }


def _sentences(
    part: Compared, losses: Mapping[str, tuple[str, str, LogitComparison]], missing: Mapping[str, str]
) -> list[str]:
    words = [
        f"{what.capitalize()} ({before} to {after}): {_loss(found)}." for what, (before, after, found) in losses.items()
    ]
    if {"quantization", "total"} <= losses.keys():
        quantized, total = losses["quantization"][2], losses["total"][2]
        if quantized.labelled is not None and total.labelled is not None:
            difference = total.labelled.top1_drop_pp - quantized.labelled.top1_drop_pp
            words.append(f"Of the top-1 drop, {difference:+.2f} points come with the engine.")
        if total.has_classes:
            words.append(f"Agreement changes by {100 * (total.agreement - quantized.agreement):+.2f} points with it.")
    words += [f"Missing: {side}, because {why}." for side, why in missing.items()]
    return words


def _loss(found: LogitComparison) -> str:
    sqnr = (
        "every logit equal" if found.exact else "no SQNR" if found.sqnr_db is None else f"SQNR {found.sqnr_db:.1f} dB"
    )
    agreement = f", agreement {found.agreement:.2%}" if found.has_classes else ""
    drop = "" if found.labelled is None else f", top-1 drop {found.labelled.top1_drop_pp:+.2f} points"
    return f"{sqnr}{agreement}{drop}"


def _why_no_engine(subject: Subject, candidate: Candidate) -> str:
    stem = candidate.path.stem
    for ending in ENGINE_ENDINGS:
        if (path := candidate.path.with_name(f"{stem}{ending}")).is_file():
            return f"{path.name} was not asked for; --provider tensorrt runs it"
    command = f"resnet-export build {quote(str(subject.folder))} {option_words(candidate.precision)}"
    return f"no engine of {candidate.name} lies beside it" + (f"; {command} makes one" if subject.folder else "")
