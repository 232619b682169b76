"""Run what may be slow, hang or crash in a child process with a time limit, and take its answer. Never raises."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass

PROBE_TIMEOUT_S = 30.0
"""Time limit of one child. A CUDA session takes 1 to 5 s, importing ONNX Runtime under emulation on a busy machine was
seen to take more than 12; a broken driver may hang for ever."""

_PREAMBLE = """
import json, sys
sys.path[:] = [entry for entry in sys.path if entry]  # the current folder must not hide a library
def answer(told):
    print("\\nANSWER " + json.dumps(told), flush=True)
"""
_ANSWER = re.compile(r"^ANSWER (.*)$", re.MULTILINE)
_COLOURS = re.compile(r"\x1b\[[\d;]*m")


@dataclass(frozen=True, slots=True)
class Answer:
    """Output of a child process; `reason` is "" when it did what it was asked."""

    stdout: str
    stderr: str
    reason: str
    timed_out: bool = False


def ask_python(script: str, *arguments: str, timeout_s: float = PROBE_TIMEOUT_S) -> Answer:
    """Run `script` in a Python of its own; `stdout` is then the JSON that it gave to `answer`."""
    answer = run_command((sys.executable, "-c", _PREAMBLE + script, *arguments), timeout_s=timeout_s)
    found = _ANSWER.search(answer.stdout)
    if found is not None:  # libraries that crash when the interpreter ends have answered before
        return Answer(found[1], answer.stderr, "")
    return Answer("", answer.stderr, answer.reason or "gave no answer", answer.timed_out)


def run_command(command: Sequence[str], *, timeout_s: float = PROBE_TIMEOUT_S) -> Answer:
    """Run a command; the reason says why it failed, if it did."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Answer("", "", f"did not answer within {timeout_s:g} s", timed_out=True)
    except FileNotFoundError:
        return Answer("", "", "not found")
    except OSError as err:
        return Answer("", "", f"does not start: {err.strerror or err}")
    stderr = _COLOURS.sub("", done.stderr)
    if done.returncode == 0:
        return Answer(done.stdout, stderr, "")
    died = f"ended by signal {-done.returncode}" if done.returncode < 0 else ""
    reason = died or last_line(stderr) or last_line(done.stdout) or f"exit code {done.returncode}"
    return Answer(done.stdout, stderr, reason)


def last_line(text: str) -> str:
    """Return the last line that holds something, or ""."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
