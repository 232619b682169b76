"""Seconds of `sensitivity` and `verify --bisect` beside those of an older checkout, taking turns in one run.

    git worktree add ../older e1be2e2
    python benchmarks/older_blocks.py ../older --model resnet18 --weights FILE --labels FILE --resize 96x96 \
        --calib DIR --val DIR [--repeats 3]

Each checkout makes an INT8 bundle of its own first, which is not timed. Whole commands are, imports included.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Checkout:
    """A checkout of this repository, as it is or older.

    Attributes:
        name: As the table has it.
        folder: Its root.
    """

    name: str
    folder: Path

    def run(self, words: Sequence[object]) -> float:
        """Run the command and return its seconds.

        Raises:
            RuntimeError: If it ended with something other than 0 or 3 (too few images for a claim).
        """
        package = "resnet_export.main" if (self.folder / "resnet_export").is_dir() else "exporter.cli"
        command = [sys.executable, "-c", f"import sys; from {package} import main; sys.exit(main(sys.argv[1:]))"]
        environment = {**os.environ, "PYTHONPATH": str(self.folder)}
        start = time.perf_counter()
        done = subprocess.run(
            [*command, *map(str, words)], env=environment, cwd=self.folder, capture_output=True, text=True
        )
        seconds = time.perf_counter() - start
        if done.returncode not in (0, 3):
            raise RuntimeError(f"{self.name}: {' '.join(map(str, words))} ended with {done.returncode}:\n{done.stderr}")
        return seconds


def main() -> None:
    options = parse_options()
    checkouts = (Checkout("now", ROOT), Checkout("older", options.older.resolve()))
    with tempfile.TemporaryDirectory() as folder:
        bundles = {
            checkout.name: make_bundle(checkout, Path(folder) / checkout.name, options) for checkout in checkouts
        }
        seconds: dict[tuple[str, str], list[float]] = {}
        for _ in range(options.repeats):
            for checkout in checkouts:
                bundle = bundles[checkout.name]
                jobs = {
                    "sensitivity": ["sensitivity", bundle, "--calib", options.calib, "--quiet"],
                    "verify --bisect": ["verify", bundle, "--val", options.val, "--bisect", "--quiet"],
                    "verify": ["verify", bundle, "--val", options.val, "--quiet"],
                }
                for name, words in jobs.items():
                    seconds.setdefault((name, checkout.name), []).append(checkout.run(words))
    print_table(options, seconds)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("older", type=Path, metavar="CHECKOUT", help="root of the older checkout")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument("--labels", metavar="FILE")
    parser.add_argument("--resize", metavar="HxW")
    parser.add_argument("--calib", type=Path, required=True, metavar="DIR")
    parser.add_argument("--val", type=Path, required=True, metavar="DIR")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    options = parser.parse_args()
    for name in ("weights", "labels", "calib", "val"):
        given = getattr(options, name)
        setattr(options, name, None if given is None else Path(given).resolve())
    return options


def make_bundle(checkout: Checkout, bundle: Path, options: argparse.Namespace) -> Path:
    """Write the checkout's INT8 bundle."""
    words = [options.model, "--weights", options.weights, "--int8", "--calib", options.calib, "--output", bundle]
    words += [
        part for name in ("labels", "resize") if (value := getattr(options, name)) for part in (f"--{name}", value)
    ]
    checkout.run([*words, "--quiet"])
    return bundle


def print_table(options: argparse.Namespace, seconds: dict[tuple[str, str], list[float]]) -> None:
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("numpy", "onnx"))
    print(f"{options.model}, {os.cpu_count()} cores, {platform.machine()}; {versions}; {date.today()}")
    print(f"load when it ended {os.getloadavg()[0]:.1f}; median of {options.repeats}\n")
    print("| command | now | older | ratio |\n|---|---|---|---|")
    for name in dict.fromkeys(job for job, _ in seconds):
        now, older = (statistics.median(seconds[name, checkout]) for checkout in ("now", "older"))
        print(f"| {name} | {now:.1f} s | {older:.1f} s | {now / older:.2f} |")


if __name__ == "__main__":
    main()
