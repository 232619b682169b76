"""A pytest plugin for a device: what needs a library that a device does not have is left out, and says which."""

from __future__ import annotations

import ast
from collections.abc import Generator
from pathlib import Path

import pytest

ABSENT = frozenset({"torch", "torchvision", "skimage", "sklearn"})


def pytest_ignore_collect(collection_path: Path) -> bool | None:
    """Leave out a file that imports such a library at its head."""
    if collection_path.suffix != ".py":
        return None
    for node in ast.parse(collection_path.read_bytes()).body:
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if found := ABSENT & {name.partition(".")[0] for name in names}:
            print(f"left out: {collection_path}: needs {min(found)}")
            return True
    return None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """Skip a test whose fixtures import one."""
    try:
        yield
    except BaseException as err:
        _skip_if_absent(err)
        raise


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Skip a test that imports one."""
    try:
        return (yield)
    except BaseException as err:
        _skip_if_absent(err)
        raise


def _skip_if_absent(error: BaseException | None) -> None:
    while error is not None:
        if isinstance(error, ModuleNotFoundError) and (error.name or "").partition(".")[0] in ABSENT:
            pytest.skip(f"a device has no {error.name}")
        error = error.__cause__ or error.__context__
