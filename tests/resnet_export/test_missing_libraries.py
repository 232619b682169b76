"""What a plain install has not is named with what to install; nobody is told to report a defect."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from exporter import known_bad
from resnet_export.main import main
from runtimes.argument_kinds import checked_kinds
from runtimes.errors import MissingDependencyError

EXPORT = r'"resnet-export\[export\]"'


@pytest.fixture(scope="module")
def folder(digits_bundle, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    (folder / "b").symlink_to(digits_bundle)
    return folder


def without(folder, modules, code):
    """Run code where these modules are not installed; return exit code and what it wrote to standard error."""
    hidden = f"import sys; sys.modules.update(dict.fromkeys({modules!r}))\n"
    done = subprocess.run([sys.executable, "-c", hidden + code], cwd=folder, capture_output=True, text=True, timeout=60)
    return done.returncode, " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "modules", "told"),
    [
        (["sensitivity", "b", "--calib", "b"], ["onnx"], f"needs onnx, .* pip install {EXPORT}"),
        (["deepstream", "b", "-o", "out"], ["onnx"], f"needs onnx, .* pip install {EXPORT}"),
        (["package", "b", "--layout", "huggingface", "-o", "out"], ["onnx"], f"needs onnx, .* pip install {EXPORT}"),
        (
            ["web", "b", "-o", "out"],
            ["onnxruntime"],
            "needs onnxruntime, .* pip install onnxruntime, or",
        ),
        (["lint", "b"], ["onnx"], f"pip install {EXPORT}"),
        (["verify", "b", "--bisect"], ["onnx"], f"pip install {EXPORT}"),
        (
            ["resnet18", "--fp16", "-o", "out"],
            ["onnx", "onnxruntime"],
            f"needs onnx and onnxruntime, .*{EXPORT}",
        ),
    ],
)
def test_commands(folder, words, modules, told):
    code, error = without(folder, modules, f"from resnet_export.main import main; sys.exit(main({words!r}))")
    assert code == 2, error
    assert re.search(told, error), error
    assert "internal error" not in error
    assert not (folder / "out").exists()


@pytest.mark.parametrize(
    ("code", "modules", "told"),
    [
        ("import resnet_export as rx; rx.sensitivity('b', 'b')", ["onnx"], "this needs onnx"),
        ("import resnet_export as rx; rx.quantize('b/model.onnx', 'b')", ["onnx"], "this needs onnx"),
        ("import resnet_export as rx; rx.export('resnet18', 'out')", ["onnxruntime"], "exporting needs onnxruntime"),
        ("from runtimes import OrtRuntime", ["onnxruntime"], "pip install onnxruntime"),
    ],
)
def test_from_python(folder, code, modules, told):
    _, error = without(folder, modules, code)
    assert "MissingDependencyError: " in error
    assert told in error.rpartition("MissingDependencyError: ")[2]


def test_an_older_python_is_named_before_its_libraries(monkeypatch, capsys, tmp_path):
    """With 3.10 it said to install an ONNX Runtime that there is none of."""
    monkeypatch.setattr(known_bad, "MIN_PYTHON", (99, 1))
    assert main(["resnet18", "--fp16", "-o", str(tmp_path / "out")]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert "exporting needs Python 99.1 or newer, this is 3." in error
    assert "copy the bundle" in error


@checked_kinds
def imports(name: str) -> None:
    """Import a module."""
    __import__(name)


def test_a_module_of_somebody_else_stays_what_it_is():
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        imports("no_such_module")


def test_a_part_that_is_missing_is_its_librarys():
    with pytest.raises(MissingDependencyError, match=f"needs onnx, .*pip install {EXPORT}"):
        imports("onnx.no_such_module")
