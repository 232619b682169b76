"""kill -9 at random moments of the main job and of `build`, into one output folder and one cache.

    python tests/robustness/kill_anytime.py [--job 120] [--build 80] [--seed 1]

Most of a run is importing torch, where nothing can be lost. So every run is a fork of one process that has imported
everything already. Half of the moments are uniform over the time that a whole run takes from there; the other half come
up to 50 ms after the first unfinished file or folder appears, when the disk is being written.

After every kill the output must be the whole old bundle (or engine with its sidecar), the whole new one, or nothing;
an engine and a sidecar that do not belong together must be told apart; every entry of the calibration cache must be
whole. What the next run does first must remove every unfinished file. At the end an undisturbed run must succeed, and
one that is asked to end (SIGTERM) must leave nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from forked_runs import MODEL, few_digits, import_everything, start, wait

UNFINISHED = ".resnet-export-"


def whole_run(words: Sequence[object]) -> tuple[int, float]:
    """Run the command to its end; return exit code and seconds."""
    begin = time.monotonic()
    code = wait(start(words))
    return code, time.monotonic() - begin


def unfinished(folders: Sequence[Path]) -> list[str]:
    """Return the names of unfinished files and folders."""
    return [name for folder in folders if folder.is_dir() for name in os.listdir(folder) if name.startswith(UNFINISHED)]


def killed_run(words: Sequence[object], seconds: float, watched: Sequence[Path], generator: random.Random) -> bool:
    """Run the command and kill it at a random moment; tell whether it was still running."""
    process = start(words)
    if generator.random() < 0.5:
        time.sleep(generator.uniform(0, seconds))
    else:
        end = time.monotonic() + 3 * seconds
        while not unfinished(watched) and time.monotonic() < end and os.waitpid(process, os.WNOHANG) == (0, 0):
            time.sleep(0.0005)
        time.sleep(generator.uniform(0, 0.05))
    try:
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
    except (ProcessLookupError, ChildProcessError):
        return False
    return os.WIFSIGNALED(status)


def bundle_state(bundle: Path) -> str:
    """Return "none", "whole", or what is wrong."""
    from runtimes.bundle.manifest import check_files, load_manifest
    from runtimes.errors import BundleError

    if not bundle.exists():
        return "none"
    try:
        manifest = load_manifest(bundle)
        check_files(bundle, manifest)
    except BundleError as err:
        return f"FAILED: {err}"
    extra = {path.name for path in bundle.iterdir()} - manifest.files.keys() - {"manifest.json"}
    return f"FAILED: also holds {extra}" if extra else "whole"


def engine_state(engine: Path) -> str:
    """Return "none", "whole", "told apart" (a plan without its sidecar), or what is wrong."""
    from runtimes.bundle.manifest import file_entry
    from runtimes.errors import BundleError
    from runtimes.trt.engine_sidecar import load_sidecar, sidecar_path

    if not engine.exists():
        return "none"
    if not sidecar_path(engine).exists():
        return "told apart"
    try:
        sidecar = load_sidecar(engine)
    except BundleError as err:
        return f"FAILED: {err}"
    entry = file_entry(engine)
    return (
        "whole"
        if (entry.sha256, entry.size_bytes) == (sidecar.engine_sha256, sidecar.engine_size_bytes)
        else "told apart"
    )


def cache_failures(cache: Path) -> list[str]:
    """Return what is wrong with the entries of the calibration cache."""
    from calibration.ranges.calibration_cache import CacheKey, _table_from_entry

    failures = []
    for path in cache.glob("*.calibration.json"):
        try:
            _table_from_entry(path.read_bytes(), CacheKey(json.loads(path.read_bytes())["key"]))
        except Exception as err:  # an entry that cannot be read, for whatever reason, is a failure of the cache
            failures.append(f"{path.name}: {err!r}")
    return failures


def kill_main_job(work: Path, count: int, generator: random.Random) -> tuple[Counter[str], list[str]]:
    """Kill the main job `count` times; return the states found and the failures."""
    from exporter.bundle.write_folder import check_output

    output, cache = work / "out" / "bundle", work / "cache"
    words = [*MODEL, "--int8", "--fp16", "--calib", work / "digits" / "calib"]
    words += ["--effort", "0", "--calib-cache", cache, "--quiet", "--force", "-o", output]
    code, seconds = whole_run([*words, "--num-calib", 32])
    states: Counter[str] = Counter()
    failures = [] if code == 0 and bundle_state(output) == "whole" else [f"a whole run: exit code {code}"]
    for place in range(count):
        had_one = output.exists()
        killed = killed_run([*words, "--num-calib", 33 + place], seconds, [output.parent, cache], generator)
        before = bundle_state(output)
        check_output(output, force=True)  # what every run does first
        state = bundle_state(output)
        states[state if killed else "it was done before"] += 1
        if state.startswith("FAILED") or before.startswith("FAILED") or (had_one and state == "none"):
            failures.append(f"kill {place}: had one: {had_one}, then {before}, then {state}")
        failures += [f"kill {place}: cache {problem}" for problem in cache_failures(cache)]
        failures += [f"kill {place}: left {name}" for name in unfinished([output.parent])]
        if place % 7 == 3 and output.exists():
            remove(output)
        elif place % 7 == 5 and not output.exists():
            whole_run([*words, "--num-calib", 32])
    code, _ = whole_run([*words, "--num-calib", 32 + 2 * count])
    left = unfinished([output.parent, cache])
    if code or bundle_state(output) != "whole" or left:
        failures.append(f"the run at the end: exit code {code}, {bundle_state(output)}, left {left}")
    return states, failures + terminate_main_job(work)


def terminate_main_job(work: Path) -> list[str]:
    """Send SIGTERM when the first step is told; return what is wrong: code 130, one line, and nothing may be left."""
    folder, log = work / "terminated", work / "terminated.log"
    folder.mkdir()
    process = start([*MODEL, "--int8", "--calib", work / "digits" / "calib", "-o", folder / "bundle"], log)
    while not (log.exists() and b"\n" in log.read_bytes()) and os.waitpid(process, os.WNOHANG) == (0, 0):
        time.sleep(0.001)
    os.kill(process, signal.SIGTERM)
    code, told = wait(process), log.read_text(encoding="utf-8")
    right = code == 130 and "interrupted" in told and "Traceback" not in told and not list(folder.iterdir())
    return [] if right else [f"terminated: exit code {code}, left {list(folder.iterdir())}, told {told}"]


def kill_build(work: Path, count: int, generator: random.Random) -> tuple[Counter[str], list[str]]:
    """Kill `build --rtx` `count` times; return the states found and the failures."""
    bundle = work / "out" / "bundle"
    engine = bundle / "model.rtx.engine"
    words = ["build", bundle, "--rtx", "--fp32", "--opt-level", "0", "--quiet"]
    code, seconds = whole_run(words)
    states: Counter[str] = Counter()
    failures = [] if code == 0 and engine_state(engine) == "whole" else [f"a whole build: exit code {code}"]
    for place in range(count):
        options = ["--workspace", 64 + place]  # another option, so that it is built anew
        killed = killed_run([*words, *options], seconds, [bundle], generator)
        state = engine_state(engine)
        states[state if killed else "it was done before"] += 1
        if state.startswith("FAILED") or state == "none":
            failures.append(f"kill {place}: {state}")
        if place % 7 == 3:
            for path in bundle.glob("*.engine*"):
                path.unlink()
            whole_run([*words, "--workspace", 1000 + place])
    code, _ = whole_run([*words, "--workspace", 5000])
    left = unfinished([bundle])
    if code or engine_state(engine) != "whole" or left:
        failures.append(f"the build at the end: exit code {code}, {engine_state(engine)}, left {left}")
    return states, failures


def remove(folder: Path) -> None:
    """Remove a folder, so that the next run starts without one."""
    import shutil

    shutil.rmtree(folder)


def main() -> int:
    """Kill both; print the states found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--job", type=int, default=120, help="kills of the main job")
    parser.add_argument("--build", type=int, default=80, help="kills of build")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    import_everything()
    generator = random.Random(options.seed)
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        few_digits(work / "digits")
        for what, kill, count in (("main job", kill_main_job, options.job), ("build", kill_build, options.build)):
            if not count:
                continue
            begin = time.monotonic()
            states, failures = kill(work, count, generator)
            failed += len(failures)
            told = ", ".join(f"{number} {state}" for state, number in states.most_common())
            print(f"killed {what}: {count} times, {len(failures)} failures, {time.monotonic() - begin:.0f} s: {told}")
            for failure in failures[:20]:
                print(f"  {failure}")
            sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
