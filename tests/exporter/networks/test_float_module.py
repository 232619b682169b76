"""Modules that are refused before they are traced, each made by PyTorch's own functions, with what to give instead."""

import pytest
import torch
from torch import nn
from torch.ao import quantization

from exporter.errors import ExportError, ModelObjectError, WeightsError
from exporter.models.module_source import load_module
from exporter.networks.float_module import check_is_float
from exporter.preprocessing.options import PreprocessingOptions
from exporter.tracing.trace import trace
from resnet_export.api.export import checked_model

OPTIONS = PreprocessingOptions(12, None, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
IMAGES = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(5))


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()


def prepared_in_training() -> nn.Module:
    module = network().train()
    module.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    return quantization.prepare_qat(module)


def prepared() -> nn.Module:
    module = network()
    module.qconfig = quantization.get_default_qconfig("fbgemm")
    return quantization.prepare(module)


def with_stubs() -> nn.Module:
    return nn.Sequential(quantization.QuantStub(), *network(), quantization.DeQuantStub()).eval()


def converted() -> nn.Module:
    module = with_stubs()
    module.qconfig = quantization.get_default_qconfig("fbgemm")
    observed = quantization.prepare(module)
    observed(IMAGES)
    return quantization.convert(observed)


def scripted_in_part() -> nn.Module:
    return nn.Sequential(torch.jit.script(nn.Sequential(*network()[:2])), *network()[2:])


def sparse() -> nn.Module:
    module = network()
    module[4].weight = nn.Parameter(module[4].weight.detach().to_sparse())
    return module


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (prepared_in_training, r"prepared for PyTorch's own quantization \(.*fake_quantize.*give the float32 model"),
        (prepared, r"prepared for PyTorch's own quantization \(.*observer.*give the float32 model"),
        (converted, r"it is quantized already \(0 is a torch\.ao\.nn\.quantized.*give the float32 model"),
        (
            lambda: torch.jit.script(network()),
            r"itself is TorchScript; give the module that it was made from",
        ),
        (lambda: torch.jit.trace(network(), IMAGES), r"itself is TorchScript; .* dynamo=False"),
        (scripted_in_part, r"Sequential: 0 is TorchScript"),
        (lambda: nn.Sequential(nn.LazyConv2d(4, 3)), r"0\.weight has no shape yet .* call the module once"),
        (sparse, r"4\.weight is stored as torch\.sparse_coo; .*to_dense"),
        (lambda: network().to(torch.complex64), r"0\.weight is torch\.complex64, expected torch\.float32"),
    ],
)
def test_it_is_refused_with_what_to_give_instead(make, words) -> None:
    with pytest.raises(ModelObjectError, match=words):
        load_module(make(), OPTIONS)


def test_weights_without_values() -> None:
    with torch.device("meta"):
        module = network()
    with pytest.raises(WeightsError, match=r'0\.weight has no values .device "meta".; load weights'):
        load_module(module, OPTIONS)


def test_a_program_of_torch_export_is_told_how_it_is_converted() -> None:
    with pytest.raises(TypeError, match=r"got ExportedProgram, expected .*or convert it and give model\.onnx: torch"):
        checked_model(torch.export.export(network(), (IMAGES,)))


@pytest.mark.filterwarnings("ignore")
def test_places_where_a_quantizer_may_stand_are_no_quantizer() -> None:
    module = with_stubs()
    check_is_float(module, "m")
    torch.testing.assert_close(load_module(module, OPTIONS).module(IMAGES), module(IMAGES), rtol=0, atol=0)


class Narrow(nn.Module):
    def __init__(self, kind: torch.dtype) -> None:
        super().__init__()
        self.network, self.kind = network(), kind

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.autocast("cpu", dtype=self.kind):
            return self.network(images).float()


class Rounded(Narrow):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images.to(self.kind).float())


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (Narrow(torch.bfloat16), "bfloat16"),
        (Narrow(torch.float16), r"float16 \(Conv"),
        (Rounded(torch.bfloat16), "bfloat16"),
    ],
)
def test_a_forward_that_computes_in_less_than_float32(module, said) -> None:
    with pytest.raises(ExportError, match=rf"its forward computes in {said}.*expected float32; take that out"):
        trace(module.eval(), IMAGES, opset=20)


def test_what_is_rounded_to_float16_outside_of_layers_is_taken() -> None:
    model, _ = trace(Rounded(torch.float16).eval(), IMAGES, opset=20)
    assert {node.op_type for node in model.graph.node} >= {"Cast", "Conv"}
