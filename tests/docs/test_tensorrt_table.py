"""The table of what was seen of TensorRT: every mark has a test behind it, the versions are those that tests run."""

import re
from pathlib import Path

from standins.real_bindings import LEAN_PACKAGES, PACKAGES

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "tensorrt.md").read_text(encoding="utf-8")


def test_every_file_that_the_page_names_is_there():
    named = set(re.findall(r"`((?:tests|benchmarks)/[\w/]+\.(?:py|c))`", PAGE))
    assert len(named) >= 8
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_versions_are_the_recorded_ones():
    for requirement in {*PACKAGES.values(), *LEAN_PACKAGES.values()}:
        version = requirement.partition("==")[2].removesuffix(".post1")
        assert re.search(rf"^\| [^|]*\b{re.escape(version)} \|", PAGE, re.MULTILINE), version


def test_nothing_is_called_executed_without_a_report():
    """The day a GPU runs `benchmarks/gpu.py`, its report is put beside the page, and this test goes."""
    rows = [line.split("|") for line in PAGE.splitlines() if re.match(r"\| (TensorRT|lean|ONNX Runtime|DLA)", line)]
    assert len(rows) == 9
    assert {row[2].strip() for row in rows} == {"no"}
