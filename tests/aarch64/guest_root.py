"""Make an arm64 root from nothing: Debian 12 with its Python, wheels from PyPI, and this project's own wheel."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from emulator import Emulator

ROOT = Path(__file__).parents[2]
RELEASE, MIRROR = "bookworm", "http://deb.debian.org/debian"
DEBIAN = ("python3", "libstdc++6", "bash", "coreutils", "dash")
PYTHON = "311"
"""Python of Debian 12, as pip writes it."""

NEWEST = ("numpy", "pillow", "rich", "onnxruntime")
"""What a device needs beside this project, newest versions."""

FOR_PYTHON_310 = ("numpy==2.2.6", "pillow==12.3.0", "rich", "onnxruntime==1.23.2")
"""The newest that have wheels for Python 3.10 on aarch64 (JetPack 6). Source: PyPI, 2026-11."""

FOR_TESTS = ("pytest", "scipy", "onnx", "filelock", "jinja2", "matplotlib", "xmlschema")
_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux_2_17_aarch64", "manylinux2014_aarch64")


def make_root(folder: Path) -> Path:
    """Return a Debian root, extracted and not configured: nothing of it has to run for that."""
    root = folder / "root"
    command = ["mmdebstrap", "--variant=extract", "--architectures=arm64", f"--include={','.join(DEBIAN)}"]
    command += ["--mode=root"] if os.geteuid() == 0 else ["--mode=unshare"]
    _checked([*command, RELEASE, str(root), MIRROR])
    (root / "guest").mkdir()
    _compile(root, root / "usr/lib/python3.11")
    return root


def make_wheel(folder: Path) -> Path:
    """Return this project's wheel, built as pip builds it."""
    _checked([*_PIP, "wheel", "--no-deps", "--quiet", "--wheel-dir", str(folder), str(ROOT)])
    return next(folder.glob("*.whl"))


def install(root: Path, site: str, wheel: Path, requirements: Sequence[str]) -> Emulator:
    """Put wheels for the root's Python and this project's into a folder of the root."""
    target = root / site.lstrip("/")
    words = [word for name in _PLATFORMS for word in ("--platform", name)]
    words += ["--python-version", PYTHON, "--implementation", "cp", "--only-binary=:all:", "--target", str(target)]
    _checked([*_PIP, "install", "--quiet", "--no-compile", "--upgrade", *words, *requirements])
    _checked([*_PIP, "install", "--quiet", "--no-compile", "--no-deps", *words, str(wheel)])
    _compile(root, target)
    return Emulator(root, site)


def _compile(root: Path, *folders: Path) -> None:
    """Compile Python files here, where it is fast; of no use, and harmless, under another Python than the root's.

    Not the libraries' own tests, which are as much again. What does not compile is left: templates of libraries.
    """
    words = [sys.executable, "-m", "compileall", "-q", "-x", r"/tests?/", "-s", str(root), "-p", "/"]
    subprocess.run([*words, *(str(folder) for folder in folders)], capture_output=True, check=False)


_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check")


def _checked(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
