"""Thousands of damaged and hostile files of every kind, each read in a child process that is watched.

    python tests/robustness/hostile_files.py [--kinds onnx,png] [--count 2000] [--seed 1] [--first 0]

Good: the file is read, or refused with one of our errors. Failures: any other exception, a crash, more than 10 seconds,
an allocation of more than 2 GB, code of the file that ran, a process started, a connection made. Exit code 1 if any.
"""

from __future__ import annotations

import argparse
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LIMIT_SECONDS = 10.0
LIMIT_BYTES = 2 << 30
FIRST_SECONDS = 120.0
"""For the first answer: importing torch takes seconds, on a busy machine more."""

FORBIDDEN_EVENTS = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect", "os.fork")


def run_child(kind: str, bundle: Path, seed: int, first: int, count: int, report: int) -> None:
    """Read files `first` to `first + count`, telling each before and after; ends with the process."""
    import resource
    import warnings

    sys.path[:0] = [str(HERE), str(ROOT)]
    warnings.simplefilter("ignore")
    from hostile_kinds import CANARY, KINDS, hostile, sha256_of

    from calibration.errors import CalibrationError
    from exporter.errors import ExportError
    from runtimes.errors import RuntimeAdapterError

    def tell(**values: Any) -> None:
        os.write(report, json.dumps(values).encode() + b"\n")

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        made = KINDS[kind](bundle, folder)
        path = folder / made.file
        if made.good:
            path.write_bytes(made.good)
            made.read(path)  # imports what is needed, and shows that the good file is read
        forbidden: list[str] = []
        sys.addaudithook(lambda event, _: forbidden.append(event) if event in FORBIDDEN_EVENTS else None)
        used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + LIMIT_BYTES, used + LIMIT_BYTES))
        for number in range(first, first + count):
            path = hostile(made, folder, number, seed)
            tell(number=number, started=True)
            try:
                made.read(path)
                outcome = "read"
            except (CalibrationError, ExportError, RuntimeAdapterError) as err:
                outcome = type(err).__name__
            except BaseException as err:  # any other end, even SystemExit, is what this looks for
                outcome = f"FAILED: {type(err).__name__}: {str(err)[:200]}"
            if (folder / CANARY).exists():
                outcome = "FAILED: code of the file ran"
                (folder / CANARY).rmdir()
            if forbidden:
                outcome = f"FAILED: {', '.join(forbidden)}"
                forbidden.clear()
            shown = sha256_of(path) if outcome.startswith("FAILED") and path.is_file() else ""
            tell(number=number, outcome=outcome, sha256=shown)


def attack(kind: str, bundle: Path, *, seed: int, first: int, count: int) -> tuple[Counter[str], list[str]]:
    """Read hostile files in children, a new one after each that died; return outcomes and failures."""
    outcomes: Counter[str] = Counter()
    failures: list[str] = []
    number = first
    while number < first + count:
        number, died = _one_child(kind, bundle, seed, number, first + count, outcomes, failures)
        if died:
            outcomes["FAILED"] += 1
            failures.append(f"{kind} {number} (seed {seed}): {died}")
            number += 1
    return outcomes, failures


def _one_child(
    kind: str, bundle: Path, seed: int, first: int, end: int, outcomes: Counter[str], failures: list[str]
) -> tuple[int, str]:
    """Watch one child; return the number it was at and how it died, "" if it did all."""
    reading, writing = os.pipe()
    words = ["--child", kind, "--bundle", bundle, "--seed", seed, "--first", first, "--count", end - first]
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
    child = subprocess.Popen(
        [sys.executable, __file__, *map(str, words), "--report", str(writing)],
        pass_fds=(writing,),
        stdout=subprocess.DEVNULL,
        stderr=errors,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
    )
    os.close(writing)
    number, pending, deadline, died = first, b"", time.monotonic() + FIRST_SECONDS, ""
    try:
        while True:
            ready, _, _ = select.select([reading], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                died = f"hangs for {LIMIT_SECONDS:.0f} s"
                break
            piece = os.read(reading, 1 << 16)
            if not piece:
                break
            deadline = time.monotonic() + LIMIT_SECONDS
            *lines, pending = (pending + piece).split(b"\n")
            for line in lines:
                told = json.loads(line)
                number = told["number"]
                if outcome := told.get("outcome"):
                    outcomes[outcome.split(":")[0]] += 1
                    if outcome.startswith("FAILED"):
                        failures.append(f"{kind} {number} (seed {seed}, sha256 {told['sha256']}): {outcome[8:]}")
                    number += 1
    finally:
        os.close(reading)
        if died:
            child.send_signal(signal.SIGKILL)
        code = child.wait()
        errors.seek(0)
        last = errors.read().decode(errors="replace").strip()[-400:]
        errors.close()
    if not died and (code or number < end):
        died = f"the process died, exit code {code}: {last}"
    return number, died


def make_bundle(folder: Path) -> Path:
    """Export the digits network, INT8 and FP16, with the command; return the bundle."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    images, bundle = folder / "digits", folder / "bundle"
    subprocess.run([sys.executable, "examples/digits/write_images.py", images], cwd=ROOT, env=env, check=True)
    main = "import sys; from resnet_export.main import main; sys.exit(main(sys.argv[1:]))"
    weights = ROOT / "examples" / "digits" / "resnet20_digits.safetensors"
    words = ["cifar_resnet20", "--weights", weights, "--int8", "--fp16", "--calib", images / "calib", "--effort", "0"]
    words += ["--num-calib", "32", "--quiet", "--calib-cache", "off", "-o", bundle]
    subprocess.run([sys.executable, "-c", main, *map(str, words)], cwd=ROOT, env=env, check=True)
    return bundle


def main() -> int:
    """Attack all kinds; print one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kinds", default="", help="names separated by commas (default: all)")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bundle", type=Path, help="a bundle of the digits network (default: one is exported)")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--report", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        run_child(options.child, options.bundle, options.seed, options.first, options.count, options.report)
        return 0
    sys.path[:0] = [str(HERE), str(ROOT)]
    from hostile_kinds import KINDS

    kinds = options.kinds.split(",") if options.kinds else list(KINDS)
    failed = 0
    with tempfile.TemporaryDirectory() as name:
        bundle = options.bundle or make_bundle(Path(name))
        for kind in kinds:
            start = time.monotonic()
            outcomes, failures = attack(kind, bundle, seed=options.seed, first=options.first, count=options.count)
            failed += len(failures)
            told = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
            print(
                f"{kind}: {outcomes.total()} files, {len(failures)} failures, {time.monotonic() - start:.0f} s: {told}"
            )
            for failure in failures[:20]:
                print(f"  {failure}")
            sys.stdout.flush()
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
