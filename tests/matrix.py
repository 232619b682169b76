"""Run the tests with the lowest and the newest versions of the libraries that answers depend on; one table.

    python tests/matrix.py [--only lowest] [--keep] [--no-write] [-- PYTEST WORDS]

Each end gets a virtual environment of its own in build/matrix/ (6 GB, removed afterwards unless --keep): "lowest" has
the lower bounds of pyproject.toml's extra "export", "newest" whatever pip takes. The table is printed, and written into
docs/robustness.md between the markers unless words for pytest were given. Exit code 1 if a test failed.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import tomllib

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / "docs" / "robustness.md"
BEGIN, END = "<!-- begin: tests/matrix.py -->", "<!-- end: tests/matrix.py -->"
ENDS = ("lowest", "newest")
SHOWN = ("torch", "torchvision", "onnx", "onnxscript", "onnxruntime-gpu", "onnxruntime", "safetensors", "numpy")
_REQUIREMENT = re.compile(r"(?P<name>[\w-]+)(?:\[.*\])?>=(?P<bound>[\d.]+)")
_SUMMARY = re.compile(r"^(?=.*\b(?:passed|failed|errors?)\b)(?P<counts>[\w ,]+) in [\d.]+s")


def lower_bounds() -> list[str]:
    """Return the extra "export" with `==` for `>=`, as lines of a constraints file.

    A bound such as 2.10 means 2.10.0: that is what `==2.10.*` would not say.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = []
    for requirement in project["optional-dependencies"]["export"]:
        found = _REQUIREMENT.match(requirement)
        if found is None:
            raise SystemExit(f"pyproject.toml: {requirement!r} has no lower bound; expected NAME>=VERSION")
        bound = found["bound"] + ".0" * (2 - found["bound"].count("."))
        lines.append(f"{found['name']}=={bound}")
    return lines


def make_environment(end: str) -> Path:
    """Create build/matrix/END with the project and its tests' needs; return its Python."""
    folder = ROOT / "build" / "matrix" / end
    shutil.rmtree(folder, ignore_errors=True)
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    words = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-e", f"{ROOT}[dev]"]
    if end == "lowest":
        constraints = folder / "constraints.txt"
        constraints.write_text("\n".join(lower_bounds()) + "\n", encoding="utf-8")
        words += ["--constraint", str(constraints)]
    subprocess.run(words, check=True)
    return python


def run_tests(python: Path, words: Sequence[str]) -> tuple[int, str]:
    """Run pytest, passing on what it prints; return its exit code and its counts."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [str(python), "-m", "pytest", "-q", "--numprocesses", "2", "--dist", "loadfile", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT) as child:
        counts = "no summary"
        assert child.stdout is not None
        for line in child.stdout:
            print(line, end="", flush=True)
            if found := _SUMMARY.match(line.strip("= \n")):
                counts = found["counts"]
    return child.returncode, counts


def versions(python: Path) -> str:
    """Return what is installed, of `SHOWN`."""
    script = (
        "import sys; from importlib import metadata\n"
        "there = {d.metadata['Name'].lower(): d.version for d in metadata.distributions()}\n"
        "print(', '.join(f'{name} {there[name]}' for name in sys.argv[1:] if name in there))"
    )
    done = subprocess.run([str(python), "-c", script, *SHOWN], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def main() -> int:
    """Run the ends that were asked for; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--only", choices=ENDS)
    parser.add_argument("--keep", action="store_true", help="leave the environments in build/matrix/")
    parser.add_argument("--no-write", action="store_true", help="leave docs/robustness.md as it is")
    parser.add_argument("words", nargs="*", help="for pytest, such as tests/exporter")
    options = parser.parse_args()
    lines = ["| end | libraries | tests | minutes |", "|---|---|---|---|"]
    failed = False
    for end in (options.only,) if options.only else ENDS:
        python = make_environment(end)
        begin = time.monotonic()
        code, counts = run_tests(python, options.words)
        failed |= code != 0
        lines.append(f"| {end} | {versions(python)} | {counts} | {(time.monotonic() - begin) / 60:.0f} |")
        if not options.keep:
            shutil.rmtree(python.parents[1])
    version = ".".join(str(number) for number in sys.version_info[:3])
    day = datetime.now(timezone.utc).date().isoformat()
    text = "\n".join([*lines, "", f"{day}, {os.cpu_count()} cores, Python {version}."])
    print(f"\n{text}")
    if not (options.no_write or options.words or options.only):
        before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
