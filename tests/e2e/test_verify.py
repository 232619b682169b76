"""`resnet-export verify` on the demo's network: the CI story of examples/ci, and every exit code."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from cli_runs import DIGITS_WEIGHTS

from exporter.bundle.write_folder import file_entries, write_json, write_manifest
from resnet_export.main import main
from resnet_export.verify_job.attribution import attribution
from resnet_export.verify_job.compare import compare, golden_set, open_all
from resnet_export.verify_job.sides import OpenCandidate
from resnet_export.verify_job.subject import read_subject
from runtimes.bundle.manifest import load_manifest

ROOT = Path(__file__).parents[2]
AGAINST = ("--against", "cifar_resnet20", "--weights", DIGITS_WEIGHTS)


def load_story():
    spec = importlib.util.spec_from_file_location("ci_story", ROOT / "examples" / "ci" / "story.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["ci_story"] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def told(few_digits, tmp_path_factory):
    """The story, told once: (folder with its bundles and reports, breaks that were not caught).

    In short: the two breaks that export once more have tests of their own below, where the export is spared, and what
    refinement adds to the healthy file is asserted of the demo's own bundle in test_main_job.
    """
    folder = tmp_path_factory.mktemp("story")
    story = load_story()
    story.BREAKS = tuple(
        one for one in story.BREAKS if one.make not in (story.wrong_normalization, story.noise_calibration)
    )
    assert len(story.BREAKS) == 3
    return folder, story.story(folder, few_digits, "--quiet", "--effort", 0)


@pytest.fixture(scope="module")
def bundle(told):
    return told[0] / "healthy"


def verify(*words):
    return main(["verify", *map(str, words), "--quiet"])


def refused(capsys, *words):
    assert verify(*words) == 2
    return capsys.readouterr().err


def report_of(tmp_path, *words):
    path = tmp_path / "report.json"
    code = verify(*words, "--json", path)
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["exit_code"] == code
    return content


def gates_of(content, file):
    return {
        (gate["name"], gate["on"]): gate
        for entry in content["files"]
        if entry["name"] == file
        for gate in entry["gates"]
    }


def changed(bundle, folder, **changes):
    """Return a copy of the bundle whose manifest says otherwise."""
    shutil.copytree(bundle, folder)
    write_manifest(folder, replace(load_manifest(folder), files=file_entries(folder), **changes))
    return folder


def test_every_break_of_the_story_is_caught_and_named(told):
    folder, not_caught = told
    assert not_caught == []
    reports = [json.loads((folder / f"break{number}.json").read_text()) for number in range(1, 4)]
    assert [report["verdict"] for report in reports] == ["fail"] * 3
    assert json.loads((folder / "healthy.json").read_text())["verdict"] == "pass"


def test_the_story_fails_where_a_break_is_not_caught_or_not_named(monkeypatch, tmp_path, capsys):
    story = load_story()
    monkeypatch.setattr(story, "run", lambda *words: 0)
    breaks = tuple(replace(one, make=lambda healthy, broken, images: None) for one in story.BREAKS)
    monkeypatch.setattr(story, "BREAKS", breaks)
    monkeypatch.setattr(story, "verify", lambda *words: story.Told(0, "pass", "all gates pass"))
    assert story.story(tmp_path, tmp_path) == [one.name for one in breaks]
    monkeypatch.setattr(story, "verify", lambda *words: story.Told(1, "fail", "something"))
    assert len(story.story(tmp_path, tmp_path)) == 6
    assert "BAD  nothing broken" in capsys.readouterr().out


def test_the_number_of_cores_changes_no_figure(bundle, few_digits, tmp_path, monkeypatch):
    """Batches run side by side, of the golden inputs parts do: every figure, flip and name stays as it is."""
    reports = []
    for num_cores in (1, 3):
        monkeypatch.setattr("runtimes.side_by_side.usable_cpus", lambda num_cores=num_cores: num_cores)
        reports.append(report_of(tmp_path, bundle, "--val", few_digits / "val", "--num-val", 40, "--bisect"))
        del reports[-1]["tool"]["created"]
    assert reports[0] == reports[1]


def test_golden_inputs_alone_pass_and_say_what_they_do_not_show(bundle, tmp_path):
    content = report_of(tmp_path, bundle)
    assert content["verdict"] == "pass"
    assert "golden inputs only" in content["images"]["statement"]
    assert gates_of(content, "model.int8.onnx")["agreement", "golden"]["verdict"] == "skipped"
    assert [file["name"] for file in content["files"]] == ["bundle", "model.onnx", "model.int8.onnx"]


def test_too_few_digits_for_the_claim_are_inconclusive(bundle, digits_folder, tmp_path):
    content = report_of(tmp_path, bundle, "--val", digits_folder / "val", "--num-val", 40, "--precision", "int8")
    assert (content["verdict"], content["exit_code"]) == ("inconclusive", 3)
    assert "that takes 52 images" in content["summary"]
    assert verify(bundle, "--gate", "agreement=0.9") == 3


def test_gates_decide(bundle, tmp_path):
    assert verify(bundle, "--gate", "int8.sqnr_db=60") == 1
    path = tmp_path / "gates.toml"
    path.write_text("[int8]\nsqnr_db = 60\n", encoding="utf-8")
    assert verify(bundle, "--gate", path) == 1
    assert verify(bundle, "--gate", path, "--gate", "int8.sqnr_db=10") == 0
    assert verify(bundle, "--gate", "sqnrdb=60") == 2


def test_pytorch_as_reference_and_on_trial(bundle, digits_folder, tmp_path):
    val = ("--val", digits_folder / "val", "--num-val", 64)
    content = report_of(tmp_path, bundle, *AGAINST, *val, "--precision", "fp32")
    assert content["verdict"] == "pass"
    assert content["reference"]["name"] == "PyTorch"
    assert content["images"]["val"]["labelled"]
    assert {"preprocessing", "golden_outputs"} <= {name for name, _ in gates_of(content, "bundle")}
    content = report_of(tmp_path, bundle, *AGAINST, *val, "--provider", "torch")
    assert [(file["name"], file["verdict"]) for file in content["files"][1:]] == [("PyTorch", "pass")]
    random = ("--against", "cifar_resnet20", "--weights", "random", "--num-classes", 10)
    sizes = ("--input-size", "32x32", "--mean", "0.306,0.306,0.306", "--std", "0.324,0.324,0.324")
    assert verify(bundle, *random, *sizes, "--provider", "torch") == 1


def test_a_manifest_of_other_normalization_is_told_without_any_reference(bundle, tmp_path, capsys):
    preprocessing = replace(load_manifest(bundle).preprocessing, mean=(0.5, 0.5, 0.5))
    broken = changed(bundle, tmp_path / "broken", preprocessing=preprocessing)
    assert "`preprocessing.mean` is [0.5, 0.5, 0.5], but model.int8.onnx was exported" in refused(capsys, broken)
    for path in broken.glob("*.onnx"):  # as of files that do not say how their pictures are prepared
        model = onnx.load(path)
        del model.metadata_props[:]
        onnx.save(model, path)
    write_manifest(broken, replace(load_manifest(broken), files=file_entries(broken)))
    content = report_of(tmp_path, broken)
    assert content["verdict"] == "fail"
    assert "wrong normalization" in content["causes"][0]["sentence"]


def test_a_reference_of_other_normalization_is_told(bundle, tmp_path):
    content = report_of(tmp_path, bundle, *AGAINST, "--mean", "0.485,0.456,0.406", "--precision", "int8")
    assert content["verdict"] == "fail"
    assert "wrong normalization: mean [0.306, 0.306, 0.306], expected [0.485" in content["causes"][0]["sentence"]
    assert gates_of(content, "bundle")["golden_outputs", "file"]["verdict"] == "fail"


def test_calibration_on_noise_is_told(bundle, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    table = json.loads((broken / "calibration.json").read_text(encoding="utf-8"))
    table["observed"]["input"]["autocorrelation"] = [0.0, 0.01, 0.02]
    table["tensors"]["layer1.0.relu"]["scale"] *= 2
    write_json(broken / "calibration.json", table)
    write_manifest(broken, replace(load_manifest(broken), files=file_entries(broken)))
    content = report_of(tmp_path, broken)
    found = gates_of(content, "bundle")
    assert "random noise" in found["calibration_images", "file"]["sentence"]
    assert "layer1.0.relu has" in found["calibration_table", "file"]["sentence"]
    assert content["verdict"] == "fail"


def test_a_file_that_gives_nan_fails(bundle, tmp_path):
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    model = onnx.load(broken / "model.int8.onnx")
    (bias,) = [tensor for tensor in model.graph.initializer if tensor.name == "fc.bias"]
    bias.CopyFrom(onnx.numpy_helper.from_array(np.full(10, np.nan, np.float32), "fc.bias"))
    onnx.save(model, broken / "model.int8.onnx")
    write_manifest(broken, replace(load_manifest(broken), files=file_entries(broken)))
    content = report_of(tmp_path, broken, "--precision", "int8", "--bisect")
    assert content["verdict"] == "fail"
    assert "NaN or Inf on 16 of 16 images" in content["summary"]


def test_bare_files(bundle, digits_folder, tmp_path, capsys):
    alone = tmp_path / "model.int8.onnx"
    shutil.copy(bundle / "model.int8.onnx", alone)
    assert "--against" in refused(capsys, alone)
    val = ("--val", digits_folder / "val", "--num-val", 64)
    content = report_of(tmp_path, alone, *AGAINST, *val, "--bisect", "--gate", "top1_drop_pp=off")
    assert content["verdict"] == "pass"
    assert content["files"][-1]["precision"] == "int8"
    assert content["files"][-1]["bisect"]["blocks"]
    assert report_of(tmp_path, alone, *AGAINST)["files"][-1]["comparisons"][0]["on"] == "photographs"
    inside = report_of(tmp_path, bundle / "model.int8.onnx")
    assert [file["name"] for file in inside["files"]] == ["bundle", "model.int8.onnx"]


def test_images_without_class_folders_have_no_accuracy(bundle, digits_folder, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for path in sorted((digits_folder / "val").rglob("*.png"))[:80]:
        shutil.copy(path, folder)
    content = report_of(tmp_path, bundle, "--val", folder, "--precision", "int8")
    assert content["verdict"] == "pass"
    assert not content["images"]["val"]["labelled"]
    assert gates_of(content, "model.int8.onnx")["top1_drop_pp", "val"]["verdict"] == "skipped"


def test_a_baseline_fails_what_got_worse(bundle, tmp_path, capsys):
    before = tmp_path / "before.json"
    assert verify(bundle, "--json", before) == 0
    assert verify(bundle, "--baseline", before) == 0
    content = json.loads(before.read_text(encoding="utf-8"))
    content["files"][-1]["comparisons"][0]["metrics"]["sqnr_db"] += 5
    write_json(before, content)
    assert verify(bundle, "--baseline", before) == 1
    assert "worse than the baseline" in capsys.readouterr().err
    assert verify(bundle, "--baseline", tmp_path / "missing.json") == 2


def test_wrong_use(bundle, tmp_path, capsys):
    assert verify(tmp_path) == 2
    assert verify(tmp_path / "missing.onnx", *AGAINST) == 2
    assert verify(bundle, "--precision", "fp16") == 2
    assert verify(bundle, "--provider", "tensorrt") == 2
    assert "holds no engine" in capsys.readouterr().err
    assert "--weights belongs to --against" in refused(capsys, bundle, "--weights", "random")
    assert "--num-classes belongs to --against" in refused(capsys, bundle, "--num-classes", "9")
    for option, value in (("--input-size", "64"), ("--mean", "0.5,0.5,0.5"), ("--color-order", "BGR")):
        assert "belong to --against MODEL: images of a bundle are" in refused(capsys, bundle, option, value)
    assert "--provider torch" in refused(capsys, bundle, "--provider", "torch")
    assert "--num-val" in refused(capsys, bundle, "--num-val", "3")
    broken = tmp_path / "broken"
    shutil.copytree(bundle, broken)
    (broken / "labels.txt").write_text("changed\n", encoding="utf-8")
    assert verify(broken) == 2
    assert "changed since it was written" in capsys.readouterr().err


def test_an_engine_that_cannot_be_opened_is_no_pass(bundle, tmp_path, capsys):
    engine = tmp_path / "model.engine"
    engine.write_bytes(b"no engine at all")
    assert verify(engine, *AGAINST) == 2
    shutil.copy(bundle / "model.int8.onnx", engine)
    assert verify(engine, *AGAINST) == 2
    assert "got an ONNX model" in capsys.readouterr().err


def test_the_engines_share_of_the_loss_is_told_apart(bundle):
    """No GPU here: the file with ONNX Runtime's own INT8 kernels stands in for the engine."""
    from contextlib import ExitStack

    from runtimes.ort.adapter import OrtRuntime

    subject = read_subject(bundle, ("int8",))
    with ExitStack() as stack:
        origin = open_all(subject, stack)
        (exact,) = origin.candidates
        runtime = stack.enter_context(OrtRuntime(exact.candidate.path))
        candidate = replace(
            exact.candidate, path=Path("model.int8.engine"), is_engine=True, built_from=exact.candidate.path
        )
        engine = OpenCandidate(candidate, runtime, "tensorrt", None, None)
        opened = replace(origin, candidates=(engine,), origins={candidate.name: exact})
        compared = compare(golden_set(subject.golden, "PyTorch"), opened)
    found = attribution(subject, opened, [compared], against=False)
    assert found["sides"] == ["reference", "onnx", "engine"]
    assert found["missing"] == {}
    losses = found["losses"]
    assert (losses["engine"]["from"], losses["engine"]["to"]) == ("model.int8.onnx", "model.int8.engine")
    assert losses["engine"]["sqnr_db"] > 20
    assert losses["total"]["sqnr_db"] == pytest.approx(losses["quantization"]["sqnr_db"], abs=3)
    assert "Agreement changes by" in found["statement"]


def test_the_action_runs_the_command(bundle, tmp_path):
    """The shell step of examples/ci/action.yml, with the environment that GitHub gives it."""
    yaml = pytest.importorskip("yaml", reason="PyYAML comes with timm's dependencies")
    action = yaml.safe_load((ROOT / "examples" / "ci" / "action.yml").read_text(encoding="utf-8"))
    step = next(step for step in action["runs"]["steps"] if step["name"] == "Verify")
    values = {name: entry.get("default", "") for name, entry in action["inputs"].items()}
    values |= {
        "bundle": str(bundle),
        "report": str(tmp_path / "report"),
        "gates": "int8.sqnr_db=10\nint8.agreement=0.5\n",
    }
    environment = {name: values[text.split("inputs.")[1].split()[0]] for name, text in step["env"].items()}
    command = tmp_path / "bin" / "resnet-export"
    command.parent.mkdir()
    command.write_text(
        f"#!{sys.executable}\nimport sys\nfrom resnet_export.main import main\nsys.exit(main())\n", encoding="utf-8"
    )
    command.chmod(0o755)
    environment |= {
        "PATH": f"{command.parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "GITHUB_STEP_SUMMARY": str(tmp_path / "summary.md"),
    }
    done = subprocess.run(
        ["bash", "-e", "-c", step["run"]], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "resnet-export verify: pass" in (tmp_path / "summary.md").read_text(encoding="utf-8")
    content = json.loads((tmp_path / "report" / "verify.json").read_text(encoding="utf-8"))
    assert gates_of(content, "model.int8.onnx")["agreement", "golden"]["threshold"] == 0.5
    assert (tmp_path / "report" / "verify.xml").is_file()
