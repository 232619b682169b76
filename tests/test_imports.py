"""The import picture of the style guide, kept true: who imports whom, and what comes with a bare import."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("exporter", "calibration", "runtimes")
HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "tensorrt", "tensorrt_rtx", "safetensors", "timm")

ALLOWED = {
    "runtimes": {"runtimes"},
    "exporter": {"exporter", "runtimes"},
    "exporter.cli": {"exporter", "calibration", "runtimes"},
    "calibration": {"calibration", "exporter.graph", "exporter.errors", "runtimes"},
}
"""Package to the prefixes of what its modules may import, at module level, under TYPE_CHECKING or in a function."""


def modules() -> dict[str, Path]:
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = modules()


def imports_of(path: Path, *, module_level: bool) -> Iterator[str]:
    """Yield the modules of this project that a file imports; a name that is itself a module counts as that module."""
    yield from _imports(ast.parse(path.read_text(encoding="utf-8")), module_level=module_level)


def _imports(node: ast.AST, *, module_level: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names if alias.name.split(".")[0] in PACKAGES)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative import"
            if child.module and child.module.split(".")[0] in PACKAGES:
                for alias in child.names:
                    inner = f"{child.module}.{alias.name}"
                    yield inner if inner in MODULES else child.module
        elif module_level and (isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) or _is_type_checking(child)):
            continue
        else:
            yield from _imports(child, module_level=module_level)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def is_within(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def test_every_package_is_looked_at():
    assert {name for name in MODULES if "." not in name} == set(PACKAGES)
    assert len(MODULES) > 40
    assert "exporter.graph" in set(imports_of(MODULES["calibration.placement"], module_level=True))


@pytest.mark.parametrize("module", MODULES)
def test_imports_between_packages(module):
    package = "exporter.cli" if is_within(module, "exporter.cli") else module.split(".")[0]
    strangers = [
        name
        for name in imports_of(MODULES[module], module_level=False)
        if not any(is_within(name, prefix) for prefix in ALLOWED[package])
    ]
    if package == "exporter":
        strangers += [
            name for name in imports_of(MODULES[module], module_level=False) if is_within(name, "exporter.cli")
        ]
    assert not strangers


def test_no_import_cycle():
    """Importing a module imports its packages too, so these are edges as well."""
    edges = {module: set(imports_of(path, module_level=True)) for module, path in MODULES.items()}
    for targets in edges.values():
        for name in list(targets):
            targets.update(name.rsplit(".", count)[0] for count in range(1, name.count(".") + 1))
    done: set[str] = set()

    def visit(module: str, way: tuple[str, ...]) -> None:
        assert module not in way, f"import cycle: {' -> '.join((*way[way.index(module) :], module))}"
        if module not in done:
            for target in sorted(edges[module]):
                if not is_within(module, target):  # its own package is imported before it, not by it
                    visit(target, (*way, module))
            done.add(module)

    for module in edges:
        visit(module, ())


@pytest.mark.parametrize("module", MODULES)
def test_no_module_hides_a_library(module):
    assert module.rpartition(".")[2] not in HEAVY


# Bare imports


def run_python(script: str) -> str:
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(
    "names", ["exporter, calibration, runtimes", "exporter.cli", "exporter.engine", "exporter.target"]
)
def test_bare_import_loads_no_framework(names):
    script = f"import sys, {names}; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run_python(script) == "[]"


def test_help_needs_no_framework():
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in HEAVY)
    script = (
        f"import sys; {blocked}\nfrom exporter.cli import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as done:\n    sys.exit(done.code)"
    )
    assert "usage" in run_python(script).lower()


def test_a_device_needs_numpy_and_pillow_only():
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in HEAVY)
    run_python(
        f"import sys; {blocked}\nimport runtimes, runtimes.manifest, runtimes.image_folder, runtimes.match_labels"
    )


# The front door

VERBS = {
    "exporter": ["ExportConfig", "ExportedModel", "build_engine", "export_resnet", "float16_from_float32"],
    "calibration": ["CalibrationTable", "Entropy", "Max", "MeanSquaredError", "Percentile", "calibrate", "insert_qdq"],
    "runtimes": ["OrtRuntime", "TorchRuntime", "load", "compare", "Preprocessing", "preprocess", "read_image"],
}


@pytest.mark.parametrize("package", PACKAGES)
def test_verbs_are_callable_before_and_after_every_module_was_imported(package):
    everything = [name for name in MODULES if is_within(name, package) and not is_within(name, "exporter.cli")]
    script = f"""
import importlib, {package}
def check():
    for name in {VERBS[package]!r}:
        assert callable(getattr({package}, name)), name
    for name in {package}.__all__:
        assert hasattr({package}, name), name
check()
for name in {everything!r}:
    importlib.import_module(name)
check()
from {package} import {", ".join(VERBS[package])}
assert all(callable(verb) for verb in ({", ".join(VERBS[package])}))
"""
    run_python(script)


@pytest.mark.parametrize("package", PACKAGES)
def test_unknown_name_is_an_attribute_error(package):
    script = f"""
import {package}
try:
    {package}.no_such_verb
except AttributeError as err:
    print(err)
"""
    assert run_python(script) == f"module '{package}' has no attribute 'no_such_verb'"


@pytest.mark.parametrize("package", PACKAGES)
def test_verbs_are_listed(package):
    assert set(VERBS[package]) <= set(__import__(package).__all__)
