"""The lists that keep the tests fast name what there is."""

import ast
from pathlib import Path

import pytest
from conftest import listed

TESTS = Path(__file__).parent


def test_files_that_run_first_are_there():
    missing = [name for name in listed("slowest_first.txt") if not (TESTS / name).is_file()]
    assert missing == []


@pytest.mark.parametrize("file", sorted({name.partition("::")[0] for name in listed("slow_tests.txt")}))
def test_tests_for_every_day_leave_out_what_there_is(file):
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    left_out = {name.split("::")[-1] for name in listed("slow_tests.txt") if name.startswith(f"{file}::")}
    assert left_out - there == set()
