"""Stand-ins and code against what TensorRT's real bindings offer: 8.6.1, 10.3.0, 10.13.3 and 11.4.0, recorded."""

import ast
import importlib.util
import inspect
import re
from pathlib import Path

import pytest
from standins.cuda_standin import CudaStandin
from standins.real_bindings import CACHE, LEAN_PACKAGES, PACKAGES, BindingsUnavailableError, bindings_folder
from standins.record_surface import load_surface, record, surface
from standins.surface_use import CLASS_OF_NAME, misuses, parameters
from standins.tensorrt_standin import VERSIONS, make_tensorrt

ROOT = Path(__file__).parents[2]
SURFACES = {version: load_surface(version) for version in PACKAGES}

UP_TO_10 = ("8.6", "10.3", "10.13")
CLAIMED = {
    "exporter/engines/dla.py": UP_TO_10,  # it asks check_offered first
}
"""File to the versions it is written for, where these are not all."""


CALLS = re.compile(r"\bTensorRtLibrary\b|\bLoadedEngine\b|\btrt: Any\b")


def files_that_call_tensorrt():
    files = [*ROOT.glob("exporter/engines/*.py"), *ROOT.glob("runtimes/trt/*.py")]
    return sorted(str(file.relative_to(ROOT)) for file in files if CALLS.search(file.read_text()))


def recorded(version):
    if version != "rtx":
        return SURFACES[version]
    return surface(pytest.importorskip("tensorrt_rtx"))


@pytest.mark.parametrize("version", [*PACKAGES, *LEAN_PACKAGES])
def test_record_is_what_the_real_bindings_say(version):
    try:
        folder = bindings_folder(version, CACHE)
    except BindingsUnavailableError as err:
        pytest.skip(f"not recorded anew: {err}")
    assert record(version, folder) == load_surface(version)


# The code


@pytest.mark.parametrize("file", files_that_call_tensorrt())
@pytest.mark.parametrize("version", [*PACKAGES, "rtx"])
def test_code_uses_what_the_version_has(file, version):
    if version not in CLAIMED.get(file, (*PACKAGES, "rtx")):
        pytest.skip("not written for this version")
    assert not list(map(str, misuses((ROOT / file).read_text(), recorded(version))))


GUARD = 'hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")'


def test_a_guard_that_is_missing_is_found():
    source = (ROOT / "exporter/engines/build.py").read_text()
    assert GUARD in source
    found = misuses(source.replace(GUARD, "False"), SURFACES["11.4"])
    assert {"no trt.BuilderFlag.INT8", "no trt.BuilderFlag.FP16"} <= {misuse.what for misuse in found}
    assert not misuses(source.replace(GUARD, "False"), SURFACES["8.6"])


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("trt.IProgressMonitor", "no trt.IProgressMonitor"),
        ("config.progress_monitor = 1", "no config.progress_monitor"),
        ("engine.name = 1", "engine.name cannot be set"),
        ("config.set_timing_cache(1)", "config.set_timing_cache(1) does not fit "),
        ("config.set_timing_cache(1, ignore=False)", "config.set_timing_cache(1, ignore=False) does not fit "),
        ("parser.parse_from_file(path='x')", "parser.parse_from_file(path='x') does not fit "),
        ("trt.Builder()", "trt.Builder() does not fit "),
        ("x = trt.BuilderFlag.FP4 if hasattr(trt.BuilderFlag, 'INT8') else 0", "no trt.BuilderFlag.FP4"),
        ("hasattr(trt.BuilderFlag, 'FP4') or trt.BuilderFlag.FP4", "no trt.BuilderFlag.FP4"),
    ],
)
def test_what_8_6_lacks_is_found(line, what):
    (found,) = misuses(line, SURFACES["8.6"])
    assert found.what.startswith(what)


@pytest.mark.parametrize(
    "source",
    [
        "if hasattr(trt, 'IProgressMonitor'):\n    config.progress_monitor = 1",
        "def f():\n    if not hasattr(trt, 'IProgressMonitor'):\n        return\n    config.progress_monitor = 1",
        "getattr(trt.BuilderFlag, 'FP4', None)",
        "hasattr(trt.BuilderFlag, 'FP4') and trt.BuilderFlag.FP4",
        "config.set_timing_cache(1, ignore_mismatch=False)",
        "context.execute_async_v3(stream_handle=1)",
    ],
)
def test_what_8_6_has_or_a_guard_leaves_out_is_not(source):
    assert not misuses(source, SURFACES["8.6"])


def test_parameters_of_a_signature():
    signature = "(name: str, sizes: tuple[int, int], path: str = None) -> tuple[int, list[str]]"
    assert parameters(signature) == [("name", False), ("sizes", False), ("path", True)]
    assert parameters("() -> None") == []


@pytest.mark.parametrize("version", LEAN_PACKAGES)
@pytest.mark.parametrize(
    "file", ["adapter.py", "execution_lane.py", "layer_times.py", "loaded_engine.py", "tensorrt_library.py"]
)
def test_engines_are_run_with_what_the_lean_libraries_have(file, version):
    assert not list(map(str, misuses((ROOT / "runtimes" / "trt" / file).read_text(), load_surface(version))))


# The stand-in


@pytest.fixture(params=VERSIONS)
def played(request):
    """Return the stand-in's module and the real surface of the same version."""
    return make_tensorrt(request.param, CudaStandin()).module, SURFACES[request.param]


def public(kind):
    return {name: member for name, member in vars(kind).items() if not name.startswith("_")}


def test_enums_are_the_real_ones(played):
    module, real = played
    for name, members in real["enums"].items():
        if hasattr(module, name):
            numbers = {member: int(value) for member, value in getattr(module, name).__members__.items()}
            assert numbers == members, name
    assert {"BuilderFlag", "DataType", "LayerType"} <= vars(module).keys()


def test_module_offers_nothing_that_is_missing(played):
    module, real = played
    offered = {name for name in public(module) if name[0].isupper()}
    assert offered <= {*real["enums"], *real["classes"]}


def test_members_are_real_and_have_the_same_signature(played):
    module, real = played
    for name, members in real["classes"].items():
        if not hasattr(module, name):
            continue
        kind = getattr(module, name)
        for member, what in public(kind).items():
            if member in ("settable", "Severity"):
                continue
            assert member in members, f"{name}.{member} is not in {real['version']}"
            if isinstance(what, property):
                assert isinstance(members[member], str), f"{name}.{member} is a method in {real['version']}"
            else:
                _assert_fits(f"{name}.{member}", what, members[member])
        for member in getattr(kind, "settable", ()):
            assert members.get(member) == "read, write", f"{name}.{member} cannot be set in {real['version']}"


def _assert_fits(where, function, signatures):
    given = [item for item in inspect.signature(function).parameters.values() if item.name != "self"]
    mine = [(item.name, item.default is not inspect.Parameter.empty) for item in given]
    theirs = [parameters(signature) for signature in signatures]
    fitting = [one for one in theirs if one[: len(mine)] == mine and all(default for _, default in one[len(mine) :])]
    assert fitting or not theirs, f"{where}{mine}: expected one of {signatures}"


def test_constructors_take_the_same(played):
    module, real = played
    for name in ("Builder", "Runtime", "OnnxParser"):
        _assert_fits(name, getattr(module, name).__init__, real["classes"][name]["__init__"])


def test_source_of_the_stand_in_is_parsed_too():
    """A stand-in that gained a name by accident would be found: this one is not of any version."""
    module = make_tensorrt("11.4", CudaStandin()).module
    module.ICudaEngine.num_bindings = property(lambda self: 2)
    with pytest.raises(AssertionError, match=r"ICudaEngine.num_bindings is not in 11\.4"):
        test_members_are_real_and_have_the_same_signature((module, SURFACES["11.4"]))


def test_code_that_calls_tensorrt_names_its_objects_as_the_check_knows_them():
    """`misuses` knows an object by its name: so what the library returns is given one of these names."""
    made = {"create_network": "INetworkDefinition", "create_builder_config": "IBuilderConfig"}
    made |= {"create_execution_context": "IExecutionContext", "deserialize_cuda_engine": "ICudaEngine"}
    made |= {"create_optimization_profile": "IOptimizationProfile", "create_timing_cache": "ITimingCache"}
    made |= {"create_engine_inspector": "EngineInspector", "start_runtime": "Runtime", "_start_builder": "Builder"}
    made |= {name: name for name in ("Builder", "Runtime", "OnnxParser", "Refitter", "OnnxParserRefitter")}
    found = set()
    for file in files_that_call_tensorrt():
        for node in ast.walk(ast.parse((ROOT / file).read_text())):
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
                called = node.value.func
                name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", None)
                if name in made:
                    (target,) = node.targets
                    assert CLASS_OF_NAME.get(ast.unparse(target)) == made[name], f"{file}:{node.lineno}"
                    found.add(name)
    assert {"create_network", "create_execution_context", "start_runtime", "_start_builder"} <= found


def test_rtx_is_recorded_live():
    if importlib.util.find_spec("tensorrt_rtx") is None:
        pytest.skip("tensorrt_rtx is not installed")
    assert "FP16" not in recorded("rtx")["enums"]["BuilderFlag"]
