"""Real images and trained networks for the tests, made once a session from what scikit-learn and scikit-image ship."""

from __future__ import annotations

import atexit
import functools
import gc
import importlib.util
import logging
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from built_once import built_once, folder_of_the_run
from one_thread import sessions_on_one_thread
from onnx import ModelProto
from PIL import Image

ROOT = Path(__file__).parents[1]
SEED = 20261202
sessions_on_one_thread()
if "PYTEST_XDIST_WORKER" in os.environ:
    # Taking a worker's modules and models apart one by one takes seconds and tests nothing. Registered first, run last.
    atexit.register(os._exit, 0)

WHOLE_RUNS = ("e2e/", "robustness/", "benchmarks/")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what `make test-fast` leaves out, and begin with the slowest files: no worker is left alone at the end."""
    slow = frozenset(listed("slow_tests.txt"))
    rank = {name: place for place, name in enumerate(listed("slowest_first.txt"))}
    places = {item: item.path.relative_to(ROOT / "tests").as_posix() for item in items}
    for item, place in places.items():
        if place.startswith(WHOLE_RUNS) or f"{place}::{item.nodeid.partition('[')[0].partition('::')[2]}" in slow:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: rank.get(places[item], len(rank)))


def listed(name: str) -> list[str]:
    """Return the lines of a list beside this file."""
    return (ROOT / "tests" / name).read_text(encoding="utf-8").split()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Never look for garbage among modules and tests, which stay to the end: half of the time of collecting them."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000)
        gc.enable()


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish() -> None:
    """Leave what the tests made alone: pytest ends by looking through all of it for garbage five times."""
    gc.freeze()


class Logged(logging.Handler):
    """Keeps the messages that are logged.

    pytest's own `caplog` hangs itself onto every logger before and after each step of each test, and torch has many.
    """

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())

    @property
    def text(self) -> str:
        return "\n".join(self.messages)


@pytest.fixture
def logged() -> Iterator[Logged]:
    handler = Logged()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the tests away from the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RESNET_EXPORT_CACHE", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all workers of this run share."""
    return folder_of_the_run(tmp_path_factory)


@pytest.fixture(scope="session", autouse=True)
def shared_exports(shared_folder: Path) -> Iterator[None]:
    """Trace the same network once in a run, wherever a test runs the command or asks for `export_shared`."""
    from shared_exports import exports_shared_in, keep_the_list_of_operators

    if "torch" in sys.modules:
        keep_the_list_of_operators()
    with exports_shared_in(shared_folder / "exports"):
        yield


@pytest.fixture(scope="session", autouse=True)
def short_timing() -> Iterator[None]:
    """Let an export time three calls a file instead of fifty; no test reads the figures."""
    from resnet_export.export_job import measure

    with pytest.MonkeyPatch.context() as patch:
        times = functools.partial(measure.measure_latency, warm_up=1, min_runs=3, max_runs=3)
        patch.setattr(measure, "measure_latency", times)
        yield


@pytest.fixture
def own_exports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test's own runs trace for themselves."""
    from exporter.tracing import export

    monkeypatch.setattr(export, "export_loaded", export.export_loaded.__wrapped__)


@pytest.fixture(scope="session")
def digits_folder(shared_folder: Path) -> Path:
    """The demo's images: `calib/<digit>/` and `val/<digit>/`; not to be changed."""
    return built_once(shared_folder / "digits", write_digits)


@pytest.fixture(scope="session")
def few_digits(digits_folder: Path, shared_folder: Path) -> Path:
    """A third of the demo's `calib/`, and of `val/` what a top-1 drop of two points takes: 16 of each class."""

    def write(folder: Path) -> None:
        groups = [sorted(group.iterdir()) for group in digits_folder.glob("val/*")]
        chosen = sorted(digits_folder.glob("calib/*/*"))[::3] + [path for group in groups for path in group[:16]]
        for path in chosen:
            copy = folder / path.relative_to(digits_folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, copy)

    return built_once(shared_folder / "few-digits", write)


def write_digits(folder: Path) -> None:
    sys.path.insert(0, str(ROOT / "examples" / "digits"))
    try:
        spec = importlib.util.spec_from_file_location("write_images", ROOT / "examples" / "digits" / "write_images.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        module.write_images(folder)
    finally:
        sys.path.pop(0)


@pytest.fixture(scope="session")
def photo_folder(shared_folder: Path) -> Path:
    """Forty-eight JPEG crops of six photographs; not to be changed."""
    return built_once(shared_folder / "photos", write_photos)


def write_photos(folder: Path) -> None:
    import skimage.data

    folder.mkdir()
    names = ("astronaut", "chelsea", "coffee", "rocket", "hubble_deep_field", "retina")
    for name in names:
        photo = Image.fromarray(getattr(skimage.data, name)())
        width, height = photo.size
        for column in range(4):
            for row in range(2):
                box = (
                    column * width // 8,
                    row * height // 4,
                    column * width // 8 + width // 2,
                    (row + 2) * height // 4,
                )
                photo.crop(box).save(folder / f"{name}-{column}{row}.jpg", quality=92)


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network as float ONNX, images to calibrate with and others, prepared: float32 [n, 3, H, W]."""

    model: ModelProto
    calibration: np.ndarray
    held_out: np.ndarray


@pytest.fixture(scope="session")
def digits_network(digits_folder: Path) -> TrainedNetwork:
    """The demo's ResNet-20 and its images: 256 and 360, evenly mixed over the classes."""
    from small_digits import DIGITS_WEIGHTS

    return network_of_digits("cifar_resnet20", DIGITS_WEIGHTS, digits_folder)


@pytest.fixture(scope="session")
def small_network(small_weights: Path, digits_folder: Path) -> TrainedNetwork:
    """The network of `small_digits`, a third of the demo's, and the same images."""
    from small_digits import MODEL

    return network_of_digits(MODEL, small_weights, digits_folder)


def network_of_digits(name: str, weights: Path, digits: Path) -> TrainedNetwork:
    from shared_exports import export_shared

    from calibration.observers.sample_images import split_images
    from exporter.models.load_model import load_model
    from exporter.models.loaded_model import ModelRequest
    from runtimes import preprocess, read_image

    exported = export_shared(load_model(ModelRequest(name, str(weights))))

    def images(folder: Path) -> np.ndarray:
        found = sorted(folder.rglob("*.png"))
        paths = split_images(folder, found, num_calibration=len(found), hold_out=False).calibration
        return np.stack([preprocess(exported.preprocessing, read_image(path)) for path in paths])

    return TrainedNetwork(exported.onnx, images(digits / "calib"), images(digits / "val"))


@pytest.fixture(scope="session")
def digits_bundle(small_weights: Path, digits_folder: Path, shared_folder: Path) -> Path:
    """A small digits network as a bundle of FP32 and INT8 files, calibrated on a few images; not to be changed."""
    words = ("--int8", "--effort", 0, "--num-calib", 64, "--val", digits_folder / "val", "--num-val", 100)
    words += ("--measure-on", "openvino") if importlib.util.find_spec("openvino") else ()
    return bundle_of_digits(shared_folder / "int8" / "digits-int8", digits_folder, *words, small=small_weights)


@pytest.fixture(scope="session")
def small_weights(digits_folder: Path, shared_folder: Path) -> Path:
    """Weights of `small_digits.MODEL`, which costs a third of the demo's network; not to be changed."""
    from small_digits import write_weights

    return built_once(shared_folder / "small.safetensors", lambda path: write_weights(path, digits=digits_folder))


@pytest.fixture(scope="session")
def main_bundle(digits_folder: Path, shared_folder: Path) -> Path:
    """The demo's network by the demo's command, every image and default; not to be changed."""
    words = ("--int8", "--fp16", "--val", digits_folder / "val")
    return bundle_of_digits(shared_folder / "main" / "cifar_resnet20-int8", digits_folder, *words)


@pytest.fixture(scope="session")
def engine_bundle(small_weights: Path, digits_folder: Path, shared_folder: Path) -> Path:
    """A small digits network in every precision, for TensorRT 8 and its DLA; not to be changed."""
    words = ("--int8", "--fp16", "--dla", "--target", "jetpack5", "--effort", 0, "--num-calib", 64)
    return bundle_of_digits(shared_folder / "engines" / "digits-engines", digits_folder, *words, small=small_weights)


def bundle_of_digits(output: Path, digits: Path, *words: object, small: Path | None = None) -> Path:
    from cli_runs import export_digits, export_small

    def build(folder: Path) -> None:
        options = (digits, folder / output.name, *words, "--quiet")
        assert (export_digits(*options) if small is None else export_small(small, *options)) == 0

    return built_once(output.parent, build) / output.name


@pytest.fixture(scope="session")
def bottleneck_network(shared_folder: Path) -> TrainedNetwork:
    """Grouped bottlenecks with a strided projection at 8 x 8, trained here in seconds on scikit-learn's digits."""
    folder = built_once(shared_folder / "bottleneck", train_bottlenecks)
    with np.load(folder / "images.npz") as images:
        return TrainedNetwork(onnx.load(folder / "model.onnx"), images["calibration"], images["held_out"])


def train_bottlenecks(folder: Path) -> None:
    import torch
    from graph_builder import export_loaded_module
    from sklearn.datasets import load_digits
    from torch import nn
    from torchvision.models.resnet import Bottleneck

    torch.manual_seed(SEED)
    projection = nn.Sequential(nn.Conv2d(16, 64, 1, 2, bias=False), nn.BatchNorm2d(64))
    module = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        Bottleneck(16, 16, 2, projection, groups=4),
        Bottleneck(64, 16, groups=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )
    data = load_digits()
    pixels = ((data.images - 4.9) / 6.0).astype(np.float32)[:, np.newaxis].repeat(3, axis=1)
    order = np.random.default_rng(SEED).permutation(len(pixels))
    train, held_out = order[:1400], order[1400:]
    images, labels = torch.from_numpy(pixels[train]), torch.from_numpy(data.target[train])
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3, weight_decay=1e-2)
    for _ in range(8):
        for batch in torch.randperm(len(train)).split(50):
            optimizer.zero_grad()
            nn.functional.cross_entropy(module(images[batch]), labels[batch]).backward()
            optimizer.step()
    folder.mkdir()
    onnx.save(export_loaded_module(module, size=8), folder / "model.onnx")
    np.savez(folder / "images.npz", calibration=pixels[train[:256]], held_out=pixels[held_out])
