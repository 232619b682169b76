"""Two to four runs at the same time on one output folder and one cache: one wins or all finish, never a mix.

    python tests/robustness/two_at_once.py [--rounds 20]

Half of the rounds with --force, where the last one stays; half without, where exactly one may win and the others must
refuse. Each run calibrates with another number of images, so that a bundle mixed of two would be seen: the number in
its manifest, in its calibration table and the hash of every file must agree.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from forked_runs import MODEL, few_digits, import_everything, start, wait
from kill_anytime import bundle_state, cache_failures, engine_state, unfinished


def main_jobs(work: Path, rounds: int) -> list[str]:
    """Run several main jobs at once; return failures."""
    failures = []
    output, cache = work / "out" / "bundle", work / "cache"
    words = [*MODEL, "--int8", "--calib", work / "digits" / "calib", "--effort", "0"]
    words += ["--calib-cache", cache, "--quiet", "-o", output]
    for place in range(rounds):
        forced = place % 2 == 0
        if not forced and output.exists():
            shutil.rmtree(output)
        counts = [32 + (place + number) % 5 for number in range(2 + place % 3)]
        processes = [start([*words, "--num-calib", count, *["--force"] * forced]) for count in counts]
        codes = [wait(process) for process in processes]
        expected = [0] * len(codes) if forced else [0] + [2] * (len(codes) - 1)
        state, left = bundle_state(output), unfinished([output.parent, cache])
        if sorted(codes) != expected or state != "whole" or left or (problems := cache_failures(cache)):
            failures.append(f"round {place}: exit codes {codes}, {state}, left {left}, {problems if not left else ''}")
            continue
        manifest = json.loads((output / "manifest.json").read_text())
        table = json.loads((output / "calibration.json").read_text())
        if manifest["options"]["num_calib"] != table["num_images"] or table["num_images"] not in counts:
            failures.append(f"round {place}: a mix of {manifest['options']['num_calib']} and {table['num_images']}")
    return failures


def builds(work: Path, rounds: int) -> list[str]:
    """Build several engines of one name at once; return failures."""
    failures = []
    bundle = work / "out" / "bundle"
    words = ["build", bundle, "--rtx", "--fp32", "--opt-level", "0", "--quiet"]
    for place in range(rounds):
        processes = [start([*words, "--workspace", 64 + 2 * place + number]) for number in range(2)]
        codes = [wait(process) for process in processes]
        state, left = engine_state(bundle / "model.rtx.engine"), unfinished([bundle])
        if codes != [0, 0] or state != "whole" or left:
            failures.append(f"build {place}: exit codes {codes}, {state}, left {left}")
    return failures


def main() -> int:
    """Run both; print the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=20)
    options = parser.parse_args()
    import_everything()
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        few_digits(work / "digits")
        for what, check in (("main jobs", main_jobs), ("builds", builds)):
            begin = time.monotonic()
            failures = check(work, options.rounds)
            failed += len(failures)
            print(
                f"{what} at once: {options.rounds} rounds, {len(failures)} failures, {time.monotonic() - begin:.0f} s"
            )
            for failure in failures:
                print(f"  {failure}")
            sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
