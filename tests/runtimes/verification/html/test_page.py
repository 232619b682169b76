"""The HTML page of verify's report: what stands on it, what is escaped, what is missing, and how a browser shows it.

`RESNET_EXPORT_SCREENSHOTS=docs pytest tests/runtimes/verification/html` writes docs/report-light.png and
docs/report-dark.png.
"""

from __future__ import annotations

import copy
import json
import os
import platform
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from broken_bundles import with_scaled_activations
from PIL import Image

from resnet_export.main import main
from runtimes.errors import BundleError, MissingDependencyError
from runtimes.verification.html import html_report
from runtimes.verification.html.evidence import BundleEvidence, TensorRange, bundle_evidence, thumbnail
from runtimes.verification.html.plots import ROLES, block_plot, convergence_plot, histogram_plot

HOSTILE = """<script>alert("$x$")</script><img src="http://example.invalid/a.png" onerror='alert(1)'>&amp;\u202e"""
SCREENSHOTS = os.environ.get("RESNET_EXPORT_SCREENSHOTS")


@pytest.fixture(scope="module")
def broken(digits_bundle, digits_folder, tmp_path_factory) -> Path:
    """A folder with the page and the JSON of a bundle in which one scale of a block was divided by four."""
    folder = tmp_path_factory.mktemp("report")
    with_scaled_activations(digits_bundle, folder / "cifar_resnet20-int8", 0.25, lambda name: name == "layer2.0.relu_1")
    shutil.copytree(digits_folder / "val", folder / "val")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(platform, "platform", lambda: "Linux")  # the screenshots are no matter of this machine
        words = ["verify", "cifar_resnet20-int8", "--val", "val", "--bisect", "--quiet"]
        assert main([*words, "--html", "report.html", "--json", "report.json"]) == 1
    return folder


@pytest.fixture
def report(broken, monkeypatch) -> dict:
    monkeypatch.chdir(broken)
    return json.loads((broken / "report.json").read_text())


class Elements(HTMLParser):
    """Names and attributes of every element, and the text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


def test_the_page_holds_what_the_report_says(broken, report):
    page = Elements((broken / "report.html").read_text(encoding="utf-8"))
    assert "FAIL" in page.text
    assert report["summary"] in page.text
    for file in report["files"]:
        assert all(gate["sentence"] in page.text for gate in file["gates"])
    assert all(cause["sentence"] in page.text for cause in report["causes"])
    assert "layer3.0" in page.text  # the block that reads the broken scale
    # 10 histograms, how the scales settled, the blocks of one file, latency
    assert len(page.all("svg")) == 13
    (int8,) = (file for file in report["files"] if file["name"] == "model.int8.onnx")
    flips = sum(min(len(part["flips"]), 24) for part in int8["comparisons"])
    assert len(page.all("img")) == flips > 24


def test_the_page_needs_nothing_else(broken):
    text = (broken / "report.html").read_text(encoding="utf-8")
    page = Elements(text)
    assert not {"script", "link", "iframe", "object", "base", "form"} & {tag for tag, _ in page.found}
    assert all(attributes["src"].startswith("data:image/") for attributes in page.all("img"))
    assert all(attributes.get("href", "#").startswith("#") for _, attributes in page.found)
    assert "url(" not in text.replace("url(#", "")
    assert any("default-src 'none'" in attributes.get("content", "") for attributes in page.all("meta"))
    ids = [attributes["id"] for _, attributes in page.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert len(text) < 1_500_000


def hostile(report: dict) -> dict:
    """Put markup into every text of a report."""

    def poisoned(value, key=""):
        if isinstance(value, dict):
            return {name: poisoned(entry, name) for name, entry in value.items()}
        if isinstance(value, list):
            return [poisoned(entry, key) for entry in value]
        fixed = key in ("verdict", "on", "precision", "path", "root", "image") or not isinstance(value, str)
        return value if fixed else f"{value}{HOSTILE}"

    result = poisoned(copy.deepcopy(report))
    for file in result["files"]:
        for part in file["comparisons"]:
            for flip in part["flips"][:2]:
                flip["image"] = f"../{HOSTILE}"
    result["labels"] = [HOSTILE] * 10
    return result


def hostile_page(report: dict) -> str:
    tensor = TensorRange(HOSTILE, 2.0, 3.0, 0.1, tuple(range(30, 0, -1)), (1.0, 1.5, 2.0))
    row = {"file": HOSTILE, "name": HOSTILE, "size_bytes": 1, "latency": {"p50_ms": 1.0, "p90_ms": 2.0}}
    evidence = BundleEvidence((tensor,), (1, 2, 4), HOSTILE, (row,), HOSTILE, kept_float=HOSTILE)
    return html_report(hostile(report), evidence=evidence)


def test_markup_in_names_and_labels_is_text(report):
    page = Elements(hostile_page(report))
    assert not page.all("script")
    assert not any(name.startswith("on") for _, attributes in page.found for name in attributes)
    assert all(attributes["src"].startswith("data:image/") for attributes in page.all("img"))
    assert page.text.count('alert("$x$")') > 30


def test_a_report_without_a_bundle_and_without_images(report):
    bare = copy.deepcopy(report)
    bare["images"]["val"] = None
    bare["labels"] = None
    for file in bare["files"]:
        file["bisect"] = None
    page = Elements(html_report(bare, evidence=BundleEvidence()))
    assert "run verify with --bisect" in page.text
    assert "image not found" in page.text
    assert "class 3" in page.text
    assert not page.all("svg")
    assert not page.all("img")
    assert "--keep-float" not in page.text


def test_what_keep_float_gained_and_cost(report, tmp_path):
    """The sentence of the bundle's report.json; one that holds something else there is no reason to fail."""
    (tmp_path / "manifest.json").write_text("{}")
    for content, sentence in (({"statement": "conv1 (1 layer): 3 % <more>"}, "3 % <more>"), (None, ""), ([], "")):
        (tmp_path / "report.json").write_text(json.dumps({"keep_float": content}))
        evidence = bundle_evidence(tmp_path)
        assert evidence.kept_float.endswith(sentence)
        page = Elements(html_report(report, evidence=evidence))
        assert ("By --keep-float" in page.text) == bool(sentence)
        assert sentence in page.text


def test_calibration_without_histograms_says_so(report):
    page = Elements(
        html_report(report, evidence=BundleEvidence((TensorRange("relu", 2.0, 3.0, 0.0, (), (2.0,)),), (8,)))
    )
    assert "holds no histograms" in page.text
    assert "does not say how the ranges settled" in page.text


# What the bundle holds


def test_evidence_is_the_bundle_s(digits_bundle):
    evidence = bundle_evidence(digits_bundle)
    table = json.loads((digits_bundle / "calibration.json").read_text())
    assert [tensor.name for tensor in evidence.tensors] == list(table["tensors"])
    assert evidence.num_images == (1, 2, 4, 8, 16, 32, 64)
    relu = evidence.tensors[1]
    assert relu.amax == table["tensors"]["relu"]["amax"]
    assert sum(relu.counts) == 64 * 16 * 32 * 32  # every value of a small tensor is counted
    assert evidence.golden.shape == (16, 32, 32, 3)
    assert [row["file"] for row in evidence.rows] == ["model.onnx", "model.int8.onnx"]


@pytest.mark.parametrize("content", ["{", '{"tensors": {"relu": {}}}', '{"tensors": 3}'])
def test_damaged_calibration_is_told(digits_bundle, tmp_path, content):
    shutil.copytree(digits_bundle, tmp_path / "bundle")
    (tmp_path / "bundle" / "calibration.json").write_text(content)
    with pytest.raises(BundleError, match=r"calibration\.json.*export the bundle anew"):
        bundle_evidence(tmp_path / "bundle")


def test_thumbnails(tmp_path):
    Image.fromarray(np.full((900, 600, 3), 200, np.uint8)).save(tmp_path / "big.png")
    golden = np.zeros((2, 8, 8, 3), np.uint8)
    assert thumbnail("big.png", tmp_path, None).startswith("data:image/jpeg;base64,")
    assert len(thumbnail("big.png", tmp_path, None)) < 4000
    assert thumbnail("golden[1]", None, golden).startswith("data:image/png;base64,")
    assert thumbnail("golden[2]", None, golden) is None
    assert thumbnail("missing.png", tmp_path, None) is None
    assert thumbnail("../big.png", tmp_path / "inner", None) is None
    assert thumbnail(str(tmp_path / "big.png"), tmp_path / "inner", None) is None
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "link.png").symlink_to(tmp_path / "big.png")
    assert thumbnail("link.png", tmp_path / "inner", None) == thumbnail("big.png", tmp_path, None)
    assert thumbnail("big.png", None, None) is None


# Plots


def test_plots_take_the_page_s_colors():
    tensor = TensorRange("a$_b$", 2.0, 3.0, 0.1, (90, 0, *range(28, 0, -1)), (1.0, 1.5, 2.0))
    block = {"name": "$\\frac{", "sqnr_db": -3.0, "own_sqnr_db": None, "expected_sqnr_db": 30.0, "suspect": True}
    plots = [histogram_plot(tensor), convergence_plot([tensor], (1, 2, 4)), block_plot([block])]
    for plot in plots:
        assert plot.startswith("<svg")
        assert "var(--" in plot
        assert not any(color in plot for color in ROLES)
        assert "http" not in plot
    assert "$\\frac{" in plots[2]
    assert plots[0] == histogram_plot(tensor)


@pytest.mark.parametrize("name", ["jinja2", "matplotlib"])
def test_a_missing_library_is_told_before_the_work(digits_bundle, monkeypatch, capsys, name):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked, *rest: None if asked == name else find(asked, *rest))
    assert main(["verify", str(digits_bundle), "--html", "never.html"]) == 2
    assert f'the HTML report needs {name}; pip install "resnet-export[report]"' in capsys.readouterr().err


@pytest.mark.parametrize("name", ["jinja2", "matplotlib"])
def test_a_library_that_does_not_import_is_told(report, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingDependencyError, match=r"resnet-export\[report\]"):
        html_report(report)


# In a browser


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium, driven by Playwright."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the package playwright is not installed")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    switches = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    switches += ["--disable-component-update", "--disable-sync"]
    with sync_api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=switches)
        yield opened
        opened.close()


class Watched:
    """A page of the browser, and everything that it complained of or asked for."""

    def __init__(self, browser, scheme: str) -> None:
        self.page = browser.new_page(viewport={"width": 1200, "height": 900}, color_scheme=scheme)
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))

    def open(self, path: Path) -> None:
        self.page.goto(path.as_uri())
        self.page.wait_for_load_state("networkidle")

    @property
    def strangers(self) -> list[str]:
        return [url for url in self.requests if not url.startswith(("file:", "data:"))]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_browser_shows_it_without_a_complaint(browser, broken, scheme):
    watched = Watched(browser, scheme)
    watched.open(broken / "report.html")
    page = watched.page
    assert watched.messages == []
    assert watched.strangers == []
    assert sum(url.startswith("file:") for url in watched.requests) == 1
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("[...document.images].every(image => image.complete && image.naturalWidth > 0)")
    assert page.evaluate(
        "[...document.querySelectorAll('section > .scroll')].every(e => e.scrollWidth <= e.clientWidth)"
    )
    assert page.evaluate(
        "[...document.querySelectorAll('section > svg')].every(e => e.getBoundingClientRect().height > 80)"
    )
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    color = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
    lightness = [sum(map(int, value[4:-1].split(", "))) / 3 for value in (background, color)]
    assert (lightness[0] > 200 > 150 > lightness[1]) if scheme == "light" else (lightness[0] < 60 < 120 < lightness[1])
    page.set_viewport_size({"width": 420, "height": 900})
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    if SCREENSHOTS:
        page.set_viewport_size({"width": 1200, "height": 900})
        target = Path(__file__).parents[4] / SCREENSHOTS / f"report-{scheme}.png"
        page.screenshot(path=target, full_page=True)
        Image.open(target).convert("RGB").quantize(256).save(target, optimize=True)


def test_a_browser_runs_and_fetches_nothing_of_a_hostile_report(browser, report, tmp_path):
    (tmp_path / "hostile.html").write_text(hostile_page(report), encoding="utf-8")
    watched = Watched(browser, "light")
    watched.page.on("dialog", lambda dialog: watched.messages.append("dialog"))
    watched.open(tmp_path / "hostile.html")
    assert watched.messages == []
    assert watched.strangers == []


def test_what_the_watch_would_see(browser, tmp_path):
    """Without the page's policy a script and a picture from elsewhere are seen by the same watch."""
    (tmp_path / "bad.html").write_text(f"<!doctype html>{HOSTILE}<script>console.error('seen')</script>")
    watched = Watched(browser, "light")
    watched.page.on("dialog", lambda dialog: dialog.dismiss())
    watched.open(tmp_path / "bad.html")
    assert "seen" in watched.messages
    assert watched.strangers == ["http://example.invalid/a.png"]
