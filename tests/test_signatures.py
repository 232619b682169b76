"""Nothing takes more than five positional arguments: what follows is named where it is called."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("runtimes", "exporter", "calibration", "resnet_export")
MOST = 5

TAKEN_OVER = {"_mean_slope", "_average"}
"""Take what torch.nn.functional's rrelu and avg_pool2d take, in their order."""


@pytest.mark.parametrize("package", PACKAGES)
def test_at_most_five_positional_arguments(package):
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and num_positional(node) > MOST
        if node.name not in TAKEN_OVER
    ]
    assert not found


def num_positional(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return how many arguments may be given by their place, without `self` and `cls`."""
    names = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    return len(names) - (names[:1] in (["self"], ["cls"]))


def test_a_sixth_is_counted():
    several, method = ast.parse("def f(a, b, /, c, d, e, f, *, g): ...\ndef m(self, a, b, c, d, e): ...").body
    assert (num_positional(several), num_positional(method)) == (6, 5)
