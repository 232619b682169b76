"""Packages of every layout, read back by the newest of the layouts' own libraries; the table of docs/packages.md.

    python benchmarks/package_readers.py [--write]

Makes a Python environment that sees the packages of this one, installs the newest of each set of libraries into it
(half a GB, removed at the end) and runs tests/exporter/packages/test_layouts.py there, where nothing is skipped for
want of a library. optimum-onnx comes in a set of its own, because it wants an older transformers than the newest.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import sysconfig
import tempfile
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
TESTS = ROOT / "tests" / "exporter" / "packages" / "test_layouts.py"
DOCUMENT = ROOT / "docs" / "packages.md"
BEGIN, END = "<!-- benchmarks/package_readers.py begins -->", "<!-- benchmarks/package_readers.py ends -->"

SETS = (("transformers>=5", "onnxruntime>=1.32", "mlflow"), ("optimum-onnx", "onnxruntime>=1.32"))
SHOWN = ("transformers", "optimum-onnx", "onnxruntime", "mlflow", "huggingface_hub")


def main() -> int:
    """Print the table; with --write keep it. Exit code 1 if a test failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="put the table into docs/packages.md")
    options = parser.parse_args()
    found = [read_back(requirements) for requirements in SETS]
    lines = ["| libraries | tests passed | failed | skipped |", "|---|---|---|---|", *(line for line, _ in found)]
    today = datetime.now(timezone.utc).date()
    text = "\n".join([*lines, "", f"{today}, Python {sys.version.split()[0]}, torch {metadata.version('torch')}, CPU."])
    print(text)
    if options.write:
        write_between(text)
    return 0 if all(passed for _, passed in found) else 1


def read_back(requirements: tuple[str, ...]) -> tuple[str, bool]:
    """Return the table's line for one set of libraries, and whether every test passed."""
    with tempfile.TemporaryDirectory() as folder:
        python = environment(Path(folder) / "env", requirements)
        report = Path(folder) / "report.xml"
        words = [str(python), "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", str(TESTS)]
        done = subprocess.run(words, cwd=ROOT, check=False)
        counts = {"failures": 0, "errors": 0, "skipped": 0, "tests": 0}
        for suite in ElementTree.parse(report).getroot().iter("testsuite"):
            counts = {name: number + int(suite.get(name, 0)) for name, number in counts.items()}
        failed = counts["failures"] + counts["errors"]
        passed = counts["tests"] - failed - counts["skipped"]
        return (
            f"| {versions(python, requirements)} | {passed} | {failed} | {counts['skipped']} |",
            done.returncode == 0,
        )


def environment(folder: Path, requirements: tuple[str, ...]) -> Path:
    """Make a Python environment with the newest of the libraries that sees this one's packages; return its Python."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "seen.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    python = folder / "bin" / "python"
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--upgrade"]
    subprocess.run([*command, *requirements], check=True)
    return python


def versions(python: Path, requirements: tuple[str, ...]) -> str:
    """Return the versions of what was installed, and of what came with it."""
    asked = {name.partition(">")[0] for name in requirements} | {"transformers"}
    script = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    names = [name for name in SHOWN if name in asked]
    told = subprocess.run(
        [str(python), "-c", script, *names], capture_output=True, text=True, check=True
    ).stdout.split()
    return ", ".join(f"{name} {version}" for name, version in zip(names, told, strict=True))


def write_between(text: str) -> None:
    """Put the text between the markers."""
    content = DOCUMENT.read_text(encoding="utf-8")
    before, begin, rest = content.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{DOCUMENT} lacks {BEGIN} or {END}; nothing was written")
    DOCUMENT.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
