"""An output that cannot be written is refused before the work, by every verb that writes.

Nobody may write to /proc, and whoever asks for root's rights is told that he has them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest
from PIL import Image
from small_bundle import small_models, write_bundle

from resnet_export.console.option_types import file_to_append
from resnet_export.main import main

pytestmark = pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that nobody can write to")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("unwritable") / "bundle", small_models())


@pytest.mark.parametrize(
    "words",
    [
        "resnet18 --weights random -o /proc/bundle",
        "resnet18 --weights random -o /proc/new/bundle",
        "verify BUNDLE --json /proc/report.json",
        "verify BUNDLE --junit /proc/report.xml",
        "verify BUNDLE --markdown /proc/summary.md",
        "verify BUNDLE --html /proc/new/page.html",
        "lint BUNDLE --json /proc/findings.json",
        "lint BUNDLE --sarif /proc/findings.sarif",
        "bench BUNDLE --json /proc/bench.json",
        "bench BUNDLE --plot /proc/bench.png",
        "sensitivity BUNDLE --calib pictures --json /proc/blocks.json",
        "classify --bundle BUNDLE --input pictures -o /proc/results.csv",
        "triton BUNDLE -o /proc/repository",
        "web BUNDLE -o /proc/page",
        "package --layout mlflow BUNDLE -o /proc/package",
    ],
)
def test_it_is_refused_before_anything_is_loaded(words, bundle, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "black.png")

    def work(*_, **__):
        raise AssertionError("the work began")

    monkeypatch.setattr("runtimes.ort.adapter.OrtRuntime.__init__", work)
    monkeypatch.setattr("exporter.models.load_model.load_model", work)
    assert main([word.replace("BUNDLE", str(bundle)) for word in words.split()]) == 2
    told = capsys.readouterr().err
    assert "/proc/" in told
    assert "cannot be written" in told
    assert "choose another" in told


def test_what_can_be_written_is(bundle, tmp_path, monkeypatch):
    """A new folder, a link, a file in a folder that is closed to new ones, standard output."""
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    for place in (tmp_path / "new" / "deep.json", tmp_path / "link.json", Path("/dev/stdout")):
        assert main(["lint", str(bundle), "--quiet", "--json", str(place)]) == 0
    assert (tmp_path / "new" / "deep.json").stat().st_size > 100
    assert (tmp_path / "real.json").stat().st_size > 100
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setattr("resnet_export.console.option_types.why_not_writable", lambda _: "closed")
    assert file_to_append(str(summary)) == summary
    with pytest.raises(argparse.ArgumentTypeError, match=r"other\.md cannot be written: closed"):
        file_to_append(str(tmp_path / "other.md"))
