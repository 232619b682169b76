"""The options that say which images measure: the same in every verb that takes `--val`."""

from __future__ import annotations

import argparse
from pathlib import Path

from resnet_export.console.option_types import positive


def add_val_options(group: argparse._ArgumentGroup, text: str) -> None:
    """Add `--val`, `--val-labels` and `--num-val`."""
    group.add_argument("--val", action="append", metavar="DIR|...", help=text)
    group.add_argument(
        "--val-labels",
        dest="val_label_file",
        type=Path,
        metavar="FILE",
        help="labels of a --val without class folders: file name and class (index, label or synset id), one a line",
    )
    group.add_argument(
        "--num-val",
        type=positive,
        metavar="N",
        help="images used of it, drawn in proportion to its classes (default: all)",
    )
