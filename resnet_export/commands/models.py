"""`resnet-export models`: every model with its size, work and published accuracy; read from a table, so instant."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence

from exporter.models.model_names import FAMILIES, MODEL_NAMES, Family, check_family
from exporter.models.model_table import ModelFacts, load_model_table
from resnet_export.console.put_json import put_json
from runtimes.argument_kinds import checked_kinds

_ALSO = (
    "also: torchvision:NAME, timm:NAME, timm:hf-hub:ORG/NAME, package.module:callable,",
    "      auto (the architecture read off --weights FILE)",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes to its parser."""
    parser.description = (
        "List the models with parameters, multiply-accumulates of one image, input size in pixels and the "
        "published ImageNet-1k top-1 of torchvision's weights (other sources publish none that can be read "
        "offline)."
    )
    parser.add_argument("--family", metavar="F", help=f"only one of: {', '.join(FAMILIES)}")
    parser.add_argument("--json", action="store_true", help="print one JSON list instead of text")


def run(arguments: argparse.Namespace) -> int:
    """Print the models; return 0, or raise what `models` raises."""
    table = models(arguments.family)
    if arguments.json:
        families = [family for family in FAMILIES.values() if arguments.family in (None, family.name)]
        others = [_bare_row(name, family) for family in families for name in _without_facts(family)]
        put_json([*map(_row, table), *others])
    else:
        print("\n".join(_lines(table, arguments.family)))
    return 0


@checked_kinds
def models(family: str | None = None) -> tuple[ModelFacts, ...]:
    """Return the models that have names: parameters, multiply-accumulates, input size, published top-1.

    Raises:
        UnknownModelError: If there is no such family.
    """
    if family is not None:
        check_family(family)
    return tuple(facts for facts in load_model_table() if family in (None, facts.family))


def _row(facts: ModelFacts) -> dict[str, object]:
    """Return what a reader of the JSON may rely on; how files are told apart is not part of it."""
    return {key: value for key, value in facts.to_json().items() if key not in ("fingerprint", "classifier", "body")}


def _bare_row(name: str, family: Family) -> dict[str, object]:
    unknown = dict.fromkeys(("parameters", "macs", "input_size"))
    return {"name": name, "family": family.name, "source": family.source, **unknown, "top1": {}}


def _without_facts(family: Family) -> tuple[str, ...]:
    """Return the models of another package's family, of which the table knows nothing."""
    return tuple(name for name in family.models if name not in MODEL_NAMES)


def _lines(table: Sequence[ModelFacts], asked: str | None) -> Iterator[str]:
    """Yield a heading per family and a line per model, 80 columns wide at most but for weights with long names."""
    yield f"{'':<20} {'parameters':>12} {'MACs':>8} {'input':>7}  top-1 in %"
    for family in FAMILIES.values():
        rows = [facts for facts in table if facts.family == family.name]
        others = _without_facts(family) if asked in (None, family.name) else ()
        if not rows and not others:
            continue
        yield f"\n{family.name}: {family.title} ({family.source})"
        yield from (f"  {name}" for name in others)
        for facts in rows:
            height, width = facts.input_size
            top1 = ", ".join(f"{value:.2f} {name.removeprefix('IMAGENET1K_')}" for name, value in facts.top1.items())
            macs = f"{facts.macs / 1e9:.2f} G" if facts.macs >= 1e9 else f"{facts.macs / 1e6:.1f} M"
            line = f"  {facts.name:<18} {facts.parameters:>12,} {macs:>8} {height:>3}x{width}  {top1}"
            yield line.rstrip()
    yield ""
    yield from _ALSO
