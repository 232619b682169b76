import numpy as np
import onnx
import pytest
import torch
from torch import nn

from exporter import ExportConfig, ExportedModel, export_resnet
from exporter.errors import UnknownModelError, UnsupportedOpsetError, WeightsError
from exporter.target import TARGETS
from exporter.tracing.check_export import check_against_pytorch
from exporter.version import __version__
from runtimes.ort.adapter import OrtRuntime
from runtimes.pytorch import TorchRuntime


@pytest.fixture(scope="module")
def exported():
    return export_resnet("cifar_resnet20", ExportConfig(TARGETS["jetpack5"]), weights="random")


def test_front_door(exported):
    assert isinstance(exported, ExportedModel)
    onnx.checker.check_model(exported.onnx, full_check=True)
    assert [(entry.domain, entry.version) for entry in exported.onnx.opset_import] == [("", 17)]
    assert (exported.onnx.producer_name, exported.onnx.producer_version) == ("resnet-export", __version__)
    assert exported.config == ExportConfig(TARGETS["jetpack5"])
    assert exported.loaded.weights == "random (seed 0)"


def test_every_batchnorm_is_folded_and_the_reference_is_not(exported):
    assert (len(exported.folding.folded), exported.folding.kept) == (21, ())
    assert "BatchNormalization" not in {node.op_type for node in exported.onnx.graph.node}
    assert sum(isinstance(child, nn.BatchNorm2d) for child in exported.module.modules()) == 21
    assert exported.module is exported.loaded.module
    assert exported.preprocessing is exported.loaded.preprocessing


def test_answers_as_the_reference(exported):
    images = np.random.default_rng(0).normal(size=(7, 3, 32, 32)).astype(np.float32)
    with TorchRuntime(exported.module) as reference:
        report = check_against_pytorch(reference, exported.onnx, images, open_runtime=OrtRuntime)
    assert report.relative < 1e-5


def test_random_weights_export_the_same_bytes_twice(exported):
    torch.manual_seed(5)
    again = export_resnet("cifar_resnet20", exported.config, weights="random")
    assert again.onnx.SerializeToString(deterministic=True) == exported.onnx.SerializeToString(deterministic=True)


def test_errors_come_before_any_work():
    with pytest.raises(UnknownModelError, match="did you mean resnet50"):
        export_resnet("resnet_50")
    with pytest.raises(UnsupportedOpsetError, match="opset 21 does not fit"):
        export_resnet("resnet50", ExportConfig(opset=21))
    with pytest.raises(WeightsError, match="no such file"):
        export_resnet("resnet50", weights="missing.pth")
