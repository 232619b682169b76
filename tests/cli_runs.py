"""Runs of the command that several tests share."""

from __future__ import annotations

from pathlib import Path

from resnet_export.main import main

ROOT = Path(__file__).parents[1]
DIGITS_WEIGHTS = ROOT / "examples" / "digits" / "resnet20_digits.safetensors"


def export_digits(digits: Path, output: Path, *options: object) -> int:
    """Export the demo's network, calibrated on the demo's images; return the exit code."""
    arguments = ["cifar_resnet20", "--weights", DIGITS_WEIGHTS, "--calib", digits / "calib", "--output", output]
    return main([str(word) for word in (*arguments, *options)])
