"""Forty random networks, every file of each in a plain ONNX Runtime session.

The long form of tests/e2e/test_random_networks.py:

python tests/robustness/random_networks_long.py [--count 40] [--first 0]
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from random_network_files import disagreements


def main() -> int:
    """Print what disagrees, and how many networks do; return 1 if any does."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=40, help="how many networks (default 40)")
    parser.add_argument("--first", type=int, default=0, help="the first one's seed (default 0)")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    start, failures = time.perf_counter(), 0
    for seed in range(arguments.first, arguments.first + arguments.count):
        try:
            found = disagreements(seed)
        except Exception as err:  # a network that does not export is a finding like any other
            found = [f"network {seed}: {type(err).__name__}: {err}"]
        for sentence in found:
            print(sentence, flush=True)
        failures += bool(found)
    print(f"random networks: {arguments.count}, {failures} failures, {time.perf_counter() - start:.0f} s")
    return int(failures > 0)


if __name__ == "__main__":
    sys.exit(main())
