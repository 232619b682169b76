"""Each page of docs/extending: its module, declared as the page declares it, is used through the command as it says."""

import csv
import json
import re
import shlex
import sys
from pathlib import Path

import pytest

from calibration.lint.rule_registry import RULE_FAMILIES
from calibration.methods.method import METHODS
from exporter.models.model_names import FAMILIES
from exporter.target import TARGETS
from resnet_export.main import main
from runtimes.inference.runtime_registry import RUNTIMES

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "extending"
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REGISTRIES = (METHODS, TARGETS, FAMILIES, RULE_FAMILIES, RUNTIMES)


def forget_entry_points():
    for registry in REGISTRIES:
        for name in registry._declared or ():
            registry.unregister(name)
        registry._declared = None


@pytest.fixture
def page(request, tmp_path, monkeypatch, digits_folder, digits_bundle):
    """Install the page's package, and give its commands; the folders that they name are here."""
    text = (PAGES / f"{request.param}.md").read_text(encoding="utf-8")
    site, work = tmp_path / "site", tmp_path / "work"
    info = site / "a_package_of_others-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: a-package-of-others\nVersion: 1.0\n")
    commands = []
    for language, title, content in BLOCK.findall(text):
        if language == "python" and title:
            (site / title).write_text(content)
        elif language == "toml":
            declared = content.replace('[project.entry-points."', "[").replace('"]', "]").replace('"', "")
            (info / "entry_points.txt").write_text(declared)
        elif language == "sh":
            commands += [shlex.split(line)[1:] for line in content.splitlines()]
    (work / "demo").mkdir(parents=True)
    (work / "demo" / "digits").symlink_to(digits_folder)
    (work / "examples").symlink_to(ROOT / "examples")
    (work / "bundle").symlink_to(digits_bundle)
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(work)
    forget_entry_points()
    modules = set(sys.modules)
    yield commands
    forget_entry_points()
    for name in set(sys.modules) - modules:
        if str(site) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def manifest():
    return json.loads(Path("out/manifest.json").read_text())


@pytest.mark.parametrize("page", ["calibration_method"], indirect=True)
def test_calibration_method(page):
    (command,) = page
    assert main([*command, "--quiet"]) == 0
    assert manifest()["quantization"]["method"] == {"name": "three-sigma", "sigmas": 3.0}
    table = json.loads(Path("out/calibration.json").read_text())
    assert table["method"] == {"name": "three-sigma", "sigmas": 3.0}
    assert any(entry["amax"] < entry["max_abs"] for entry in table["tensors"].values())


@pytest.mark.parametrize("page", ["deployment_target"], indirect=True)
def test_deployment_target(page, capsys):
    export, lint = page
    assert main([*export, "--quiet"]) == 0
    assert (manifest()["target"], manifest()["opset"]) == ("my-board", 17)
    assert main(lint) == 0
    assert "for my-board" in capsys.readouterr().out
    assert main([*export, "--opset", "19", "--force"]) == 2
    assert "opset 19 does not fit target my-board: it reads opset 15 to 18 (the board's conv" in capsys.readouterr().err


@pytest.mark.parametrize("page", ["lint_rule"], indirect=True)
def test_lint_rule(page, capsys):
    (command,) = page
    assert main(command) == 1
    assert "X001 the input is called input" in capsys.readouterr().out
    found = json.loads(Path("findings.json").read_text())["findings"]
    assert [finding["rule"] for finding in found if finding["severity"] == "error"] == ["X001"]
    assert main([*command[:2], "--sarif", "findings.sarif", "--quiet"]) == 1
    (run,) = json.loads(Path("findings.sarif").read_text())["runs"]
    assert "X001" in {rule["id"] for rule in run["tool"]["driver"]["rules"]}


@pytest.mark.parametrize("page", ["model_family"], indirect=True)
def test_model_family(page, capsys):
    models, export = page
    assert main(models) == 0
    assert "tinynet: Two convolutions (tiny-networks)\n  tinynet8\n  tinynet16\n" in capsys.readouterr().out
    assert main([*export, "--quiet"]) == 0
    assert manifest()["model"]["id"] == "tinynet8"
    assert manifest()["model"]["source"] == "tiny-networks"
    assert main(["tinynet9", "--weights", "random"]) == 2
    assert "did you mean tinynet8" in capsys.readouterr().err


@pytest.mark.parametrize("page", ["runtime"], indirect=True)
def test_runtime(page, capsys):
    doctor, verify, classify, bench = page
    assert main(doctor) == 0
    assert "onnx-reference, ONNX's reference evaluator: works: onnx" in capsys.readouterr().out
    assert main([*verify, "--precision", "fp32"]) == 0
    (file,) = (entry for entry in json.loads(Path("report.json").read_text())["files"] if entry["name"] == "model.onnx")
    assert (file["runtime"], file["provider"]) == ("onnx", "ReferenceEvaluator")
    Path("one.txt").write_text(str(next(Path("demo/digits/val/7").iterdir())))
    some = ["one.txt" if word == "demo/digits/val/7" else word for word in classify]
    assert main([*some, "--quiet"]) == 0
    with Path("results.csv").open() as results:
        assert [row["label_1"] for row in csv.DictReader(results)] == ["7"]
    assert main([*bench, "--json", "bench.json"]) == 0
    (model,) = json.loads(Path("bench.json").read_text())["models"].values()
    assert model["runtime"] == "onnx.reference"
    assert main([*verify[:2], "--provider", "onnx-referee"]) == 2
    assert ", onnx-reference\n" in capsys.readouterr().err


@pytest.mark.usefixtures("broken_package")
def test_a_package_that_cannot_be_imported_is_named(digits_bundle, capsys):
    assert main(["bench", str(digits_bundle), "--provider", "broken"]) == 2
    told = capsys.readouterr().err
    assert "runtime 'broken', which broken declares as not_there:RUNTIME, cannot be imported: ModuleNotFound" in told
    assert (
        main(["bench", str(digits_bundle), "--provider", "cpu", "--rounds", "1", "--seconds", "0.01", "--quiet"]) == 0
    )


@pytest.fixture
def broken_package(tmp_path, monkeypatch):
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[resnet_export.runtimes]\nbroken = not_there:RUNTIME\n")
    monkeypatch.syspath_prepend(tmp_path)
    forget_entry_points()
    yield
    forget_entry_points()
