"""`resnet-export MODEL ...`: parse the words, then run the main job (whose imports are heavy)."""

from __future__ import annotations

import argparse
from contextlib import ExitStack

from exporter.known_bad import refuse_known_bad
from resnet_export.console.put_json import put_json
from resnet_export.console.result_table import print_result
from resnet_export.console.terminal import Terminal
from resnet_export.export_job.arguments import add_arguments, export_arguments

__all__ = ["add_arguments", "run"]


def run(arguments: argparse.Namespace) -> int:
    """Run the main job; return 0, or raise what it raises."""
    with ExitStack() as stack:
        asked = export_arguments(arguments, stack)
        refuse_known_bad()  # before anything of it is imported: some combinations end there
        from resnet_export.export_job.job import run_export

        report = run_export(asked.options, Terminal(quiet=asked.quiet))
    if asked.json:
        put_json(report.to_json())
    elif not asked.quiet:
        print_result(report.to_json())
    return 0
