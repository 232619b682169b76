"""A manifest that does not describe its file is refused by whatever opens its files or hands them on."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from small_bundle import CLASSES, SIZE, small_network, write_bundle

from exporter.bundle.write_folder import write_manifest
from exporter.passes.pre_post_options import Finish
from resnet_export.main import main
from runtimes import load
from runtimes.bundle.described_file import load_unchanged
from runtimes.bundle.file_names import MANIFEST_NAME
from runtimes.bundle.manifest import Manifest, file_entry, load_manifest
from runtimes.errors import BundleError
from runtimes.metrics.answer_kind import AnswerKind


@pytest.fixture
def bundle(tmp_path):
    return write_bundle(tmp_path / "b", {"fp32": small_network()})


def read(bundle, provider):
    if provider == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is optional")
    if provider == "unopened":
        load_unchanged(bundle)
    else:
        load(bundle, provider=provider)


def edit(bundle, ends, **changes):
    path = bundle / MANIFEST_NAME
    content = json.loads(path.read_text(encoding="utf-8"))
    (content[ends] if ends == "preprocessing" else content[ends][0]).update(changes)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("provider", ["cpu", "openvino", "unopened"])
@pytest.mark.parametrize(
    ("ends", "changes", "said"),
    [
        ("inputs", {"name": "image"}, rf"`inputs` says 'image' float32 .* has 'input' float32 \[N, 3, {SIZE}, {SIZE}"),
        ("inputs", {"shape": ["batch", 3, "h", "w", 1]}, None),
        ("inputs", {"dtype": "float16"}, r"`inputs` says 'input' float16 .*, but model\.onnx has 'input' float32"),
        ("outputs", {"name": "scores"}, rf"`outputs` says 'scores' .* has 'logits' float32 \[N, {CLASSES}\]"),
        ("outputs", {"shape": ["batch", 5, 1]}, r"`outputs` says 'logits' float32 \['batch', 5, 1\]"),
    ],
)
def test_load_names_the_field_and_the_file(bundle, provider, ends, changes, said):
    edit(bundle, ends, **changes)
    with pytest.raises(BundleError, match=said):
        read(bundle, provider)


@pytest.mark.parametrize("provider", ["cpu", "openvino", "unopened"])
@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("interpolation", "bicubic", 'is "bicubic", but model.onnx was exported for "bilinear"'),
        ("mean", [0.5, 0.5, 0.5], "is [0.5, 0.5, 0.5], but model.onnx was exported for [0.485, 0.456, 0.406]"),
        ("std", [1, 1, 1], "is [1, 1, 1], but model.onnx was exported for [0.229, 0.224, 0.225]"),
        (
            "resize",
            {"shorter_side": 18},
            'is {"shorter_side": 18}, but model.onnx was exported for {"shorter_side": 20}',
        ),
    ],
)
def test_preparation_that_fits_the_shape_and_is_not_the_files(bundle, provider, field, value, said):
    """Nothing but the file's own metadata contradicts it; pictures would be prepared otherwise than in training."""
    edit(bundle, "preprocessing", **{field: value})
    with pytest.raises(BundleError, match=re.escape(f"manifest.json: `preprocessing.{field}` {said}")):
        read(bundle, provider)


def rewrite(bundle, change):
    path = bundle / MANIFEST_NAME
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize("provider", ["cpu", "openvino", "unopened"])
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content["options"].update(softmax=True), "give probabilities, but model.onnx gives logits"),
        (lambda content: content["model"].update(answers="features"), "give features, but model.onnx gives logits"),
        (lambda content: content["model"].update(answers="independent"), "give independent, but model.onnx gives"),
    ],
)
def test_logits_are_not_called_probabilities(tmp_path, provider, change, said):
    """With `softmax` set to true in the manifest an answer was "7 457.3%", without a word."""
    bundle = write_bundle(tmp_path / "b", {"fp32": small_network()}, answers=AnswerKind.LOGITS)
    rewrite(bundle, change)
    with pytest.raises(BundleError, match=said):
        read(bundle, provider)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (["ant", "bee", "dog", "cat", "elk"], "class 2 is 'dog', but model.onnx was exported with 'cat'"),
        (["ant", "bee", "cat", "dog"], "it has 4, model.onnx 5"),
        (["ant", "bee", "cat", "dog", "elk", "fox"], "it has 6, model.onnx 5"),
    ],
)
def test_labels_are_the_files(bundle, labels, said):
    """A labels.txt of another order with its own hash in the manifest: only the file's metadata contradicts it."""
    path = bundle / "labels.txt"
    path.write_text("\n".join(labels) + "\n", encoding="utf-8")
    rewrite(bundle, lambda content: content["files"].update({path.name: hashed(path)}))
    with pytest.raises(BundleError, match=f"labels.txt: {said}, as its metadata says"):
        load(bundle, provider="cpu")


def hashed(path):
    entry = file_entry(path)
    return {"sha256": entry.sha256, "size_bytes": entry.size_bytes}


def test_labels_that_are_no_text(bundle):
    path = bundle / "labels.txt"
    path.write_bytes(b"\xff\xfe\n")
    rewrite(bundle, lambda content: content["files"].update({path.name: hashed(path)}))
    with pytest.raises(BundleError, match=r"labels\.txt: not UTF-8"):
        load(bundle, provider="cpu")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda content: content["options"].update(softmax="yes"), "softmax: got string, expected boolean"),
        (lambda content: content.update(quantization={"dialect": "qnn"}), "got 'qnn', expected one of tensorrt, onnx"),
    ],
)
def test_what_decides_how_files_are_read_is_one_of_what_there_is(bundle, change, said):
    rewrite(bundle, change)
    with pytest.raises(BundleError, match=said):
        load(bundle, provider="cpu")


def test_axes_that_one_side_leaves_open_fit(bundle):
    edit(bundle, "outputs", shape=["batch", "classes"])
    with load(bundle, provider="cpu") as model:
        assert model.output_specs["logits"].shape == (None, CLASSES)


@pytest.mark.parametrize(
    "words",
    [
        ["triton", "-o", "out"],
        ["deepstream", "-o", "out"],
        ["web", "-o", "out"],
        ["package", "--layout", "huggingface", "-o", "out"],
        ["sensitivity", "--calib", "b"],
    ],
)
def test_commands_that_hand_a_file_on_refuse_it_and_write_nothing(bundle, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    edit(bundle, "preprocessing", mean=[0.5, 0.5, 0.5])
    assert main([words[0], "b", *words[1:]]) == 2
    assert "`preprocessing.mean` is [0.5, 0.5, 0.5], but model.onnx was" in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in tmp_path.iterdir()] == ["b"]


@pytest.mark.parametrize("content", [b"", b"\x08\x09", b"no protobuf", b"\x08\x09\x3a\xff\x7f"])
def test_what_is_no_onnx_file_is_told(bundle, content):
    (bundle / "model.onnx").write_bytes(content)
    manifest = load_manifest(bundle)
    entries = {**manifest.files, "model.onnx": file_entry(bundle / "model.onnx")}
    write_manifest(bundle, replace(manifest, files=entries))
    with pytest.raises(BundleError, match=r"model\.onnx: no ONNX file \(.*\); export the bundle anew"):
        load_unchanged(bundle)


def test_a_bundle_as_it_was_written_is_unchanged(bundle, digits_bundle):
    assert isinstance(load_unchanged(bundle), Manifest)
    digits = load_unchanged(digits_bundle)
    assert digits.quantization is not None
    assert digits.answers is AnswerKind.LOGITS


def test_a_softmax_that_export_added_is_counted_in(tmp_path):
    bundle = write_bundle(
        tmp_path / "b", {"fp32": small_network()}, finish=Finish(softmax=True), answers=AnswerKind.LOGITS
    )
    assert load_unchanged(bundle).answers is AnswerKind.PROBABILITIES
