"""Engines beside a bundle: built, reused, rebuilt for a reason. TensorRT-RTX builds here without a GPU."""

import dataclasses
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import export_small

import exporter.engines.bundle_engine
from exporter.engines.build_options import BuildOptions
from exporter.engines.bundle_engine import engine_from_bundle
from exporter.engines.engine_evidence import layers_path
from exporter.errors import EngineBuildError
from resnet_export.main import main
from runtimes.bundle.manifest import BatchRange, check_files, file_entry, load_manifest
from runtimes.errors import BundleError, MissingDependencyError
from runtimes.trt.engine_layers import layers_from_inspector
from runtimes.trt.engine_sidecar import EngineSidecar, load_sidecar, sidecar_path
from runtimes.trt.int8_coverage import int8_coverage

pytestmark = [
    pytest.mark.tensorrt,
    pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="tensorrt_rtx is not installed"),
]


@pytest.fixture(scope="module")
def shared_bundle(small_weights, digits_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("engines") / "digits-int8"
    words = ("--int8", "--fp16", "--effort", 0, "--num-calib", 64, "--quiet", "--engine", "--rtx")
    assert export_small(small_weights, digits_folder, output, *words) == 0
    return output


@pytest.fixture
def bundle(shared_bundle, tmp_path):
    """A copy that a test may spoil."""
    import shutil

    return shutil.copytree(shared_bundle, tmp_path / "bundle")


def test_the_main_command_leaves_engine_and_sidecar(shared_bundle):
    engine = shared_bundle / "model.int8.fp16.rtx.engine"
    sidecar = load_sidecar(engine)
    assert (sidecar.engine_sha256, sidecar.engine_size_bytes) == dataclasses.astuple(file_entry(engine))
    assert sidecar.facts.onnx_sha256 == load_manifest(shared_bundle).files["model.int8.fp16.onnx"].sha256
    assert sidecar.facts.flavor == "rtx"
    assert sidecar.facts.precision == "int8-fp16"
    assert sidecar.facts.batch == BatchRange(1, 8, 32)
    assert sidecar.facts.gpu is None, "TensorRT-RTX engines are not bound to the GPU that was at hand"
    coverage = int8_coverage(layers_from_inspector(layers_path(engine).read_text()))
    assert coverage.count() == {"INT8": 10}, "--engine --rtx counts the layers too"
    check_files(shared_bundle, load_manifest(shared_bundle))  # the bundle itself is unchanged


def test_the_plan_is_plain(shared_bundle):
    content = (shared_bundle / "model.int8.fp16.rtx.engine").read_bytes()
    assert not content.startswith(b"{")
    assert len(content) == load_sidecar(shared_bundle / "model.int8.fp16.rtx.engine").engine_size_bytes


def test_a_second_build_reuses(bundle):
    engine = bundle / "model.int8.fp16.rtx.engine"
    before = engine.stat().st_mtime_ns
    outcome = engine_from_bundle(bundle, precision="int8-fp16", flavor="rtx")
    assert outcome.reused
    assert engine.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (BuildOptions(batch=BatchRange(1, 1, 1)), "batch"),
        (BuildOptions(workspace_mib=64), "flags"),
        (BuildOptions(compute_capabilities=("8.6",)), "flags"),
        (BuildOptions(opt_level=1), "flags"),
    ],
)
def test_other_options_rebuild_and_say_why(bundle, options, named):
    outcome = engine_from_bundle(bundle, precision="int8-fp16", flavor="rtx", options=options)
    assert not outcome.reused
    assert named in outcome.reason
    assert engine_from_bundle(bundle, precision="int8-fp16", flavor="rtx", options=options).reused


def test_a_changed_engine_is_built_again(bundle):
    engine = bundle / "model.int8.fp16.rtx.engine"
    engine.write_bytes(engine.read_bytes()[:-1])
    outcome = engine_from_bundle(bundle, precision="int8-fp16", flavor="rtx")
    assert not outcome.reused
    assert "changed" in outcome.reason


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema_version": 99}'])
def test_an_unreadable_sidecar_rebuilds(bundle, content):
    sidecar_path(bundle / "model.int8.fp16.rtx.engine").write_text(content)
    assert "sidecar" in engine_from_bundle(bundle, precision="int8-fp16", flavor="rtx").reason


def test_another_version_rebuilds(bundle):
    engine = bundle / "model.int8.fp16.rtx.engine"
    content = json.loads(sidecar_path(engine).read_text())
    content["facts"]["tensorrt_version"] = "1.0"
    sidecar_path(engine).write_text(json.dumps(content))
    outcome = engine_from_bundle(bundle, precision="int8-fp16", flavor="rtx")
    assert "tensorrt_version: 1.0, not " in outcome.reason


def test_the_build_verb_tells_what_it_did(bundle, capsys):
    assert main(["build", str(bundle), "--rtx", "--fp16"]) == 0
    assert "engine built" in capsys.readouterr().err
    assert main(["build", str(bundle), "--rtx", "--fp16", "--json"]) == 0
    captured = capsys.readouterr()
    assert "engine reused" in captured.err
    report = json.loads(captured.out)
    assert report["reused"] is True
    assert report["engine"].endswith("model.fp16.rtx.engine")
    assert EngineSidecar.from_json(report["sidecar"]).facts.precision == "fp16"


def test_an_output_file_elsewhere(bundle, tmp_path):
    assert main(["build", str(bundle), "--rtx", "--fp32", "-o", str(tmp_path / "x.plan"), "--quiet"]) == 0
    assert load_sidecar(tmp_path / "x.plan").onnx_file == "model.onnx"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere"], "is not a bundle"),
        (["{bundle}", "--int8"], "tensorrt is needed"),
        (
            ["{bundle}", "--rtx", "--hardware-compat", "ampere-plus", "--compute-capability", "8.7"],
            "8.7 is not offered",
        ),
        (["{bundle}", "--rtx", "-o", "{bundle}/no/such/folder/x"], "cannot be written"),
    ],
)
def test_refusals(bundle, capsys, words, message, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert main(["build", *(word.format(bundle=bundle) for word in words)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    "words", [["--opt-level", "9"], ["--workspace", "0"], ["--batch", "3,2,1"], ["--compute-capability", "8.6"]]
)
def test_wrong_options(bundle, words):
    assert main(["build", str(bundle), *words]) == 2


def test_a_changed_bundle_is_refused_before_anything_is_built(bundle):
    with (bundle / "model.int8.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(BundleError, match=r"model\.int8\.onnx: changed"):
        engine_from_bundle(bundle, precision="int8-fp16", flavor="rtx")


def test_a_precision_that_the_bundle_lacks(small_weights, digits_folder, tmp_path):
    output = tmp_path / "fp32"
    assert export_small(small_weights, digits_folder, output, "--quiet") == 0
    with pytest.raises(BundleError, match=r"no int8-fp16 model, it has fp32; export with --int8 --fp16"):
        engine_from_bundle(output, precision="int8-fp16", flavor="rtx")


def test_a_failed_build_leaves_the_old_engine(bundle, monkeypatch):
    engine = bundle / "model.int8.fp16.rtx.engine"
    before = engine.read_bytes()

    def fail(*_, **__):
        raise EngineBuildError("no")

    monkeypatch.setattr(exporter.engines.bundle_engine, "build_engine", fail)
    with pytest.raises(EngineBuildError):
        engine_from_bundle(bundle, precision="int8-fp16", flavor="rtx", options=BuildOptions(opt_level=0))
    assert engine.read_bytes() == before
    assert load_sidecar(engine)


def test_progress_is_heard(bundle):
    heard = []
    options = BuildOptions(opt_level=2)
    engine_from_bundle(
        bundle, precision="fp32", flavor="rtx", options=options, progress=lambda *step: heard.append(step)
    )
    assert heard
    assert all(0 <= done <= total for _, done, total in heard)


def test_missing_library_names_the_extra(bundle, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(MissingDependencyError, match=r"resnet-export\[tensorrt\]"):
        engine_from_bundle(bundle, precision="int8-fp16")


def test_building_imports_neither_torch_nor_onnx(bundle):
    code = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'onnx', 'onnxruntime', 'PIL'): sys.modules[name] = None\n"
        "from resnet_export.main import main\n"
        f"sys.exit(main(['build', {str(bundle)!r}, '--rtx', '--int8', '--opt-level', '1']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "engine built" in result.stderr


@pytest.mark.parametrize(
    ("words", "file"),
    [
        ([], "model.int8.fp16.onnx"),
        (["--int8", "--fp16"], "model.int8.fp16.onnx"),
        (["--int8"], "model.int8.onnx"),
        (["--fp16"], "model.fp16.onnx"),
        (["--fp32"], "model.onnx"),
    ],
)
def test_the_precision_words_choose_the_file(bundle, words, file, monkeypatch):
    seen = []
    monkeypatch.setattr(
        exporter.engines.bundle_engine, "build_engine", lambda model, **_: seen.append(model.name) or b"plan"
    )
    assert main(["build", str(bundle), "--rtx", *words, "-o", str(bundle / "out.engine")]) == 0
    assert seen == [file]


def test_fp32_goes_with_no_other_precision(bundle, capsys):
    assert main(["build", str(bundle), "--rtx", "--fp32", "--int8"]) == 2
    assert "--fp32 goes with neither" in capsys.readouterr().err


# Full disks, killed builds


def test_a_full_disk_leaves_the_old_engine_usable(bundle, monkeypatch):
    """The sidecar used to be removed first, so that the old engine could no longer be opened."""
    engine = bundle / "model.int8.fp16.rtx.engine"
    before = {path.name: path.read_bytes() for path in bundle.iterdir()}

    def full(files):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exporter.engines.bundle_engine, "write_whole", full)
    monkeypatch.setattr(exporter.engines.bundle_engine, "build_engine", lambda *_, **__: b"new plan")
    with pytest.raises(EngineBuildError, match="No space left on device; the old engine, if any, is unchanged"):
        engine_from_bundle(bundle, precision="int8-fp16", flavor="rtx", options=BuildOptions(workspace_mib=64))
    assert {path.name: path.read_bytes() for path in bundle.iterdir()} == before
    assert load_sidecar(engine).engine_sha256 == file_entry(engine).sha256


def test_what_a_killed_build_left_is_removed_by_the_next(bundle):
    (bundle / ".resnet-export-model.int8.fp16.rtx.engine-abcdefgh").write_bytes(b"half")
    assert engine_from_bundle(bundle, precision="int8-fp16", flavor="rtx").reused
    assert not [path for path in bundle.iterdir() if path.name.startswith(".")]


def test_a_bundle_without_any_model_is_told(tmp_path, bundle, capsys):
    content = json.loads((bundle / "manifest.json").read_text())
    content["files"] = {name: entry for name, entry in content["files"].items() if not name.startswith("model")}
    (bundle / "manifest.json").write_text(json.dumps(content))
    assert main(["build", str(bundle), "--rtx"]) == 2
    assert "holds no model.onnx" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("facts", "flavor"), "evil"),
        (("facts", "precision"), 1),
        (("facts", "tensorrt_version"), None),
        (("facts", "gpu"), 5),
        (("facts", "batch"), {"min": 1, "opt": 1, "max": 10**400}),
        (("engine_size_bytes",), "12"),
        (("engine_sha256",), "../"),
        (("build_seconds",), 10**400),
        (("tool",), {"version": 1}),
        (("onnx_file",), None),
    ],
)
def test_a_sidecar_of_a_wrong_kind_is_refused_when_read(shared_bundle, tmp_path, place, value):
    """Found by mutated files: the precision was no text, the flavor no library, and Python's errors came through."""
    engine = tmp_path / "x.engine"
    content = json.loads(sidecar_path(shared_bundle / "model.int8.fp16.rtx.engine").read_text())
    holder = content if len(place) == 1 else content[place[0]]
    holder[place[-1]] = value
    sidecar_path(engine).write_text(json.dumps(content))
    with pytest.raises(BundleError, match="cannot be read"):
        load_sidecar(engine)


def test_a_place_that_cannot_be_written_is_told_before_the_build(bundle, monkeypatch):
    monkeypatch.setattr(exporter.engines.bundle_engine, "build_engine", lambda *_, **__: pytest.fail("it was built"))
    with pytest.raises(EngineBuildError, match=r"/proc/x\.engine cannot be written: .*; choose another -o"):
        engine_from_bundle(bundle, precision="int8", flavor="rtx", output=Path("/proc/x.engine"))
