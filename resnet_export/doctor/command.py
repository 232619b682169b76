"""`resnet-export doctor`: what this machine has, what is in conflict, and what you can do here.

It imports no framework and uses no network. Exit code 0 whatever it finds; 2 for wrong use.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console

from resnet_export.doctor.abilities import judge_abilities
from resnet_export.doctor.conflicts import find_conflicts
from resnet_export.doctor.facts import Facts, gather_facts
from resnet_export.doctor.licenses import bill_of_materials, installed_components, print_licenses
from resnet_export.doctor.page import print_report

SCHEMA_VERSION = 1


def run_doctor(argv: Sequence[str]) -> int:
    """Look at the machine and print what was found; return 0.

    Args:
        argv: The words after `doctor`.

    Raises:
        SystemExit: With code 2 for wrong use, 0 for `--help`.
    """
    parser = argparse.ArgumentParser(
        prog="resnet-export doctor",
        description="Tell what this machine has, what is in conflict, and what you can do here.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument(
        "--licenses",
        action="store_true",
        help="list the packages that are installed for this tool, with their licences; with --json as CycloneDX",
    )
    options = parser.parse_args(argv)
    if options.licenses:
        components = installed_components()
        if options.json:
            print(json.dumps(bill_of_materials(components), indent=2))
        else:
            print_licenses(components)
        return 0
    facts = gather_facts()
    if options.json:
        print(json.dumps(report(facts), indent=2))
    else:
        print_report(facts, Console(highlight=False))
    return 0


def report(facts: Facts) -> dict[str, Any]:
    """Return facts and conclusions as `--json` prints them."""
    return {
        "schema_version": SCHEMA_VERSION,
        **asdict(facts),
        "conflicts": [asdict(conflict) for conflict in find_conflicts(facts)],
        "abilities": [asdict(ability) for ability in judge_abilities(facts)],
    }
