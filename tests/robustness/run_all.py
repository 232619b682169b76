"""Every long form in turn; one table, printed and written into docs/robustness.md between the markers.

    python tests/robustness/run_all.py [--short] [--no-write]

About half an hour on two cores. Exit code 1 if anything failed; the table says what.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
DOCUMENT = ROOT / "docs" / "robustness.md"
BEGIN, END = "<!-- begin: tests/robustness/run_all.py -->", "<!-- end -->"

LONG: tuple[tuple[str, ...], ...] = (
    ("hostile_files.py", "--count", "2000"),
    ("kill_anytime.py", "--job", "120", "--build", "80"),
    ("two_at_once.py", "--rounds", "20"),
    ("bad_disks.py",),
    ("hostile_images.py", "--many", "100000"),
    ("hostile_numbers.py",),
    ("soak.py", "--inferences", "200000", "--threads", "8", "--cycles", "1000"),
    ("random_networks_long.py", "--count", "40"),
)
SHORT: tuple[tuple[str, ...], ...] = (
    ("hostile_files.py", "--count", "30"),
    ("kill_anytime.py", "--job", "4", "--build", "4"),
    ("two_at_once.py", "--rounds", "2"),
    ("bad_disks.py",),
    ("hostile_images.py", "--many", "2000"),
    ("hostile_numbers.py", "--only", "dead ReLU,weights times 1e30"),
    ("soak.py", "--inferences", "44000", "--threads", "8", "--cycles", "330"),
    ("random_networks_long.py", "--count", "3"),
)
RESULT = re.compile(
    r"(?P<what>\S[^:]*): (?P<count>\d+)(?: (?P<unit>[a-z ]+))?, (?P<bad>\d+) failures, (?P<s>\d+) s"
    r"(?:: (?P<detail>.*))?"
)
"""The one line that every check of every script prints."""


@dataclass(frozen=True, slots=True)
class Row:
    """One check: what, how many of it, how many failed, how long it took, and what else it told."""

    what: str
    count: str
    failures: int
    seconds: int
    detail: str


def run_script(words: Sequence[str]) -> list[Row]:
    """Run one script, passing on what it prints; return its rows, one that failed where it printed none."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    begin = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, str(HERE / words[0]), *words[1:]], stdout=subprocess.PIPE, text=True, env=environment, cwd=ROOT
    )
    rows = []
    assert child.stdout is not None
    for line in child.stdout:
        print(line, end="", flush=True)
        if found := RESULT.fullmatch(line.strip()):
            count = f"{int(found['count']):,} {found['unit'] or ''}".strip()
            rows.append(Row(found["what"], count, int(found["bad"]), int(found["s"]), found["detail"] or ""))
    code = child.wait()
    if not rows or (code and not any(row.failures for row in rows)):
        rows.append(Row(words[0], "0", 1, round(time.monotonic() - begin), f"ended with exit code {code}"))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    lines = ["| what | how many | failures | seconds | outcomes |", "|---|---|---|---|---|"]
    lines += [f"| {row.what} | {row.count} | {row.failures} | {row.seconds} | {row.detail} |" for row in rows]
    return "\n".join(lines)


def conditions() -> str:
    """Return where and when: a table without that says nothing."""
    names = ("torch", "onnx", "onnxruntime-gpu", "onnxruntime", "tensorrt_rtx", "numpy", "pillow", "safetensors")
    found = []
    for name in names:
        try:
            found.append(f"{name} {metadata.version(name)}")
        except metadata.PackageNotFoundError:
            continue
    today = datetime.now(timezone.utc).date().isoformat()
    user = "as root" if os.geteuid() == 0 else "not as root"
    return (
        f"{today}, {os.cpu_count()} cores, {platform.machine()}, {platform.system()}, "
        f"Python {platform.python_version()}, {', '.join(found)}; {user}."
    )


def main() -> int:
    """Run all; print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--short", action="store_true", help="a few minutes, to see that the scripts run")
    parser.add_argument("--no-write", action="store_true", help="leave docs/robustness.md as it is")
    options = parser.parse_args()
    begin = time.monotonic()
    rows = [row for words in (SHORT if options.short else LONG) for row in run_script(words)]
    failures = sum(row.failures for row in rows)
    minutes = (time.monotonic() - begin) / 60
    text = f"{table(rows)}\n\n{failures} failures in {minutes:.0f} minutes. {conditions()}"
    print(f"\n{text}")
    if not options.no_write and not options.short:
        before, _, rest = DOCUMENT.read_text(encoding="utf-8").partition(BEGIN)
        _, _, after = rest.partition(END)
        DOCUMENT.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
