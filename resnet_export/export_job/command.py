"""`resnet-export MODEL ...`: parse the words, then run the main job (whose imports are heavy)."""

from __future__ import annotations

from collections.abc import Sequence

from exporter.known_bad import refuse_known_bad
from resnet_export.export_job.arguments import parse_arguments


def run_export_command(words: Sequence[str]) -> int:
    """Run the main job; return 0, or raise what it raises."""
    options = parse_arguments(words)
    refuse_known_bad()  # before anything of it is imported: some combinations end there
    from resnet_export.export_job.job import run_export

    run_export(options)
    return 0
