"""--features: what hooks see in PyTorch is what the file gives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from block_models import loaded, photographs, trained
from torchvision.models.feature_extraction import create_feature_extractor

from exporter.errors import FeatureError
from exporter.tracing.check_export import check_against_pytorch
from exporter.tracing.export import ExportConfig, export_loaded
from exporter.tracing.features import with_features
from runtimes.ort.adapter import OrtRuntime
from runtimes.pytorch import TorchRuntime

NAMES = ("layer1.0.conv1", "layer2")


@pytest.fixture(scope="module")
def basic():
    return loaded(trained("basic"))


def test_equals_torchvisions_extractor(basic):
    found = with_features(basic, NAMES)
    exported = export_loaded(found, ExportConfig())
    images = photographs(7)
    with OrtRuntime(exported.onnx) as runtime, torch.inference_mode():
        got = runtime.run({"input": images})
        expected = create_feature_extractor(basic.module, list(NAMES))(torch.from_numpy(images))
    assert list(got) == list(NAMES)
    for name in NAMES:
        np.testing.assert_allclose(got[name], expected[name].numpy(), rtol=1e-4, atol=1e-4)
    with TorchRuntime(found.module, output_names=found.outputs) as reference:
        report = check_against_pytorch(reference, exported.onnx, images, open_runtime=OrtRuntime)
    assert report.relative < 1e-5
    assert not any(node.op_type == "Gemm" for node in exported.onnx.graph.node), "nothing behind the last feature"
    assert any(node.name == "layer1.0.conv2" for node in exported.onnx.graph.node), "names stay those of the modules"
    ((batchnorm, reason),) = exported.folding.kept
    assert batchnorm == "layer1.0.bn1"
    assert "is also read elsewhere" in reason, "the convolution's own output is asked for"


def test_the_network_itself_is_unchanged(basic):
    before = basic.module(torch.zeros(1, 3, 64, 64))
    with_features(basic, ("layer1",))
    assert torch.equal(basic.module(torch.zeros(1, 3, 64, 64)), before)
    assert type(basic.module).forward is type(trained("basic")).forward


def test_one_feature_and_an_activation_in_place(basic):
    """bn1's output, before the ReLU behind it changes it in place."""
    found = with_features(basic, ("bn1",))
    images = photographs(2)
    seen = {}
    hook = basic.module.bn1.register_forward_hook(lambda module, inputs, output: seen.update(bn1=output.clone()))
    with torch.inference_mode():
        basic.module(torch.from_numpy(images))
    hook.remove()
    with OrtRuntime(export_loaded(found, ExportConfig()).onnx) as runtime:
        got = runtime.run({"input": images})["bn1"]
    assert (got < 0).any()
    np.testing.assert_allclose(got, seen["bn1"].numpy(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (("layer9",), "has no module 'layer9'; did you mean layer"),
        (("qqq",), "has no module 'qqq'; its children: conv1"),
        (("layer1", "layer1"), "'layer1' is given twice"),
    ],
)
def test_wrong_names(basic, names, reason):
    with pytest.raises(FeatureError, match=reason):
        with_features(basic, names)


def test_a_module_that_runs_twice_or_never():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.relu, self.unused = torch.nn.ReLU(), torch.nn.ReLU()

        def forward(self, x):
            return self.relu(self.relu(x))

    for name, reason in (("relu", "runs several times"), ("unused", "does not run")):
        found = with_features(loaded(Twice().eval()), (name,))
        with pytest.raises(FeatureError, match=reason):
            found.module(torch.zeros(1, 3, 4, 4))
