"""A model of one number has no best class: whatever would tell one, with a probability of 1, refuses it."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from small_bundle import SIZE, small_network, write_bundle

from resnet_export.main import main
from runtimes import load
from runtimes.bundle.manifest import load_manifest
from runtimes.errors import NotAClassifierError
from runtimes.metrics.answer_kind import AnswerKind

ONE = "this model gives one number, which has no best class"


def one_number(folder, kind):
    """A bundle with the stored inputs that other commands check themselves on."""
    bundle = write_bundle(folder, {"fp32": small_network(1)}, labels=("score",), answers=kind, num_classes=1)
    inputs = np.random.default_rng(3).normal(size=(6, 3, SIZE, SIZE)).astype(np.float32)
    np.savez(bundle / "golden.npz", input=inputs)
    return bundle


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "picture.png"
    Image.new("RGB", (24, 24), (90, 20, 200)).save(path)
    return path


@pytest.mark.parametrize("kind", [None, AnswerKind.LOGITS, AnswerKind.PROBABILITIES])
@pytest.mark.parametrize("alone", [False, True])
def test_it_is_run_and_not_classified(tmp_path, picture, kind, alone):
    """The answer was "score 100.0%", whatever the picture."""
    bundle = one_number(tmp_path / "b", kind)
    if alone:
        bundle = (bundle / "model.onnx").rename(tmp_path / "alone.onnx")
    with load(bundle, provider="cpu") as model:
        assert not model.is_classifier
        assert model.run(model.prepare([picture]))["logits"].shape == (1, 1)
        with pytest.raises(NotAClassifierError, match=ONE):
            model.classify(picture)


def test_one_yes_or_no_has_a_probability(tmp_path, picture):
    bundle = one_number(tmp_path / "b", AnswerKind.INDEPENDENT)
    assert not load_manifest(bundle).gives_one_number
    with load(bundle, provider="cpu") as model:
        assert model.is_classifier


@pytest.mark.parametrize(
    "words",
    [
        ["classify", "--input", "picture.png", "-o", "out.csv", "--bundle"],
        ["web", "-o", "out"],
        ["package", "--layout", "huggingface", "-o", "out"],
    ],
)
def test_commands_that_tell_classes(tmp_path, picture, words, monkeypatch, capsys):
    one_number(tmp_path / "b", AnswerKind.LOGITS)
    monkeypatch.chdir(tmp_path)
    assert main([*words, "b"]) == 2
    assert ONE in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("out*"))


def test_commands_that_hand_numbers_on(tmp_path, monkeypatch, capsys):
    """Without labels and Softmax: the client gets the number."""
    one_number(tmp_path / "b", AnswerKind.LOGITS)
    monkeypatch.chdir(tmp_path)
    assert main(["triton", "b", "-o", "triton"]) == 0
    assert "label_filename" not in (tmp_path / "triton" / "small_fp32" / "config.pbtxt").read_text()
