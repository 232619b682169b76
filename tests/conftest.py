"""Real images and trained networks for the tests, made once a session from what scikit-learn and scikit-image ship."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto
from PIL import Image

ROOT = Path(__file__).parents[1]
SEED = 20261202


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep the tests away from the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RESNET_EXPORT_CACHE", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's images: `calib/<digit>/` and `val/<digit>/`."""
    import sys

    folder = tmp_path_factory.mktemp("digits")
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
    return folder


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty-eight JPEG crops of six photographs."""
    import skimage.data

    folder = tmp_path_factory.mktemp("photos")
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
    return folder


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network as float ONNX, images to calibrate with and others, prepared: float32 [n, 3, H, W]."""

    model: ModelProto
    calibration: np.ndarray
    held_out: np.ndarray


@pytest.fixture(scope="session")
def digits_network(digits_folder: Path) -> TrainedNetwork:
    """The demo's ResNet-20 and its images: 256 and 360, evenly mixed over the classes."""
    from calibration.observers.sample_images import evenly_ordered
    from exporter import export_resnet
    from runtimes import preprocess, read_image

    exported = export_resnet(
        "cifar_resnet20", weights=str(ROOT / "examples" / "digits" / "resnet20_digits.safetensors")
    )

    def images(folder: Path) -> np.ndarray:
        paths = evenly_ordered(folder, sorted(path for path in folder.rglob("*.png")))
        return np.stack([preprocess(exported.preprocessing, read_image(path)) for path in paths])

    return TrainedNetwork(exported.onnx, images(digits_folder / "calib"), images(digits_folder / "val"))


@pytest.fixture(scope="session")
def digits_bundle(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's network as a bundle of FP32 and INT8 files, calibrated on a few images; not to be changed."""
    from cli_runs import export_digits

    output = tmp_path_factory.mktemp("bundles") / "digits-int8"
    options = ("--int8", "--effort", 0, "--num-calib", 64, "--val", digits_folder / "val", "--num-val", 100, "--quiet")
    assert export_digits(digits_folder, output, *options) == 0
    return output


@pytest.fixture(scope="session")
def engine_bundle(digits_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's network in every precision, for TensorRT 8 and its DLA; not to be changed."""
    from cli_runs import export_digits

    output = tmp_path_factory.mktemp("bundles") / "digits-engines"
    words = ("--int8", "--fp16", "--dla", "--target", "jetpack5", "--effort", 0, "--num-calib", 64, "--quiet")
    assert export_digits(digits_folder, output, *words) == 0
    return output


@pytest.fixture(scope="session")
def bottleneck_network() -> TrainedNetwork:
    """Grouped bottlenecks with a strided projection at 8 x 8, trained here in seconds on scikit-learn's digits."""
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
    return TrainedNetwork(export_loaded_module(module, size=8), pixels[train[:256]], pixels[held_out])
