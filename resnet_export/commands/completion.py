"""`resnet-export completion SHELL`: print a script that completes verbs, options and files (by shtab)."""

from __future__ import annotations

import argparse
from pathlib import Path

from runtimes.needed_library import needed_library

SHELLS = ("bash", "zsh", "tcsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes to its parser."""
    parser.description = "Print a completion script for your shell."
    parser.epilog = (
        "bash: resnet-export completion bash > ~/.local/share/bash-completion/completions/resnet-export; zsh: "
        "resnet-export completion zsh > a folder of $fpath, named _resnet-export"
    )
    parser.add_argument("shell", choices=SHELLS, metavar="|".join(SHELLS))


def run(arguments: argparse.Namespace) -> int:
    """Print the script; return 0.

    Raises:
        MissingDependencyError: If shtab is not installed.
    """
    from resnet_export.export_job import arguments as export_arguments
    from resnet_export.main import VERBS, command_parser

    shtab = needed_library("shtab", "completion scripts are written by shtab; pip install shtab")
    parser = command_parser(*VERBS)
    export_arguments.add_options(parser)  # the word "export" may be left out: resnet-export resnet50 --int8
    _complete_files(parser, shtab.FILE)
    print(shtab.complete(parser, shell=arguments.shell))
    return 0


def _complete_files(parser: argparse.ArgumentParser, files: object) -> None:
    """Let every argument that is a path complete to files, in place, in the verbs' parsers too."""
    for action in parser._actions:
        if action.type is Path:
            action.complete = files  # type: ignore[attr-defined]  # shtab's way to say so
        for inner in (action.choices or {}).values() if isinstance(action, argparse._SubParsersAction) else ():
            _complete_files(inner, files)
