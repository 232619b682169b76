import copy
from dataclasses import replace
from functools import partial

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from exporter.errors import ExportCheckError, NonFiniteTensorError
from exporter.graph.onnx_graph import copy_model
from exporter.models.architecture import CIFAR_PREPROCESSING
from exporter.models.check_images import load_check_images
from exporter.models.torchvision_source import IMAGENET_PREPROCESSING
from exporter.networks.cifar_resnet import CifarResNet
from exporter.tracing.check_export import (
    BATCH_SIZES,
    MAX_RELATIVE_DIFFERENCE,
    CheckReport,
    check_against_pytorch,
    first_nonfinite_tensor,
)
from exporter.tracing.float32_rounding import ExactOutput, exact_outputs
from exporter.tracing.trace import trace
from runtimes.ort.adapter import OrtRuntime
from runtimes.pytorch import TorchRuntime


def with_statistics(module):
    for child in module.modules():
        if isinstance(child, nn.BatchNorm2d):
            nn.init.normal_(child.running_mean, std=0.3)
            nn.init.uniform_(child.running_var, 0.5, 2.0)
            nn.init.uniform_(child.weight, 0.5, 1.5)
            nn.init.normal_(child.bias, std=0.3)
    return module.eval()


def export(module, size):
    return trace(module, torch.zeros(2, 3, size, size), opset=17)[0]


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    return with_statistics(CifarResNet(8))


@pytest.fixture(scope="module")
def model(module):
    return export(module, 32)


@pytest.fixture(scope="module")
def images():
    return load_check_images(CIFAR_PREPROCESSING)


def check(module, model, images):
    with TorchRuntime(module) as reference:
        return check_against_pytorch(reference, model, images, open_runtime=OrtRuntime)


def edited(model, name, change):
    """Return a copy in which one constant is `change(old)`."""
    copied = copy_model(model)
    tensor = next(tensor for tensor in copied.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(change(numpy_helper.to_array(tensor).copy())), name))
    return copied


# Passes


def test_export_passes_with_room_to_spare(module, model, images):
    report = check(module, model, images)
    assert report.batch_sizes == BATCH_SIZES == (1, 2, 7)
    assert report.num_images == 7
    assert report.max_abs_logit > 0
    assert report.relative == report.max_abs_diff / report.max_abs_logit < 1e-5


def test_few_images_are_repeated(module, model, images):
    assert check(module, model, images[:2]).num_images == 2


@pytest.mark.slow
def test_difference_of_a_torchvision_resnet():
    torch.manual_seed(0)
    from torchvision.models.resnet import BasicBlock, ResNet

    module = with_statistics(ResNet(BasicBlock, [1, 1, 1, 1]))
    small = replace(IMAGENET_PREPROCESSING, resize=(96, 96), crop=None)
    report = check(module, export(module, 96), load_check_images(small))
    print(f"resnet10: {report.relative:.2g} of the largest |logit|")
    assert report.relative < 1e-5 < MAX_RELATIVE_DIFFERENCE


def test_relative_difference_of_all_zero_logits():
    assert CheckReport((1,), 1, 0.0, 0.0).relative == 0.0
    assert CheckReport((1,), 1, 0.5, 0.0).relative == 0.5
    assert CheckReport((1,), 1, 0.5, 10.0).relative == 0.05


# Fails


def damages():
    def swapped(weight):
        return weight.transpose(0, 1, 3, 2)

    def one_channel_off(weight):
        weight[3] *= 1.05
        return weight

    return {
        "kernel transposed": ("layer2.0.conv2.weight", swapped),
        "last layer's rows reversed": ("fc.weight", lambda weight: weight[::-1]),
        "one channel scaled by 5 percent": ("layer1.0.conv1.weight", one_channel_off),
        "bias dropped": ("layer3.0.conv1.bias", np.zeros_like),
        "bias of the last layer dropped": ("fc.bias", np.zeros_like),
        "BatchNorm left out of the bias": ("conv1.bias", lambda bias: -bias),
    }


@pytest.mark.parametrize("damage", damages())
def test_damaged_model_fails_with_both_numbers(module, model, images, damage):
    name, change = damages()[damage]
    with pytest.raises(
        ExportCheckError,
        match=r"at batch 1 the largest \|difference\| is \S+ where the largest \|logit\| is \S+ \(allowed: 0\.0001 of",
    ) as caught:
        check(module, edited(model, name, change), images)
    assert "nothing was written" in str(caught.value)


def test_other_weights_fail(model, images):
    torch.manual_seed(1)
    with pytest.raises(ExportCheckError, match="does not answer like PyTorch"):
        check(with_statistics(CifarResNet(8)), model, images)


def test_other_epsilon_fails(module, images):
    """A BatchNorm of variance 1 and eps 1e-3 instead of 1e-5 is 5e-4 off: more than is allowed."""
    torch.manual_seed(0)
    other = with_statistics(CifarResNet(8))
    for child in other.modules():
        if isinstance(child, nn.BatchNorm2d):
            child.eps = 1e-3
    with pytest.raises(ExportCheckError):
        check(module, export(other, 32), images)


def test_constant_batch_axis_fails(module, model, images):
    constant = copy_model(model)
    pool = next(node for node in constant.graph.node if node.op_type == "Flatten")
    pool.op_type = "Reshape"
    del pool.attribute[:]
    constant.graph.initializer.append(numpy_helper.from_array(np.array([1, -1]), "target"))
    pool.input.append("target")
    with pytest.raises(ExportCheckError, match=r"does not run at batch 2, where PyTorch does: .*nothing was written"):
        check(module, constant, images)
    fixed = copy_model(model)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2
    with pytest.raises(ExportCheckError, match=r"does not run at batch 1, .*expected float32 \[2, 3, 32, 32\]"):
        check(module, fixed, images)


class BranchesOnBatch(nn.Module):
    """Tracing with two images keeps the axis symbolic and loses the branch for one."""

    def forward(self, x):
        return x.mean((2, 3)) if x.shape[0] > 1 else x.amax((2, 3))


@pytest.mark.filterwarnings("ignore")
def test_branch_on_the_batch_size_fails_at_batch_1(images):
    module = BranchesOnBatch().eval()
    with pytest.raises(ExportCheckError, match="at batch 1"):
        check(module, trace(module, torch.zeros(2, 3, 32, 32), opset=17)[0], images)


class MixesImages(nn.Module):
    """Wrong from the third image on."""

    def forward(self, x):
        return x.mean((2, 3)) + (x.shape[0] // 3) * 0.01


def test_difference_that_only_a_larger_batch_shows(images):
    class Plain(nn.Module):
        def forward(self, x):
            return x.mean((2, 3))

    model = trace(Plain().eval(), torch.zeros(2, 3, 32, 32), opset=17)[0]
    with pytest.raises(ExportCheckError, match="at batch 7"):
        check(MixesImages().eval(), model, images)


def test_other_number_of_classes(module, model, images):
    torch.manual_seed(0)
    with pytest.raises(ExportCheckError, match=r"batch 1: ONNX gives \(1, 10\), PyTorch \(1, 7\)"):
        check(with_statistics(CifarResNet(8, 7)), model, images)


# NaN and Inf


def test_nan_in_the_exported_model_alone(module, model, images):
    def spoiled(weight):
        weight[0, 0] = np.nan
        return weight

    with pytest.raises(ExportCheckError, match=r"largest \|difference\| is nan"):
        check(module, edited(model, "fc.weight", spoiled), images)


@pytest.mark.parametrize(
    ("parameter", "tensor"),
    [("layer2.0.conv1.weight", "layer2.0.conv1"), ("fc.bias", "logits"), ("conv1.weight", "conv1")],
)
def test_nan_in_pytorch_names_the_first_tensor(module, model, parameter, tensor, images):
    module = copy.deepcopy(module)
    path, _, kind = parameter.rpartition(".")
    with torch.no_grad():
        module.get_submodule(path).get_parameter(kind)[0] = float("nan")
    spoiled = edited(
        model, parameter, lambda values: np.where(np.arange(len(values)) == 0, np.nan, values.T).T.astype("f")
    )
    with pytest.raises(
        NonFiniteTensorError, match=f"NaN or Inf on real images, first in '{tensor}'; check the weights"
    ):
        check(module, spoiled, images)


def test_first_nonfinite_tensor_of_a_sound_model(model, images):
    assert first_nonfinite_tensor(model, images[:1], open_runtime=OrtRuntime) is None


def test_overflow_is_found_where_it_starts(model, images):
    grown = edited(model, "layer2.0.conv1.weight", lambda weight: weight * np.float32(1e30))
    grown = edited(grown, "layer2.0.conv2.weight", lambda weight: weight * np.float32(1e30))
    assert first_nonfinite_tensor(grown, images[:1], open_runtime=OrtRuntime) == "layer2.0.conv2"


def test_infinities_that_the_reference_holds_too_are_passed_over(model, images):
    """A bias of -inf takes a channel out before a maximum; where another is infinite, too, something overflows."""
    masked = edited(model, "layer2.0.conv1.bias", lambda bias: np.where(np.arange(len(bias)) == 3, -np.inf, bias))
    other = edited(model, "layer2.0.conv1.bias", lambda bias: np.where(np.arange(len(bias)) < 2, -np.inf, bias))
    first = partial(first_nonfinite_tensor, images=images[:1], open_runtime=OrtRuntime)
    assert first(masked) == first(masked, reference=model) == first(masked, reference=other) == "layer2.0.conv1"
    assert first(masked, reference=masked) is None


def test_first_nonfinite_tensor_leaves_the_model_alone(model, images):
    before = model.SerializeToString()
    first_nonfinite_tensor(model, images[:1], open_runtime=OrtRuntime)
    assert model.SerializeToString() == before


# The images themselves


def test_check_images():
    images = load_check_images(IMAGENET_PREPROCESSING)
    assert images.shape == (16, 3, 224, 224)
    assert images.dtype == np.float32
    assert np.isfinite(images).all()
    assert len({image.tobytes() for image in images}) == 16
    assert images.std() > 0.5
    np.testing.assert_allclose(images[1], images[0][..., ::-1], rtol=0, atol=0.05)  # the mirrored one


def test_onnx_is_checked_as_a_user_gets_it(model):
    onnx.checker.check_model(model, full_check=True)


# Rounding


class LuckyReference:
    """PyTorch on a processor whose sums happen to round to the exact answers."""

    def __init__(self, module):
        self._runtime = TorchRuntime(module)
        self._module = module
        self.input_specs, self.output_specs = self._runtime.input_specs, self._runtime.output_specs

    def run(self, inputs):
        (output,) = exact_outputs(self._module, inputs["input"])
        return {"logits": output.values.astype(np.float32)}


@pytest.mark.parametrize("luck", [TorchRuntime, LuckyReference])
def test_where_float32_rounds_more_than_allowed_float64_decides(luck, module, model, images, monkeypatch):
    """A right export passes, in whatever order this processor adds and however lucky PyTorch was."""
    monkeypatch.setattr("exporter.tracing.check_export.MAX_RELATIVE_DIFFERENCE", 1e-12)
    report = check_against_pytorch(
        luck(module), model, images, open_runtime=OrtRuntime, exact=partial(exact_outputs, module)
    )
    assert report.max_rounding is not None
    assert 0 < report.max_rounding < 1e-5 * report.max_abs_logit


@pytest.mark.parametrize(("off", "told"), [(1.2, True), (1.0, False)])
def test_answers_of_pytorch_that_are_chance_are_told(module, model, images, off, told):
    """A file is refused as before, and the message says that PyTorch disagrees with itself."""

    def exact(batch):
        return [ExactOutput(one.values * off, 0.0) for one in exact_outputs(module, batch)]

    name, change = damages()["last layer's rows reversed"]
    with (
        TorchRuntime(module) as reference,
        pytest.raises(ExportCheckError, match="does not answer like PyTorch") as caught,
    ):
        check_against_pytorch(reference, edited(model, name, change), images, open_runtime=OrtRuntime, exact=exact)
    assert ("from PyTorch in float64, 17% of the largest |logit|: this network blows" in str(caught.value)) == told


@pytest.mark.parametrize("damage", damages())
def test_float64_excuses_no_damage(module, model, images, damage):
    name, change = damages()[damage]
    with TorchRuntime(module) as reference, pytest.raises(ExportCheckError, match="does not answer like PyTorch"):
        check_against_pytorch(
            reference,
            edited(model, name, change),
            images,
            open_runtime=OrtRuntime,
            exact=partial(exact_outputs, module),
        )


class Standardizes(nn.Module):
    """Divide by how much the picture varies, as networks do that standardize their own input."""

    def forward(self, x):
        x = (x - x.mean((2, 3), keepdim=True)) / (x.std((2, 3), keepdim=True) + 1e-8)
        return torch.cat([x.amax((2, 3)), x.abs().mean((2, 3))], 1)


@pytest.mark.parametrize(("name", "told"), [("a frame of one color", True), ("noise", False)])
def test_a_difference_that_only_a_frame_of_one_color_shows_is_told(images, name, told):
    """Means of equal values are off by roundings, and PyTorch's is another one than ONNX Runtime's."""
    frame = np.full_like(images[:1], 0.3)
    if not told:
        frame[..., 0, 0] += 1e-7
    standard = Standardizes().eval()
    with TorchRuntime(standard) as reference, pytest.raises(ExportCheckError, match=f"on {name}") as caught:
        check_against_pytorch(reference, export(standard, 32), images, open_runtime=OrtRuntime, hard={name: frame})
    assert ("On photographs both agree. This frame has one color" in str(caught.value)) == told
