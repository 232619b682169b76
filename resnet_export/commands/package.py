"""`resnet-export package BUNDLE --layout huggingface|ort-model-package|mlflow -o DIR`: layouts that others read."""

from __future__ import annotations

import argparse
from pathlib import Path

from exporter.packages.layouts import LAYOUTS, write_package
from resnet_export.console.put_json import put_json
from resnet_export.console.terminal import Terminal


def run(arguments: argparse.Namespace) -> int:
    """Write the package; return 0, or raise what writing it raises."""
    reporter = Terminal(quiet=arguments.quiet)
    written = write_package(arguments.bundles, arguments.output, layout=arguments.layout, force=arguments.force)
    for file, what in written.items():
        reporter.done(f"{arguments.output / file}: {what}")
    if arguments.json:
        put_json({"output": str(arguments.output), "layout": arguments.layout, "files": written})
    elif not arguments.quiet:
        print(f"\nfolder: {arguments.output}/ ({LAYOUTS[arguments.layout].title})")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes to its parser."""
    parser.description = "Write a bundle in a layout that other tools read, by the layout's own library."
    parser.add_argument(
        "bundles",
        type=Path,
        nargs="+",
        metavar="BUNDLE",
        help="folder that resnet-export wrote; two of one model give a model package both INT8 dialects",
    )
    parser.add_argument("--layout", choices=tuple(LAYOUTS), required=True, help="which layout")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--force", action="store_true", help="replace a package that this command wrote before")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
