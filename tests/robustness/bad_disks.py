"""Full, read-only and vanishing disks under the main job, its cache, `build` and standard output.

    python tests/robustness/bad_disks.py

Every case must end with the exit code that is expected, one message, the old bundle or engine unchanged, and nothing
unfinished left. Small and read-only disks are mounted (tmpfs), which needs root on Linux; where that is not allowed, a
limit on the size of files (RLIMIT_FSIZE) stands in for the full disk, and the script says so.
"""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from forked_runs import MODEL, few_digits, import_everything, start, wait


def run(words: Sequence[object], log: Path, before: Callable[[], object] = lambda: None) -> int:
    """Run the command to its end; return its exit code."""
    return wait(start(words, log, before))


def mount(folder: Path, kilobytes: int) -> bool:
    """Mount a small disk at `folder`; tell whether that is allowed here."""
    folder.mkdir(parents=True, exist_ok=True)
    words = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=0777", "tmpfs", str(folder)]
    return shutil.which("mount") is not None and subprocess.run(words, capture_output=True, check=False).returncode == 0


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return every file below `folder`."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def no_file_beyond(num_bytes: int) -> Callable[[], object]:
    """Return what makes writing larger files fail in this process, as on a full disk."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, num_bytes))

    return limit


PAGE = 4096
"""Bytes; a tmpfs gives each file whole ones, which counts where a bundle is small. Source: Linux, tmpfs(5)."""


class Cases:
    """Runs the cases one after the other and keeps what went wrong."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.failures: list[str] = []
        self.count = 0
        self.mounted: list[Path] = []
        export = [*MODEL, "--int8", "--calib", work / "digits" / "calib"]
        self.export = [*export, "--effort", "0", "--num-calib", "32", "--quiet", "--force"]

    def check(
        self, name: str, code: int, expected: int, words: str, kept: tuple[Path, dict[str, bytes]] | None
    ) -> None:
        """Keep what is not as expected."""
        self.count += 1
        told = (self.work / "log").read_text(errors="replace")
        problems = [] if code == expected else [f"exit code {code}, expected {expected}"]
        problems += [] if words in told else [f"does not say {words!r}"]
        problems += ["a traceback"] if "Traceback" in told or "internal error" in told else []
        if kept is not None and snapshot(kept[0]) != kept[1]:
            problems.append(f"the old files changed: {sorted(snapshot(kept[0]))}")
        if problems:
            self.failures.append(f"{name}: {'; '.join(problems)}: {told.strip()[-300:]}")

    def disk(self, name: str, kilobytes: int) -> Path | None:
        """Return a new small disk, or None where mounting is not allowed."""
        folder = self.work / name
        if not mount(folder, kilobytes):
            return None
        self.mounted.append(folder)
        return folder

    def unmount(self) -> None:
        """Give the disks back."""
        for folder in self.mounted:
            subprocess.run(["umount", str(folder)], check=False)


def run_cases(work: Path) -> Cases:
    """Run every case in `work`, which holds the digits."""
    cases = Cases(work)
    try:
        _run_cases(cases)
    finally:
        cases.unmount()
    return cases


def _run_cases(cases: Cases) -> None:
    work = cases.work
    log, good, cache = work / "log", work / "good", work / "cache"
    cases.check("whole", run([*cases.export, "--calib-cache", cache, "-o", good], log), 0, "", None)
    words = [*cases.export, "--calib-cache", cache]
    full_disk(cases, words, good, log)
    read_only_disk(cases, words, good, log)
    vanishing_folder(cases, words, log)
    full_output(cases, words, log)


def full_disk(cases: Cases, words: list[object], good: Path, log: Path) -> None:
    """The bundle, the engine and the cache on a disk that fills up."""
    pages = sum(-(-len(content) // PAGE) for content in snapshot(good).values())
    disk = cases.disk("full", pages * 3 // 2 * PAGE // 1024)
    before: Callable[[], object] = lambda: None  # noqa: E731
    if disk is None:
        print("no mount allowed: a limit on the size of files stands in for the full disk")
        disk, before = cases.work / "full", no_file_beyond(500_000)
    shutil.copytree(good, disk / "bundle")  # a second one does not fit beside it
    kept = (disk, snapshot(disk))
    cases.check("full disk, export", run([*words, "-o", disk / "bundle"], log, before), 2, "cannot be written", kept)
    build = ["build", disk / "bundle", "--rtx", "--fp32", "--opt-level", "0", "--quiet"]
    cases.check("full disk, build", run(build, log, before), 2, "cannot be written", kept)
    filler = disk / "filler"
    if cases.mounted:
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
    else:
        before = no_file_beyond(100)
    code = run([*cases.export, "--fp16", "--calib-cache", disk / "cache", "-o", cases.work / "elsewhere"], log, before)
    expected = 0 if cases.mounted else 2
    told = "calibration cache: " if cases.mounted else "cannot be written"
    cases.check("full disk, cache", code, expected, told, None)


def read_only_disk(cases: Cases, words: list[object], good: Path, log: Path) -> None:
    """The bundle on a disk that is mounted read-only."""
    disk = cases.disk("readonly", 8000)
    if disk is None:
        print("no mount allowed: the read-only disk is left out")
        return
    shutil.copytree(good, disk / "bundle")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    kept = (disk, snapshot(disk))
    cases.check("read-only, export", run([*words, "-o", disk / "bundle"], log), 2, "", kept)
    build = ["build", disk / "bundle", "--rtx", "--fp32", "--opt-level", "0", "--quiet"]
    cases.check("read-only, build", run(build, log), 2, "cannot be written", kept)
    code = run([*cases.export, "--calib-cache", disk / "cache", "-o", cases.work / "elsewhere"], log)
    cases.check("read-only, cache", code, 0, "calibration cache: ", kept)


def vanishing_folder(cases: Cases, words: list[object], log: Path) -> None:
    """The unfinished bundle is removed by somebody while it is written; and the images while they are read."""
    parent = cases.work / "vanishing"
    parent.mkdir()
    process = start([*words, "-o", parent / "bundle"], log)
    while not any(parent.iterdir()):
        time.sleep(0.001)
    shutil.rmtree(parent, ignore_errors=True)
    code = wait(process)
    if code == 0 and (parent / "bundle" / "manifest.json").exists():  # it was written before the folder went
        code = 2
    cases.check("vanishing output", code, 2, "", None)
    images = cases.work / "images"
    shutil.copytree(cases.work / "digits" / "calib", images)
    short = [word if word != cases.work / "digits" / "calib" else images for word in words]
    process = start([*short, "-o", cases.work / "elsewhere"], log)
    time.sleep(0.3)
    shutil.rmtree(images, ignore_errors=True)
    cases.check("vanishing images", wait(process), 2, "", None)


def full_output(cases: Cases, words: list[object], log: Path) -> None:
    """Standard output on a full device, and into a pipe that nobody reads."""

    def to(target: int) -> Callable[[], object]:
        return lambda: os.dup2(target, 1)

    models = ["models", "--json"]
    full = os.open("/dev/full", os.O_WRONLY)
    cases.check("standard output is full", run(models, log, to(full)), 2, "the system refused", None)
    reading, writing = os.pipe()
    os.close(reading)
    cases.check("nobody reads", run(models, log, to(writing)), 2, "the system refused", None)


def main() -> int:
    """Run all cases; print the count."""
    import_everything()
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        few_digits(work / "digits")
        cases = run_cases(work)
    print(f"bad disks: {cases.count} cases, {len(cases.failures)} failures, {time.monotonic() - begin:.0f} s")
    for failure in cases.failures:
        print(f"  {failure}")
    return 1 if cases.failures else 0


if __name__ == "__main__":
    sys.exit(main())
