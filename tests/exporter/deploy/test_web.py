"""The web page in a real Chromium: its pixels, answers and speed beside Python's; and what it is not written for."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from packaging.version import Version
from PIL import Image
from small_bundle import LABELS, SIZE, small_models, small_network, write_bundle

from exporter.deploy.onnxruntime_web import SHA512, onnxruntime_web
from exporter.deploy.web import write_web
from exporter.errors import ExportError
from resnet_export.main import main
from runtimes import OrtRuntime, load
from runtimes.bundle.manifest import load_manifest
from runtimes.metrics.answer_kind import AnswerKind
from runtimes.preprocessing.transform import Interpolation, Preprocessing, pixels

SCREENSHOTS = os.environ.get("RESNET_EXPORT_SCREENSHOTS")
JPEG_BOUND = 3
"""Grey levels between Chromium's JPEG decoder and Pillow's; both are libjpeg-turbo, with other settings."""


@pytest.fixture(scope="session")
def package():
    """onnxruntime-web from npm, once a session."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed: onnxruntime-web comes from it")
    try:
        onnxruntime_web()
    except ExportError as err:
        pytest.skip(f"npm does not answer here: {err}")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return with_golden(write_bundle(tmp_path_factory.mktemp("web") / "bundle", small_models()))


def with_golden(bundle):
    """Add stored inputs, of which a small bundle has none."""
    inputs = np.random.default_rng(3).normal(size=(6, 3, SIZE, SIZE)).astype(np.float32)
    np.savez(bundle / "golden.npz", input=inputs)
    return bundle


@pytest.fixture(scope="module")
def page(bundle, package, tmp_path_factory):
    """The page, open and ready in Chromium, served by its own serve.py."""
    folder = tmp_path_factory.mktemp("page") / "site"
    assert main(["web", str(bundle), "-o", str(folder), "--quiet"]) == 0
    shutil.copy(bundle / "model.int8.onnx", folder)
    with served(folder) as address, browser() as opened:
        tab = opened.new_page(viewport={"width": 800, "height": 700})
        errors = []
        tab.on("pageerror", lambda error: errors.append(str(error)))
        tab.on("console", lambda told: errors.append(told.text) if told.type == "error" else None)
        tab.goto(address)
        tab.wait_for_selector("body[data-ready]", timeout=60_000)
        yield tab
        assert errors == []


@contextmanager
def served(folder):
    server = subprocess.Popen([sys.executable, folder / "serve.py", "0"], stdout=subprocess.PIPE, text=True)
    try:
        yield server.stdout.readline().strip()
    finally:
        server.terminate()
        server.wait()


@contextmanager
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    switches = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=switches)
        yield opened
        opened.close()


def photograph(size=(300, 200)):
    import skimage.data

    return Image.fromarray(skimage.data.astronaut()).crop((30, 0, 30 + size[0], size[1]))


def encoded(image, file_format, **options):
    held = io.BytesIO()
    image.save(held, file_format, **options)
    return base64.b64encode(held.getvalue()).decode()


def pixels_in_the_browser(page, content, preprocessing):
    got = page.evaluate(
        """async ([content, preprocessing]) => {
            const bytes = Uint8Array.from(atob(content), (c) => c.charCodeAt(0));
            const found = resnetExport.pixelsOf(preprocessing, await resnetExport.decode(new Blob([bytes])));
            let text = "";
            for (let first = 0; first < found.pixels.length; first += 8192)
                text += String.fromCharCode(...found.pixels.subarray(first, first + 8192));
            return [found.height, found.width, btoa(text)];
        }""",
        [content, preprocessing.to_json()],
    )
    return np.frombuffer(base64.b64decode(got[2]), np.uint8).reshape(got[0], got[1], 3)


@pytest.mark.parametrize("interpolation", list(Interpolation), ids=lambda one: one.value)
def test_pixels_are_pillows_to_the_bit(page, interpolation):
    pillow = pytest.importorskip("PIL")
    if Version(pillow.__version__).major < 13:
        pytest.skip("the page follows Pillow 13, which resizes tall pictures rows first")
    for resize, crop in ((72, (64, 64)), ((90, 41), None), (None, (250, 250)), (31, (40, 33))):
        preprocessing = Preprocessing(resize, crop, interpolation, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2))
        for picture in (photograph(), photograph((60, 240)), photograph((17, 23))):
            got = pixels_in_the_browser(page, encoded(picture, "PNG"), preprocessing)
            assert np.array_equal(got, pixels(preprocessing, picture)), (resize, crop, picture.size)


def test_a_jpeg_is_decoded_nearly_alike(page, bundle):
    preprocessing = load_manifest(bundle).preprocessing
    content = encoded(photograph(), "JPEG", quality=90)
    ours = pixels(preprocessing, Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB"))
    difference = np.abs(pixels_in_the_browser(page, content, preprocessing).astype(int) - ours)
    print(f"JPEG: grey levels off by {difference.mean():.3f} on average, {difference.max()} at most")
    assert difference.max() <= JPEG_BOUND


def test_what_is_transparent_lies_over_white(page):
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    preprocessing = Preprocessing((8, 8), None, Interpolation.BILINEAR, (0.5,) * 3, (0.2,) * 3)
    assert (pixels_in_the_browser(page, encoded(clear, "PNG"), preprocessing) == 255).all()


def test_answers_are_pythons(page, bundle, tmp_path):
    photograph().save(tmp_path / "photo.png")
    content = base64.b64encode((tmp_path / "photo.png").read_bytes()).decode()
    got = page.evaluate(
        "async (content) => resnetExport.classify(new Blob([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))]))",
        content,
    )
    with load(bundle, provider="cpu", precision="fp32") as model:
        best = model.classify(tmp_path / "photo.png")
    assert [one["label"] for one in got] == [one.label for one in best.top]
    assert [one["probability"] for one in got] == pytest.approx([one.probability for one in best.top], abs=1e-5)


def test_it_checks_itself_and_shows_an_answer(page, tmp_path):
    assert "on 4 of 4 stored pictures" in page.inner_text("#check")
    assert page.evaluate("resnetExport.selfCheck()")["relative_difference"] < 1e-5
    photograph().save(tmp_path / "photo.png")
    page.set_input_files("input", tmp_path / "photo.png")
    # Locators, not functions: those are evaluated from text in the page, which its content policy rightly refuses.
    page.locator("#answers li").first.wait_for()
    assert page.inner_text("#answers b") in LABELS
    assert "from the file to the answer" in page.inner_text("#status")
    (tmp_path / "none.png").write_bytes(b"no picture")
    page.set_input_files("input", tmp_path / "none.png")
    page.locator("#status", has_text="cannot be read as a picture").wait_for()
    page.set_input_files("input", tmp_path / "photo.png")
    page.locator("#status", has_text="from the file").wait_for()
    if SCREENSHOTS:
        page.screenshot(path=Path(SCREENSHOTS) / "web.png", full_page=True)


def test_speed_is_measured_file_beside_file(page):
    times = page.evaluate("resnetExport.bench(['model.onnx', 'model.int8.onnx'], 5)")
    print(f"in Chromium: {times}")
    assert set(times) == {"model.onnx", "model.int8.onnx"}
    assert all(ms >= 0 for ms in times.values())


# Without a browser


@pytest.fixture
def no_assets(monkeypatch):
    from exporter.deploy import web

    monkeypatch.setattr(web, "onnxruntime_web", lambda package: {"ort.wasm.min.mjs": b""})


def test_int8_is_taken_where_it_is_faster(tmp_path, no_assets):
    models = small_models()
    for target, file in (("tensorrt", "model.onnx"), ("onnxruntime", "model.int8.onnx")):
        made = with_golden(write_bundle(tmp_path / target, models, target=target))
        report = write_web(made, tmp_path / f"{target}-web", open_runtime=OrtRuntime)
        assert report.file == file


@pytest.mark.parametrize("kind", [None, *AnswerKind])
def test_softmax_is_applied_once(tmp_path, no_assets, kind):
    """A network that ends in Softmax by itself, without --softmax, gave pages that applied it again."""
    made = with_golden(write_bundle(tmp_path / "b", {"fp32": small_network()}, answers=kind))
    if kind is AnswerKind.FEATURES:
        with pytest.raises(ExportError, match="gives features, no classes"):
            write_web(made, tmp_path / "web", open_runtime=OrtRuntime)
        assert not (tmp_path / "web").exists()
        return
    write_web(made, tmp_path / "web", open_runtime=OrtRuntime)
    facts = json.loads((tmp_path / "web" / "facts.json").read_text())
    assert facts["has_softmax"] is (kind in (AnswerKind.PROBABILITIES, AnswerKind.INDEPENDENT))


def test_another_archive_is_refused(tmp_path):
    (tmp_path / "other.tgz").write_bytes(b"something else")
    with pytest.raises(ExportError, match=re.escape(f"expected sha512-{SHA512}")):
        onnxruntime_web(tmp_path / "other.tgz")


def test_without_npm_it_says_how_else(bundle, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RESNET_EXPORT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert main(["web", str(bundle), "-o", str(tmp_path / "site")]) == 2
    assert "--onnxruntime-web" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()


def test_a_folder_of_something_else_is_left_alone(bundle, tmp_path, no_assets, capsys):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("mine")
    assert main(["web", str(bundle), "-o", str(tmp_path / "site"), "--force"]) == 2
    assert (tmp_path / "site" / "index.html").read_text() == "mine"
