"""A virtual environment for each peer, made on request and reused while its requirements are the same."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.quantizer_settings import OURS, REQUIREMENTS

_RECORD = "requirements.installed"


@dataclass(frozen=True, slots=True)
class Interpreter:
    """The Python of an environment, or why there is none."""

    path: Path | None
    reason: str = ""


def interpreter_of(environment: str, folder: Path | None, *, create: bool) -> Interpreter:
    """Return the Python that runs an environment's rows.

    Args:
        environment: `OURS` or a key of `REQUIREMENTS`.
        folder: Holds one virtual environment per peer, or None.
        create: Whether to make the environment, or bring it to its requirements, where needed.
    """
    if environment == OURS:
        return Interpreter(Path(sys.executable))
    if folder is None:
        return Interpreter(None, "no environment; --create-environments DIR makes it")
    home = folder.resolve() / environment
    python, record = home / "bin" / "python", home / _RECORD
    wanted = "\n".join(REQUIREMENTS[environment])
    if record.is_file() and record.read_text() == wanted and python.is_file():
        return Interpreter(python)
    if not create:
        return Interpreter(None, f"{environment}: no environment with these versions; --create-environments DIR")
    print(f"installing {', '.join(REQUIREMENTS[environment])} ...", file=sys.stderr)
    commands = [[str(python), "-m", "pip", "install", "--quiet", *REQUIREMENTS[environment]]]
    if not python.is_file():
        commands.insert(0, [sys.executable, "-m", "venv", str(home)])
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return Interpreter(None, f"cannot be installed: {last_error(done.stderr)}")
    record.write_text(wanted)
    return Interpreter(python)


def last_error(stderr: str) -> str:
    """Return the line of a process's stderr that says what went wrong: the last that names an error, else the last."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    named = [line for line in lines if "Error" in line.split(" ")[0] or line.startswith(("ERROR", "onnxruntime."))]
    return " ".join((named or lines or ["no message"])[-1].split())
