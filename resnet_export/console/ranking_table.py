"""What `resnet-export sensitivity` prints: blocks and layers, worst first, and what leaving them in float wins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from resnet_export.console.terminal import print_table
from runtimes.counted import counted

if TYPE_CHECKING:
    from calibration.mixed_precision.sensitivity import Cost, Sensitivity

COLUMNS = ("", "MACs", "alone", "without", "KL without", "share of noise")


def print_ranking(report: Mapping[str, Any], ranking: Sensitivity) -> None:
    """Print the ranking as a person reads it."""
    whole = ranking.whole
    print_table(
        f"{report['model']}: blocks, worst first", COLUMNS, (_row(cost, ranking) for cost in ranking.blocks), []
    )
    if ranking.layers:
        print_table("layers of the worst blocks", COLUMNS, (_row(cost, ranking) for cost in ranking.layers), [])
    footer = [
        f"everything in INT8: {_decibel(whole.sqnr_db)}, KL {whole.kl:.1e}, "
        f"on {counted(whole.num_images, 'calibration image')}",
        "alone: SQNR of the logits with only this in INT8; without: with everything but this",
        "share of noise: mean of what it adds as the first and as the last to be quantized;",
        "below 0 its errors cancel others, so that it had better stay in INT8",
    ]
    if report["keep_float"]:
        footer += ["", f"to leave the worst in float: resnet-export ... --keep-float {report['keep_float']}"]
    if report["validation"]:
        footer += ["", f"on {counted(report['validation'][0]['num_images'], 'validation image')}"]
        footer += [_validation_line(row) for row in report["validation"]]
    for line in footer:
        print(line)


def _row(cost: Cost, ranking: Sensitivity) -> tuple[str, ...]:
    from calibration.mixed_precision.sensitivity import noise_to_signal

    total = noise_to_signal(ranking.whole)
    return (
        cost.unit.name,
        f"{cost.share_of_macs:.1%}",
        _decibel(cost.alone.sqnr_db),
        _decibel(cost.without.sqnr_db),
        f"{cost.without.kl:.1e}",
        f"{cost.noise / total:.0%}" if total > 0 else "-",
    )


def _decibel(sqnr_db: float | None) -> str:
    return "exact" if sqnr_db is None else f"{sqnr_db:.1f} dB"


def _validation_line(row: Mapping[str, Any]) -> str:
    kept = ", ".join(row["kept_in_float"]) + " in float" if row["kept_in_float"] else "everything in INT8"
    top1 = "" if row["top1_candidate"] is None else f"top-1 {row['top1_candidate']:.2%}, "
    return f"  {top1}agreement {row['agreement']:.2%}, KL {row['kl']:.1e}: {kept}"
