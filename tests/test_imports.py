"""The house kept true: who imports whom (tests/rooms.py draws it), and what comes with a bare import."""

import importlib
import subprocess
import sys

import pytest
import rooms
from rooms import MODULES, ORDER, ROOT

HEAVY = ("torch", "torchvision", "onnx", "onnxruntime", "onnxscript", "tensorrt", "tensorrt_rtx", "safetensors", "timm")


def test_every_package_is_looked_at():
    assert {name for name in MODULES if "." not in name} == set(ORDER)
    assert len(MODULES) > 40
    assert "exporter.graph.onnx_graph" in rooms.file_arrows()["calibration.placement.for_tensorrt"]


def test_each_package_imports_only_what_stands_before_it():
    wrong = [
        f"{name} imports {target}"
        for name, targets in rooms.file_arrows().items()
        for target in targets
        if ORDER.index(target.split(".")[0]) > ORDER.index(name.split(".")[0])
    ]
    assert not wrong


def test_no_circle_of_files():
    assert not rooms.find_circle(rooms.file_arrows())


def test_no_circle_of_folders():
    assert not rooms.find_circle(rooms.room_arrows())


def test_no_folder_is_crowded():
    assert {room: count for room, count in rooms.module_counts().items() if count > rooms.MAX_MODULES} == {}


def test_no_module_hides_a_library():
    assert not {module.rpartition(".")[2] for module in MODULES} & set(HEAVY)


# Bare imports


def run_python(script: str) -> str:
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize(
    "names",
    [
        "exporter, calibration, runtimes, resnet_export",
        "resnet_export.main",
        "exporter.engines.build",
        "exporter.target",
    ],
)
def test_bare_import_loads_no_framework(names):
    script = f"import sys, {names}; print([name for name in {HEAVY!r} if name in sys.modules])"
    assert run_python(script) == "[]"


def test_help_needs_no_framework():
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in HEAVY)
    script = (
        f"import sys; {blocked}\nfrom resnet_export.main import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as done:\n    sys.exit(done.code)"
    )
    assert "usage" in run_python(script).lower()


def test_a_device_needs_numpy_and_pillow_only():
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in HEAVY)
    run_python(
        f"import sys; {blocked}\nimport runtimes, runtimes.bundle.manifest, runtimes.inference.load\n"
        "import runtimes.preprocessing.image_folder, runtimes.preprocessing.class_folders"
    )


# The front door

VERBS = {
    "exporter": ["ExportConfig", "ExportedModel", "build_engine", "export_resnet", "float16_from_float32"],
    "calibration": ["CalibrationTable", "Entropy", "Max", "MeanSquaredError", "Percentile", "calibrate", "insert_qdq"],
    "runtimes": ["OrtRuntime", "TorchRuntime", "load", "compare", "Preprocessing", "preprocess", "read_image"],
}


@pytest.mark.parametrize("package", VERBS)
def test_verbs_are_callable_whatever_was_imported(package):
    """A module that is imported takes its name in its package: none may have the name of a verb."""
    found = importlib.import_module(package)
    assert all(callable(getattr(found, name)) for name in VERBS[package])
    assert all(hasattr(found, name) for name in found.__all__)
    assert not {f"{package}.{name}" for name in found.__all__} & set(MODULES)


@pytest.mark.parametrize("package", VERBS)
def test_unknown_name_is_an_attribute_error(package):
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'no_such_verb'"):
        _ = __import__(package).no_such_verb


@pytest.mark.parametrize("package", VERBS)
def test_verbs_are_listed(package):
    assert set(VERBS[package]) <= set(__import__(package).__all__)


# The command


def test_verbs_are_all_in_help_and_have_what_the_command_calls():
    from resnet_export.main import VERBS, command_parser

    listed = command_parser().format_help()
    for name, verb in VERBS.items():
        assert f"    {name}" in listed
        module = importlib.import_module(verb.module)
        assert callable(module.add_arguments)
        assert callable(module.run)
