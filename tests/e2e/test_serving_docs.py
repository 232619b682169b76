"""docs/serving.md names options that are there, and files of the repository that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from resnet_export.main import main

TEXT = (Path(__file__).parents[2] / "docs" / "serving.md").read_text(encoding="utf-8")
OF_THE_EXPORT = {"--topk", "--softmax", "--features", "--input", "--int8"}
OF_OTHER_TOOLS = {"--model-control-mode", "--model-repository"}


def options_of(verb: str, capsys) -> set[str]:
    with pytest.raises(SystemExit):
        main([verb, "--help"])
    return set(re.findall(r"(--[a-z][a-z0-9-]+)", capsys.readouterr().out))


def test_every_option_exists(capsys):
    named = set(re.findall(r"(--[a-z][a-z0-9-]+)", TEXT))
    known = set().union(*(options_of(verb, capsys) for verb in ("triton", "deepstream", "classify")))
    assert named - known - OF_THE_EXPORT - OF_OTHER_TOOLS == set()
    assert len(named & known) > 15
