"""The options that say which images measure, and how images are prepared: the same in every verb that takes them."""

from __future__ import annotations

import argparse
from pathlib import Path

from resnet_export.console.option_types import interpolation, per_channel, positive, resize, scale


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


def add_preprocessing_options(group: argparse._ArgumentGroup) -> None:
    """Add what `exporter.preprocessing.options.PreprocessingOptions` holds."""
    group.add_argument(
        "--input-size", type=resize, metavar="N|HxW", help="center crop to N x N or H x W after resizing"
    )
    group.add_argument(
        "--resize",
        type=resize,
        metavar="N|HxW",
        help="shorter side to N before the crop, or exactly HxW without a crop (default: as the weights)",
    )
    group.add_argument(
        "--mean", type=per_channel, metavar="R,G,B", help="subtracted, on the scale 0-1; one number per channel"
    )
    group.add_argument("--std", type=per_channel, metavar="R,G,B", help="divided by, on the scale 0-1")
    group.add_argument(
        "--interpolation",
        type=interpolation,
        metavar="bilinear|bicubic|...",
        help="of the resize (default: as the weights)",
    )
    group.add_argument(
        "--color-order",
        choices=("RGB", "BGR"),
        help="channels as in training (default RGB); of BGR the bundle takes RGB all the same",
    )
    group.add_argument(
        "--scale", type=scale, metavar="1/255|1", help="levels 0-255 times this, then mean and std (default 1/255)"
    )
