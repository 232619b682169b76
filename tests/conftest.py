"""Real images for the tests, made once a session from what scikit-learn and scikit-image ship."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]


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
