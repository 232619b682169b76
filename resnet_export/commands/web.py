"""`resnet-export web BUNDLE -o DIR`: a page that runs the bundle in a browser."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from shlex import quote

from exporter.deploy.web import write_web
from resnet_export.console.put_json import put_json
from resnet_export.console.terminal import Terminal
from runtimes.bundle.file_names import MODEL_FILES


def run(arguments: argparse.Namespace) -> int:
    """Write the page; return 0, or raise what writing it raises."""
    from runtimes import OrtRuntime

    reporter = Terminal(quiet=arguments.quiet)
    report = write_web(
        arguments.bundle,
        arguments.output,
        precision=arguments.precision,
        open_runtime=OrtRuntime,
        package=arguments.onnxruntime_web,
        force=arguments.force,
    )
    reporter.done(f"{arguments.output / report.file}: {report.reason}")
    if arguments.json:
        put_json({"output": str(arguments.output), **asdict(report)})
    elif not arguments.quiet:
        print(f"\nfolder: {arguments.output}/\nnext:   python3 {quote(str(arguments.output / 'serve.py'))}")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes to its parser."""
    parser.description = "Write a web page that classifies pictures in the browser, with onnxruntime-web from npm."
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that resnet-export wrote")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="the folder to write")
    parser.add_argument("--precision", choices=tuple(MODEL_FILES), help="which file (default: the fastest there)")
    parser.add_argument(
        "--onnxruntime-web",
        type=Path,
        metavar="FILE.tgz",
        help="its npm package, where npm is not: npm pack onnxruntime-web@1.30.0",
    )
    parser.add_argument("--force", action="store_true", help="replace a page that this command wrote before")
    parser.add_argument("--json", action="store_true", help="print what was written as JSON")
