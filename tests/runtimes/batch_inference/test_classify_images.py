"""Files to rows: in order, none left out, the same bits however they are cut; and the classes that ONNX gives."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import pytest
from bundles import small_classifier, write_bundle
from onnx.reference import ReferenceEvaluator
from PIL import Image

from exporter.passes.pre_post_options import Finish
from runtimes import load
from runtimes.batch_inference.classify_images import ImageClassifier, check_outputs, cut_parts, score_kind
from runtimes.bundle.manifest import TensorEntry, load_manifest
from runtimes.errors import ImageReadError, NotAClassifierError, RuntimeAdapterError
from runtimes.preprocessing.transform import Interpolation, Preprocessing, preprocess

SMALL = Preprocessing((8, 8), None, Interpolation.BILINEAR, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("b") / "bundle", {"fp32": small_classifier()}, preprocessing=SMALL)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(3)
    for number in range(11):
        Image.fromarray(random.integers(0, 256, (12, 9, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    (folder / "04.png").write_bytes(b"no image")
    (folder / "05.png").write_bytes((folder / "06.png").read_bytes()[:90])
    (folder / "09.png").unlink()
    return [str(folder / f"{number:02d}.png") for number in range(11)]


BAD = (4, 5, 9)


def classify(bundle, paths, *, part_size=100, **options):
    with ImageClassifier(load(bundle, provider="cpu", threads=1), **options) as classifier:
        return list(classifier.rows(cut_parts(paths, part_size)))


def test_every_file_has_a_row_and_in_order(bundle, images):
    rows = classify(bundle, images, batch_size=4)
    assert [row.index for row in rows] == list(range(11))
    assert [row.path for row in rows] == images
    assert [row.index for row in rows if row.error is not None] == list(BAD)
    assert "is not an image" in rows[4].error
    assert "damaged or cut short" in rows[5].error
    assert "there is no such file" in rows[9].error
    assert all((row.classes, row.scores) == ((), ()) for row in rows if row.error is not None)


def test_classes_are_those_of_the_reference_evaluator(bundle, images):
    evaluator = ReferenceEvaluator(onnx.load(bundle / "model.onnx"))
    for row in classify(bundle, images, batch_size=4, top_k=3):
        if row.error is None:
            image = preprocess(SMALL, Image.open(row.path).convert("RGB"))
            (logits,) = evaluator.run(None, {"input": image[np.newaxis]})
            expected = np.exp(logits[0] - logits[0].max()) / np.exp(logits[0] - logits[0].max()).sum()
            assert list(row.classes) == list(np.argsort(-expected)[:3])
            np.testing.assert_allclose(row.scores, np.sort(expected)[::-1][:3], rtol=1e-4)


def test_a_run_that_goes_on_gives_the_same_bits(bundle, images):
    """Batches are cut at fixed places: what was done before changes nothing."""
    whole = classify(bundle, images, part_size=3, batch_size=2)
    with ImageClassifier(load(bundle, provider="cpu", threads=1), batch_size=2) as classifier:
        later = list(classifier.rows(cut_parts(images, 3)[2:]))
    assert later == whole[6:]


def test_all_are_unreadable(bundle, images):
    rows = classify(bundle, [images[4]] * 3 + ["missing.png"])
    assert len(rows) == 4
    assert all(row.error for row in rows)


def test_relative_paths_begin_at_root(bundle, images):
    folder = Path(images[0]).parent
    (row,) = classify(bundle, ["00.png"], root=folder)
    assert (row.path, row.error) == ("00.png", None)
    assert row.classes == classify(bundle, images[:1])[0].classes


def test_pixels_and_the_best_of_the_file(images, bundle, tmp_path):
    finish = Finish(uint8_input=True, softmax=True, topk=4)
    other = write_bundle(tmp_path / "bundle", {"fp32": small_classifier()}, preprocessing=SMALL, finish=finish)
    for got, expected in zip(classify(other, images[:4], top_k=4), classify(bundle, images[:4], top_k=4), strict=True):
        assert got.classes == expected.classes
        np.testing.assert_allclose(got.scores, expected.scores, rtol=1e-5)


def test_memory_is_that_of_three_batches(bundle, images, monkeypatch):
    """However slow the model: no more files are decoded ahead."""
    waiting = threading.Semaphore(0)
    decoded: list[Path] = []
    classifier = ImageClassifier(load(bundle, provider="cpu"), batch_size=2, decoders=1)
    pixels = classifier._decode
    monkeypatch.setattr(classifier, "_decode", lambda path: (decoded.append(path), pixels(path), waiting.release())[1])
    rows = classifier.rows(cut_parts(images[:1] * 100, 100))
    next(rows)
    for _ in range(6):
        assert waiting.acquire(timeout=120)
    assert not waiting.acquire(timeout=0.05)
    assert len(decoded) == 6
    rows.close()  # leaving early drops the rest
    classifier.close()
    assert len(decoded) <= 7


def test_another_error_of_a_file_is_no_row(bundle, images, monkeypatch):
    """Only what read_image calls unreadable is a row; a defect ends the run."""
    with ImageClassifier(load(bundle, provider="cpu")) as classifier:
        monkeypatch.setattr(classifier, "_decode", lambda path: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(classifier.rows(cut_parts(images, 4)))
    assert not issubclass(ZeroDivisionError, ImageReadError)


def test_an_error_of_the_model_names_its_images(images, tmp_path):
    """A NaN in the weights: no row can be right."""
    model = small_classifier()
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "fc.bias")
    bias.raw_data = np.full(10, np.nan, np.float32).tobytes()
    broken = write_bundle(tmp_path / "bundle", {"fp32": model}, preprocessing=SMALL)
    with pytest.raises(RuntimeAdapterError, match=r"^images 0 to 1, .*00\.png' first: .*not finite"):
        classify(broken, images, batch_size=2)


@pytest.mark.parametrize("wrong", [{"top_k": 0}, {"batch_size": 0}, {"decoders": 0}])
def test_wrong_numbers(bundle, wrong):
    with load(bundle, provider="cpu") as model, pytest.raises(ValueError, match="expected at least 1"):
        ImageClassifier(model, **wrong)


class TestOutputs:
    def manifest(self, bundle, *outputs, **options):
        from dataclasses import replace

        return replace(load_manifest(bundle), outputs=outputs, options=options)

    def test_features(self, bundle):
        features = TensorEntry("layer1", "float32", ("batch", 16, 8, 8))
        with pytest.raises(NotAClassifierError, match="outputs are layer1, no classes"):
            check_outputs(self.manifest(bundle, features), 5)

    def test_fewer_than_asked_for(self, bundle):
        best = [TensorEntry(name, "float32", ("batch", 3)) for name in ("scores", "indices")]
        check_outputs(self.manifest(bundle, *best), 3)
        with pytest.raises(NotAClassifierError, match="the 3 best classes only; ask for --top-k 3"):
            check_outputs(self.manifest(bundle, *best), 5)

    def test_what_scores_are(self, bundle):
        best = [TensorEntry(name, "float32", ("batch", 3)) for name in ("scores", "indices")]
        assert score_kind(load_manifest(bundle)) == "probability"
        assert score_kind(self.manifest(bundle, *best, softmax=False)) == "logit"
        assert score_kind(self.manifest(bundle, *best, softmax=True)) == "probability"
