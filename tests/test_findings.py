"""findings/: every script can be run as it stands, with packages of fixed versions."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

SCRIPTS = sorted((Path(__file__).parents[1] / "findings").glob("*.sh"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_finding_runs_as_it_stands_on_fixed_versions(script: Path) -> None:
    text = script.read_text(encoding="utf-8")
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert os.access(script, os.X_OK), "chmod +x"
    assert "\nset -euo pipefail\n" in text
    assert re.search(r"[\w.-]==\$?\w|[\w-]@\d", text), "pip install NAME==VERSION, or npm install NAME@VERSION"
