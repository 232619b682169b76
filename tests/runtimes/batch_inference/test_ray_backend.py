"""Parts as tasks of a local Ray cluster, with workers that are killed."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from bundles import small_classifier, write_bundle
from PIL import Image

from resnet_export.main import main
from runtimes import load
from runtimes.batch_inference.classify_images import ImageClassifier, cut_parts
from runtimes.batch_inference.ray_backend import RayWork
from runtimes.batch_inference.resume import parts_folder
from runtimes.batch_inference.run import LocalWork, run, run_plan
from runtimes.errors import MissingDependencyError, ResultsError, RuntimeAdapterError
from runtimes.preprocessing.transform import Interpolation, Preprocessing

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed; the [ray] extra brings it"
)
SMALL = Preprocessing((8, 8), None, Interpolation.BILINEAR, (0.5, 0.4, 0.3), (0.2, 0.25, 0.3))


@dataclass(frozen=True)
class Opener:
    bundle: Path

    def __call__(self) -> ImageClassifier:
        return ImageClassifier(load(self.bundle, provider="cpu", threads=1), batch_size=4, decoders=1)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("b") / "bundle", {"fp32": small_classifier()}, preprocessing=SMALL)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(3)
    for number in range(40):
        Image.fromarray(random.integers(0, 256, (12, 9, 3), dtype=np.uint8)).save(folder / f"{number:02d}.png")
    (folder / "13.png").write_bytes(b"no image")
    return [str(folder / f"{number:02d}.png") for number in range(40)]


@pytest.fixture(scope="module")
def cluster(bundle, tmp_path_factory) -> Iterator[RayWork]:
    """A cluster of two workers, started as `classify --ray` starts it; the tests' own works find it running."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # otherwise Ray writes a token into the user's home
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_prestart_worker_first_driver", "0")  # no worker that no task asks for
        patch.setenv("RAY_enable_worker_prestart", "0")
        with RayWork(opener_by_value(bundle), workers=2) as work:
            yield work


def opener_by_value(bundle: Path, *, kill_at: int | None = None, marker: Path | None = None, fail: bool = False):
    """Return an opener that a worker needs no module of the tests for; the worker of image `kill_at` dies there.

    With a `marker` it dies once; without, every time.
    """

    def open_classifier() -> ImageClassifier:
        class Killed(ImageClassifier):
            def rows(self, parts):
                for row in super().rows(parts):
                    if fail:
                        raise RuntimeAdapterError("the model broke")
                    if row.index == kill_at and (marker is None or not marker.exists()):
                        if marker is not None:
                            marker.touch()
                        os.kill(os.getpid(), signal.SIGKILL)
                    yield row

        return Killed(load(bundle, provider="cpu", threads=1), batch_size=4, decoders=1)

    return open_classifier


def classify(output, paths, work, **options):
    plan = run_plan(paths, batch_size=4, **work.facts())
    return run(output, paths, plan, work, labels=None, top_k=5, score="probability", **options)


@needs_ray
class TestOnALocalCluster:
    def test_a_worker_killed_half_way_loses_nothing_and_repeats_nothing(self, cluster, bundle, images, tmp_path):
        marker = tmp_path / "killed"
        opener = opener_by_value(bundle, kill_at=22, marker=marker)  # in the middle of its part, and of the run
        report = classify(tmp_path / "ray.jsonl", images, RayWork(opener, workers=2))
        assert marker.exists()
        rows = [json.loads(line) for line in (tmp_path / "ray.jsonl").read_text().splitlines()]
        assert [row["index"] for row in rows] == list(range(40))
        assert [row["path"] for row in rows] == images
        assert report.num_errors == 1
        assert "is not an image" in rows[13]["error"]
        with Opener(bundle)() as classifier:
            classify(tmp_path / "here.jsonl", images, LocalWork(classifier))
        here = [json.loads(line) for line in (tmp_path / "here.jsonl").read_text().splitlines()]
        for got, expected in zip(rows, here, strict=True):
            assert got["classes"] == expected["classes"]
            np.testing.assert_allclose(got["scores"], expected["scores"], rtol=1e-5)

    def test_a_worker_that_always_dies_stops_the_run_and_the_rest_is_kept(
        self, cluster, bundle, images, tmp_path, monkeypatch
    ):
        monkeypatch.setattr("runtimes.batch_inference.ray_backend.MAX_RETRIES", 1)
        output = tmp_path / "r.jsonl"
        with pytest.raises(ResultsError, match=r"images 36 to 39, .*36\.png.*died 2 times.*--resume"):
            classify(output, images, RayWork(opener_by_value(bundle, kill_at=38), workers=1))
        assert not output.exists()
        assert len(list(parts_folder(output).glob("part-*"))) == 9
        with Opener(bundle)() as classifier:  # goes on here, without Ray
            report = classify(output, images, LocalWork(classifier), resume=True)
        assert (report.resumed_images, report.num_images) == (36, 40)

    def test_an_error_of_the_model_is_told_as_it_is(self, cluster, bundle, images):
        work = RayWork(opener_by_value(bundle, fail=True), workers=1)
        with pytest.raises(RuntimeAdapterError, match=r"^the model broke$"):
            list(work.done(cut_parts(images, 8)))

    def test_a_model_that_does_not_open(self, cluster, tmp_path):
        with pytest.raises(RuntimeAdapterError, match="does not exist"):
            RayWork(opener_by_value(tmp_path / "missing"), workers=1).facts()

    def test_the_command_is_the_same_on_ray(self, cluster, bundle, images, tmp_path, monkeypatch):
        folder = Path(images[0]).parent
        monkeypatch.chdir(folder.parent)  # relative paths mean the same in the workers
        words = ["classify", "--bundle", str(bundle), "--input", folder.name, "--provider", "cpu", "--batch", "8"]
        answers = []
        for file, options in (("here.jsonl", ()), ("ray.jsonl", ("--ray", "--workers", "2"))):
            assert main([*words, "--output", str(tmp_path / file), "--quiet", *options]) == 1, "one is no picture"
            lines = (tmp_path / file).read_text().splitlines()
            answers.append([(row["path"], row["classes"]) for row in map(json.loads, lines)])
        assert answers[0] == answers[1]
        assert len(answers[0]) == 40

    def test_a_cluster_that_is_not_ours_is_left_running(self, cluster, bundle):
        import ray

        with RayWork(opener_by_value(bundle), workers=1) as work:
            assert work.facts()["file"] == "model.onnx"
        assert ray.is_initialized()


def test_without_ray(bundle, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "resnet-export\[ray\]"'):
        RayWork(Opener(bundle))
