"""Small ONNX graphs, written line by line in a test: each method adds one node and returns the tensor it makes."""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

IR_VERSION = {13: 7, 17: 8, 19: 9, 20: 9}


class GraphBuilder:
    """A graph with one input `input`, float32 [batch, channels, size, size]; a node and its output share a name."""

    def __init__(self, *, channels: int = 2, size: int = 8, seed: int = 0) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self.channels = {"input": channels}
        self.inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", channels, size, size])]
        self.random = np.random.default_rng(seed)

    def constant(self, name: str, values) -> str:
        self.initializers[name] = numpy_helper.from_array(np.asarray(values), name)
        return name

    def node(self, op: str, name: str, *inputs: str, **attributes) -> str:
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        self.channels[name] = self.channels.get(inputs[0], 0) if inputs else 0
        return name

    def conv(self, name: str, data: str, out: int, *, kernel: int = 3, stride: int = 1, weight: str = "") -> str:
        """Add a Conv that keeps the size at stride 1; `weight` names an existing constant, else it is drawn."""
        if not weight:
            values = self.random.normal(0, 0.3, (out, self.channels[data], kernel, kernel)).astype(np.float32)
            weight = self.constant(f"{name}.weight", values)
        bias = self.constant(f"{name}.bias", self.random.normal(0, 0.1, out).astype(np.float32))
        self.node("Conv", name, data, weight, bias, strides=[stride, stride], pads=[kernel // 2] * 4)
        self.channels[name] = out
        return name

    def gemm(self, name: str, data: str, out: int, **attributes) -> str:
        """Pool globally, flatten, and add a Gemm; `transB` decides how its weight lies."""
        flat = self.node("Flatten", f"{name}.flat", self.node("GlobalAveragePool", f"{name}.pool", data), axis=1)
        shape = (out, self.channels[data]) if attributes.get("transB") else (self.channels[data], out)
        weight = self.constant(f"{name}.weight", self.random.normal(0, 0.3, shape).astype(np.float32))
        bias = self.constant(f"{name}.bias", self.random.normal(0, 0.1, out).astype(np.float32))
        return self.node("Gemm", name, flat, weight, bias, **attributes)

    def model(self, *outputs: str, opset: int = 17) -> ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "test",
            self.inputs,
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            list(self.initializers.values()),
        )
        model = helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=IR_VERSION.get(opset, 9)
        )
        model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)  # gives outputs a shape
        del model.graph.value_info[:]
        onnx.checker.check_model(model, full_check=True)
        return model


def three_convolutions() -> ModelProto:
    """Three convolutions in a row, 2 -> 4 -> 3 -> 2 channels at 8 x 8."""
    build = GraphBuilder()
    build.node("Relu", "a.relu", build.conv("a", "input", 4))
    build.node("Relu", "b.relu", build.conv("b", "a.relu", 3))
    build.conv("c", "b.relu", 2)
    return build.model("c")


def export_random(module, *, size: int, opset: int | None = None, seed: int = 0) -> ModelProto:
    """Fold and export a PyTorch ResNet, its BatchNorms filled at random first: a zero bias would not be exported."""
    import torch

    from exporter.networks.cifar_resnet import CifarResNet

    generator = torch.Generator().manual_seed(seed)
    for name, tensor in module.state_dict().items():
        if name.endswith((".running_mean", ".bias")) and tensor.ndim == 1:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)
        elif name.endswith(".running_var"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    if isinstance(module, CifarResNet):  # its graph names no size: traced at one, it is what tracing at the other gives
        return resized(export_loaded_module(module, size=32, opset=opset), size)
    return export_loaded_module(module, size=size, opset=opset)


def resized(model: ModelProto, size: int) -> ModelProto:
    """Return a model whose graph names no size of a picture, for pictures of this size."""
    result = ModelProto.FromString(model.SerializeToString())
    for dim in result.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_value = size
    del result.graph.value_info[:]
    return onnx.shape_inference.infer_shapes(result, check_type=True, strict_mode=True)


def make_resnet8(size: int = 32) -> ModelProto:
    """Return a CIFAR ResNet-8 of random weights, the same ones at every call."""
    import torch

    from exporter.networks.cifar_resnet import CifarResNet

    torch.manual_seed(20261126)
    return export_random(CifarResNet(8), size=size)


def make_resnet18() -> ModelProto:
    """Return torchvision's ResNet-18 at 224 x 224 of random weights, the same ones at every call."""
    import torch
    from torchvision.models import resnet18

    torch.manual_seed(20261126)
    return export_random(resnet18(), size=224)


def three_stages_of_resnet(kind: str, blocks: tuple[int, int, int], **options: int):
    """Return torchvision's ResNet for 10 classes without its last stage, which has three quarters of the weights."""
    from torch import nn
    from torchvision.models import resnet

    network = resnet.ResNet(getattr(resnet, kind), [*blocks, 1], **options)
    network.layer4, network.fc = nn.Identity(), nn.Linear(network.fc.in_features // 2, 10)
    return network


def export_loaded_module(module, *, size: int, opset: int | None = None, num_classes: int = 10) -> ModelProto:
    """Fold and export a PyTorch module as it is."""
    from exporter.models.loaded_model import LoadedModel
    from exporter.models.torchvision_source import IMAGENET_PREPROCESSING
    from exporter.tracing.export import ExportConfig, export_loaded

    loaded = LoadedModel(
        module=module.eval(),
        model_id="test",
        source="test",
        weights="random",
        weights_sha256="",
        preprocessing=dataclasses.replace(IMAGENET_PREPROCESSING, resize=(size, size), crop=None),
        preprocessing_source="test",
        num_classes=num_classes,
        labels=None,
    )
    return export_loaded(loaded, ExportConfig(opset=opset)).onnx
