"""What keeps the tests fast: lists that name what there is, and sessions that start no threads."""

import ast
from pathlib import Path

import onnxruntime
import pytest
from conftest import listed

from runtimes.ort.adapter import OrtRuntime

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


@pytest.mark.parametrize("open_session", [onnxruntime.InferenceSession, OrtRuntime])
def test_sessions_run_on_one_thread_where_no_number_is_asked_for(open_session):
    """ONNX Runtime's waiting threads spin, and take the processor from the other worker of the run."""
    model = TESTS / "data" / "bundle-schema-1" / "model.onnx"
    session = open_session(str(model))
    options = getattr(session, "_session", session).get_session_options()
    assert options.intra_op_num_threads == 1
