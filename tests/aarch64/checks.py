"""What is checked in the emulated root; each check returns rows of the report."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from emulator import Emulator
from guest_root import ROOT

TOOL = ("-m", "resnet_export")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the report: what, on which processor, what came out, whether that is right, seconds."""

    what: str
    cpu: str
    outcome: str
    passed: bool
    seconds: float


@dataclass(frozen=True, slots=True)
class Guest:
    """Where things are.

    Attributes:
        emulator: The root with its packages.
        cpu: The processor.
        label: Of the packages, behind the processor's name in the report; empty for the newest.
    """

    emulator: Emulator
    cpu: str
    label: str = ""

    def row(self, what: str, work: Callable[[], tuple[bool, str]]) -> Row:
        """Do a check and tell how it went."""
        begin = time.monotonic()
        passed, outcome = work()
        seconds = time.monotonic() - begin
        print(f"{'ok  ' if passed else 'FAIL'} {self.cpu}{self.label}: {what}: {outcome}", flush=True)
        return Row(what, self.cpu + self.label, outcome, passed, seconds)


def check_doctor(guest: Guest) -> Row:
    """`doctor` tells the machine, and advises nothing that has no wheel for it."""

    def work() -> tuple[bool, str]:
        done = guest.emulator.python(*TOOL, "doctor", cpu=guest.cpu)
        impossible = re.findall(r"pip install .*(?:onnxruntime-gpu|\[rtx\]|\[tensorrt\]).*", done.stdout)
        told = re.search(r"ONNX Runtime (\d[\d.]+)", done.stdout)
        passed = done.returncode == 0 and "aarch64" in done.stdout and told is not None and not impossible
        return passed, f"ONNX Runtime {told[1]}" if told and passed else _last(done, *impossible)

    return guest.row("`doctor`", work)


def check_verify(guest: Guest, bundle: str, *options: str, expected: int = 0) -> Row:
    """`verify` from the stored golden outputs, without torch and onnx."""

    def work() -> tuple[bool, str]:
        done = guest.emulator.python(*TOOL, "verify", bundle, *options, cpu=guest.cpu)
        figures = re.findall(r"^\s*(model\S*) .*? (\S+ dB|exact)", done.stdout, re.MULTILINE)
        outcome = ", ".join(f"{name} {sqnr}" for name, sqnr in figures)
        verdict = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
        return done.returncode == expected, f"{outcome}; {verdict}" if figures else _last(done)

    return guest.row(f"`verify {Path(bundle).name} {' '.join(options)}`".replace(" `", "`"), work)


def check_answers(
    guest: Guest, host_bundle: Path, bundle: str, file: str, least_db: float, *, images: int | None = None
) -> Row:
    """The logits of the golden inputs, or the first of them, against those of this x86-64 (or whatever the host is)."""
    count = () if images is None else (images,)

    def work() -> tuple[bool, str]:
        name = f"answers-{Path(bundle).name}-{file}-{guest.cpu}.npz"  # checks run beside each other
        out = guest.emulator.root / "guest" / name
        words = ("/guest/guest_answers.py", bundle, file, f"/guest/{name}", *count)
        done = guest.emulator.python(*words, cpu=guest.cpu)
        if done.returncode:
            return False, _last(done)
        got, ours = np.load(out)["logits"], host_answers(host_bundle, file)[:images]
        same = int((got.argmax(1) == ours.argmax(1)).sum())
        sqnr = _sqnr_db(ours, got)
        outcome = "bit-equal" if np.array_equal(got, ours) else f"{sqnr:.1f} dB"
        return same == len(ours) and sqnr >= least_db, f"{outcome}; the same class on {same} of {len(ours)}"

    return guest.row(f"{Path(bundle).name}/{file} beside the host's answers", work)


def host_answers(bundle: Path, file: str) -> np.ndarray:
    """Return the host's logits of the golden inputs, float32 [n, classes]; exact integer kernels."""
    out = bundle.parent / f"{bundle.name}-{file}.npz"
    if not out.exists():
        script = str(Path(__file__).with_name("guest_answers.py"))
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, script, str(bundle), file, str(out)], check=True, env=environment)
    logits: np.ndarray = np.load(out)["logits"]
    return logits


def check_classify(guest: Guest, bundle: str, images: str, expected: int) -> Row:
    """`classify` reads the pictures and names their classes."""

    def work() -> tuple[bool, str]:
        out = guest.emulator.root / "guest" / "results.csv"
        out.unlink(missing_ok=True)
        words = ("classify", "--bundle", bundle, "--input", images, "--output", "/guest/results.csv")
        done = guest.emulator.python(*TOOL, *words, cpu=guest.cpu)
        if done.returncode or not out.exists():
            return False, _last(done)
        lines = out.read_text().splitlines()[1:]
        right = sum(bool(re.match(r".*?(\d)/[^,]*,.*?\b\1\b", line)) for line in lines)
        return len(lines) == expected, f"{len(lines)} pictures, {right} with the right class"

    return guest.row("`classify`", work)


def check_golden_script(guest: Guest, bundle: str, file: str) -> Row:
    """`examples/jetson/check_golden.py`, as docs/jetson.md has it."""

    def work() -> tuple[bool, str]:
        words = ("check_golden.py", f"{bundle}/{file}", "--runtime", "onnxruntime", "--tolerance", "0.2")
        done = guest.emulator.python(*words, cpu=guest.cpu, folder="/guest/jetson")
        return done.returncode == 0, _last(done)

    return guest.row(f"`check_golden.py` {file}", work)


def check_tests(guest: Guest) -> Row:
    """The tests of `runtimes` that need no torch, in one process: collecting them is much of the work under emulation.

    Plain assertions: to rewrite those of 70 files is slow there, and of a test that fails only its name is told.
    """

    def work() -> tuple[bool, str]:
        words = ["-m", "pytest", "-q", "--assert=plain", "-p", "no:cacheprovider", "-p", "absent_libraries"]
        words += ["tests/runtimes"]
        done = guest.emulator.python(*words, cpu=guest.cpu, folder="/guest/repository")
        failed = re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE)
        return done.returncode == 0, f"{_last(done)}{': ' + ', '.join(failed) if failed else ''}"

    return guest.row("tests of `runtimes` without torch", work)


def check_cpp(root: Path, bundle: Path, images: Path, *, cpu: str, short: bool) -> Row:
    """The C++ preprocessing, cross-compiled, by its own tests: every pixel of every case as in Python.

    Args:
        root: The emulated root, for the report.
        bundle: One whose golden inputs are prepared again.
        images: The pictures they come from.
        cpu: A key of `CPUS`.
        short: Whether to leave out the golden inputs and the random cases.
    """

    def work() -> tuple[bool, str]:
        words = [
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "tests/e2e/test_jetson_cpp.py",
            "-k",
            "cpp and prepares",
        ]
        words[-1] += " and not golden and not random" if short else ""
        environment = {**os.environ, "RESNET_EXPORT_CPP_FOR": "aarch64", "QEMU_CPU": cpu, "PYTHONPATH": str(ROOT)}
        environment |= {"RESNET_EXPORT_CPP_BUNDLE": str(bundle), "RESNET_EXPORT_CPP_IMAGES": str(images)}
        done = subprocess.run(
            [sys.executable, *words], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
        )
        return done.returncode == 0 and "skipped" not in done.stdout, _last(done)

    return Guest(Emulator(root), cpu).row("C++ preprocessing, `aarch64-linux-gnu-g++`", work)


def copy_in(emulator: Emulator, source: Path, name: str) -> str:
    """Copy a file or folder into the root's /guest; return its path as seen inside."""
    target = emulator.root / "guest" / name
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copy(source, target)
    return f"/guest/{name}"


def _sqnr_db(reference: np.ndarray, got: np.ndarray) -> float:
    noise = float(((reference - got).astype(np.float64) ** 2).sum())
    return float("inf") if noise == 0 else 10 * np.log10(float((reference.astype(np.float64) ** 2).sum()) / noise)


def _last(done: subprocess.CompletedProcess[str], *more: str) -> str:
    """Return the last line of what a command printed; of a failed one also its errors'."""
    lines: Sequence[str] = [line for line in done.stdout.splitlines() if line.strip()]
    errors = [line for line in done.stderr.splitlines() if line.strip()]
    told = [*lines[-1:], *(errors[-2:] if done.returncode else []), *more]
    return " ".join(told) or f"exit code {done.returncode}"
