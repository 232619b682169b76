"""`resnet-export doctor`: what this machine has, what is in conflict, and what you can do here.

It imports no framework and uses no network. Exit code 0 whatever it finds (with --provider 1 where that
runtime does not work); 2 for wrong use.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

from rich.console import Console

from resnet_export.console.option_types import runtime_of_files
from resnet_export.console.put_json import put_json
from resnet_export.doctor_job.abilities import judge_abilities
from resnet_export.doctor_job.conflicts import find_conflicts
from resnet_export.doctor_job.facts import Facts, gather_facts
from resnet_export.doctor_job.licenses import bill_of_materials, installed_components, print_licenses
from resnet_export.doctor_job.page import print_report
from resnet_export.doctor_job.runtimes import judge_runtimes
from runtimes.inference.runtime_registry import RUNTIMES

SCHEMA_VERSION = 1
EXIT_DOES_NOT_WORK = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes to its parser."""
    parser.description = "Tell what this machine has, what is in conflict, and what you can do here."
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument(
        "--licenses",
        action="store_true",
        help="list the packages that are installed for this tool, with their licenses; with --json as CycloneDX",
    )
    parser.add_argument(
        "--provider",
        type=runtime_of_files,
        metavar="|".join(RUNTIMES),
        help="tell of this runtime alone whether it works here; the exit code is 1 where it does not",
    )


def run(arguments: argparse.Namespace) -> int:
    """Look at the machine and print what was found; return 0, or 1 where the runtime asked about does not work."""
    if arguments.licenses:
        components = installed_components()
        if arguments.json:
            put_json(bill_of_materials(components))
        else:
            print_licenses(components)
        return 0
    facts = gather_facts()
    if arguments.provider is not None:
        return _tell_runtime(facts, arguments.provider, as_json=arguments.json)
    if arguments.json:
        put_json(report(facts))
    else:
        print_report(facts, Console(highlight=False))
    return 0


def _tell_runtime(facts: Facts, word: str, *, as_json: bool) -> int:
    state = next(state for state in judge_runtimes(facts) if state.name == word)
    verdict = "works" if state.works else "does not work"
    print(json.dumps(asdict(state)) if as_json else f"{word}, {state.title}: {verdict}: {state.detail}")
    return 0 if state.works else EXIT_DOES_NOT_WORK


def report(facts: Facts) -> dict[str, Any]:
    """Return facts and conclusions as `--json` prints them."""
    return {
        "schema_version": SCHEMA_VERSION,
        **asdict(facts),
        "conflicts": [asdict(conflict) for conflict in find_conflicts(facts)],
        "runtimes": [asdict(state) for state in judge_runtimes(facts)],
        "abilities": [asdict(ability) for ability in judge_abilities(facts)],
    }
