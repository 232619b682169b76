"""Runs of the command that several tests share."""

from __future__ import annotations

from pathlib import Path

import small_digits
from small_digits import DIGITS_WEIGHTS as DIGITS_WEIGHTS

from resnet_export.main import main

ROOT = Path(__file__).parents[1]


def export_digits(digits: Path, output: Path, *options: object) -> int:
    """Export the demo's network, calibrated on the demo's images; return the exit code."""
    arguments = ["cifar_resnet20", "--weights", DIGITS_WEIGHTS, "--calib", digits / "calib", "--output", output]
    return main([str(word) for word in (*arguments, *options)])


def export_small(weights: Path, digits: Path, output: Path, *options: object) -> int:
    """Export the network of `small_digits` in place of the demo's; return the exit code."""
    arguments = [small_digits.MODEL, "--weights", weights, "--calib", digits / "calib", "--output", output]
    return main([str(word) for word in (*arguments, *options)])
