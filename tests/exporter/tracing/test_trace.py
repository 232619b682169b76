import errno
import getpass
import os
import socket
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import exporter.target
from exporter.errors import ExportError, UnstableAnswerError
from exporter.networks.cifar_resnet import CifarResNet
from exporter.target import IR_VERSION_OF_OPSET, MIN_OPSET
from exporter.tracing import trace as tracing
from exporter.tracing.trace import trace
from runtimes.ort.adapter import OrtRuntime

RELEASED = {15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9}
"""Opset to IR version. Source: ONNX docs/Versioning.md, released versions table."""

OPSETS = (MIN_OPSET, 17, 19, 20)


class Block(nn.Module):
    """A ReLU called three times, containers, functional operators, a BatchNorm that cannot be folded."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(4)
        self.relu = nn.ReLU()
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sigmoid()))
        self.pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)

    def forward(self, x):
        x = self.relu(self.bn(x))
        y = self.relu(self.body(x) * 0.5)
        x = self.relu(torch.cat([x, y], 1) - 0.1)
        return self.pool(x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, stride=2, padding=1), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.ModuleList([Block()])
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        for block in self.blocks:
            x = block(self.stem(x))
        return self.fc(torch.flatten(self.avgpool(torch.nn.functional.relu(x)), 1))


NAMES = [
    "stem.0",
    "stem.1",
    "blocks.0.bn",
    "blocks.0.relu",
    "blocks.0.body.0",
    "blocks.0.body.1.0",
    "blocks.0.body.1.1",
    "blocks.0.mul",
    "blocks.0.relu_1",
    "blocks.0.concat",
    "blocks.0.sub",
    "blocks.0.relu_2",
    "blocks.0.pool",
    "relu",
    "avgpool",
    "flatten",
    "fc",
]


@pytest.fixture(scope="module")
def module():
    torch.manual_seed(0)
    net = Net().eval()
    nn.init.normal_(net.blocks[0].bn.running_mean)
    nn.init.uniform_(net.blocks[0].bn.running_var, 0.2, 2)
    return net


@pytest.fixture(scope="module")
def models(module):
    """The module in the oldest opset and in those that the targets write; PyTorch's exporter knows only its own."""
    example = torch.zeros(2, 3, 32, 32)
    traced = tracing._torch_export(module, example, ("logits",)).SerializeToString()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tracing, "_torch_export", lambda *_: onnx.load_from_string(traced))
        return {opset: trace(module, example, opset=opset, producer_version="1.2")[0] for opset in OPSETS}


class Function(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


def trace_function(function, *, opset=20):
    return trace(Function(function).eval(), torch.zeros(2, 3, 8, 8), opset=opset)[0]


def assert_same_answers(module, model, shape=(3, 32, 32)):
    torch.manual_seed(1)
    with OrtRuntime(model) as runtime, torch.inference_mode():
        for batch_size in (1, 2, 7):
            x = torch.randn(batch_size, *shape)
            got = runtime.run({"input": x.numpy()})["logits"]
            expected = module(x).numpy()
            assert got.shape == expected.shape
            np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


# Names


def test_names_are_the_modules(models):
    graph = models[20].graph
    assert [node.name for node in graph.node] == NAMES
    assert [node.output[0] for node in graph.node] == [*NAMES[:-1], "logits"]
    assert {"stem.0.weight", "blocks.0.body.1.0.bias", "fc.weight"} <= {tensor.name for tensor in graph.initializer}


def test_names_do_not_depend_on_the_opset(models):
    for model in models.values():
        assert [node.name for node in model.graph.node] == NAMES


def test_names_are_unique_in_a_deeper_net():
    graph = trace(CifarResNet(14).eval(), torch.zeros(2, 3, 16, 16), opset=20)[0].graph
    assert len({node.name for node in graph.node}) == len(graph.node)
    outputs = [output for node in graph.node for output in node.output]
    assert len(set(outputs)) == len(outputs)
    assert {"layer2.0.downsample.0", "layer3.1.add"} <= set(outputs)


# What the file holds


def test_pooling_and_flattening_are_spelled_so(models):
    for model in models.values():
        kinds = [node.op_type for node in model.graph.node]
        assert kinds[-3:] == ["GlobalAveragePool", "Flatten", "Gemm"]
        assert not {"Identity", "Reshape", "ReduceMean"} & set(kinds)


def test_nothing_of_this_machine_is_left(models):
    words = {"torch.onnx", "Traceback", 'File "', ".py", "site-packages", str(Path.home()), str(Path(__file__).parent)}
    words |= {str(Path(torch.__file__).parents[1]), socket.gethostname(), f"/{getpass.getuser()}/", "pkg."}
    for model in models.values():
        content = model.SerializeToString()
        assert not [word for word in words if word.encode() in content]


def test_metadata_and_doc_strings_are_gone(models):
    for model in models.values():
        graph = model.graph
        assert not model.metadata_props
        assert not model.functions
        assert model.doc_string == graph.doc_string == ""
        infos = (*graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info, graph)
        assert not [item for item in infos if item.metadata_props or item.doc_string]
        assert not [attribute for node in graph.node for attribute in node.attribute if attribute.doc_string]


def test_weights_are_in_the_file(models):
    for tensor in models[20].graph.initializer:
        assert tensor.data_location == onnx.TensorProto.DEFAULT
        assert not tensor.external_data


def test_every_tensor_has_a_shape(models):
    graph = models[20].graph
    known = {info.name for infos in (graph.value_info, graph.output) for info in infos}
    assert {output for node in graph.node for output in node.output} == known


def test_batch_axis_is_named_on_both_ends(models):
    for model in models.values():
        shapes = {
            info.name: [dim.dim_param or dim.dim_value for dim in info.type.tensor_type.shape.dim]
            for info in (*model.graph.input, *model.graph.output)
        }
        assert shapes == {"input": ["batch", 3, 32, 32], "logits": ["batch", 5]}


def test_producer(models):
    assert (models[17].producer_name, models[17].producer_version) == ("resnet-export", "1.2")


def test_two_exports_are_the_same_bytes(module, models):
    again = trace(module, torch.zeros(2, 3, 32, 32), opset=17, producer_version="1.2")[0]
    assert again.SerializeToString(deterministic=True) == models[17].SerializeToString(deterministic=True)


# Opsets


def test_pinned_versions():
    assert dict(IR_VERSION_OF_OPSET) == RELEASED
    assert min(RELEASED) == MIN_OPSET


@pytest.mark.parametrize("opset", OPSETS)
def test_opset_and_ir_version_are_exactly_the_pinned(models, opset):
    model = models[opset]
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", opset)]
    assert model.ir_version == RELEASED[opset]
    onnx.checker.check_model(model, full_check=True)


@pytest.mark.parametrize("opset", OPSETS)
def test_answers_as_pytorch(module, models, opset):
    assert_same_answers(module, models[opset])


def test_operators_are_the_opsets_own(models):
    """ONNX's own schemas: every operator and attribute exists in the opset that the file names."""
    for opset, model in models.items():
        for node in model.graph.node:
            schema = onnx.defs.get_schema(node.op_type, opset)
            assert {attribute.name for attribute in node.attribute} <= set(schema.attributes)


def test_oldest_opset_is_the_oldest_that_can_be_written(module, monkeypatch):
    monkeypatch.setattr("exporter.passes.convert_opset.IR_VERSION_OF_OPSET", {**RELEASED, 14: 7})
    with pytest.raises(ExportError, match=r"cannot be written in opset 14: .*BatchNormalization"):
        trace(module, torch.zeros(2, 3, 32, 32), opset=14)


def test_no_target_asks_for_an_opset_without_ir_version():
    for target in exporter.target.TARGETS.values():
        assert set(range(MIN_OPSET, target.max_opset + 1)) <= set(IR_VERSION_OF_OPSET)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mean((2, 3)),
        lambda x: x.mean([-2, -1]),
        lambda x: x.mean((2, 3), keepdim=True).flatten(1),
        lambda x: x.flatten(1),
        lambda x: x.view(x.shape[0], -1),
        lambda x: x.amax((2, 3)) + x.sum((2, 3)),
        lambda x: nn.functional.adaptive_avg_pool2d(x, 1)[:, :, 0, 0],
    ],
    ids=range(7),
)
def test_ways_to_write_a_head(function):
    model = trace_function(function, opset=MIN_OPSET)
    assert_same_answers(Function(function), model, (3, 8, 8))


# What cannot be exported


def test_view_that_fixes_the_batch():
    with pytest.raises(ExportError, match=r"'logits': the batch axis did not stay symbolic, got 2, expected 'batch'"):
        trace_function(lambda x: x.view(2, -1))


def test_a_forward_that_treats_large_batches_otherwise():
    """The example's way was written for all, and the check has batches of 1, 2 and 7."""
    with pytest.raises(UnstableAnswerError, match="batches above 15 otherwise"):
        trace_function(lambda x: x.mean((2, 3)) if x.shape[0] < 16 else x.amax((2, 3)))


def test_mean_over_the_batch():
    with pytest.raises(ExportError, match="batch axis did not stay symbolic, got 3"):
        trace_function(lambda x: x.mean((0, 2, 3)))


def test_answer_without_axes():
    with pytest.raises(ExportError, match="batch axis did not stay symbolic, got none"):
        trace_function(lambda x: x.mean())


def test_control_flow_on_data(capfd):
    with pytest.raises(
        ExportError, match=r"failed on Function, which must .*no control flow .*data-dependent"
    ) as caught:
        trace_function(lambda x: x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3)))
    assert "\x1b" not in str(caught.value)  # torch colors its own message
    assert capfd.readouterr().err == ""  # torch prints and logs the graph as far as it came
    assert "def forward" in caught.value.__cause__.__notes__[0]


def test_two_inputs():
    class TwoInputs(nn.Module):
        def forward(self, x, mask):
            return (x * mask).flatten(1)

    with pytest.raises(
        ExportError, match=r"TwoInputs, which must take one tensor .*missing a required argument: 'mask'"
    ):
        trace(TwoInputs().eval(), torch.zeros(2, 3, 8, 8), opset=20)


def test_two_outputs():
    with pytest.raises(ExportError, match="the module has 2 outputs, expected one"):
        trace_function(lambda x: (x.mean((2, 3)), x.amax((2, 3))))


def test_nothing_is_printed(capfd):
    trace_function(lambda x: x.flatten(1))
    with pytest.raises(ExportError):
        trace(nn.Linear(1, 1).eval(), torch.zeros(2, 3, 8, 8), opset=20)
    assert capfd.readouterr() == ("", "")


def test_threads_trace_one_after_the_other():
    """PyTorch's own tracer fails in two threads at once; standard error stays what it is."""
    stream = sys.stderr
    with ThreadPoolExecutor(2) as pool:
        models = list(pool.map(lambda _: trace_function(lambda x: x.mean((2, 3)) * 2), range(4)))
    assert {len(model.graph.node) for model in models} == {2}
    assert sys.stderr is stream


class AnyArguments(nn.Module):
    """A forward as wrappers have it."""

    def __init__(self):
        super().__init__()
        self.inside = nn.Conv2d(3, 4, 3)

    def forward(self, *args, **options):
        return self.inside(*args, **options).mean((2, 3))


def test_a_forward_that_takes_any_arguments_keeps_its_batch_axis():
    module = AnyArguments().eval()
    model = trace(module, torch.zeros(2, 3, 8, 8), opset=17)[0]
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    images = torch.randn(5, 3, 8, 8)
    with OrtRuntime(model) as runtime, torch.no_grad():
        np.testing.assert_allclose(runtime.run({"input": images.numpy()})["logits"], module(images), atol=1e-5)


def test_no_temporary_folder_is_no_fault_of_the_network(monkeypatch, tmp_path):
    """What `tempfile` finds where the disk is full, or nothing may be written: no folder takes its file."""
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: [str(tmp_path / "missing")])
    with pytest.raises(ExportError, match=r"PyTorch needs a temporary folder: .* full.* TMPDIR"):
        trace(nn.Flatten().eval(), torch.zeros(2, 3, 4, 4), opset=20)


@pytest.mark.parametrize(("number", "told"), [(errno.ENOSPC, "No space left"), (errno.EDQUOT, "quota")])
def test_a_full_disk_is_no_fault_of_the_network(monkeypatch, number, told):
    def full(*_, **__):
        raise AssertionError("already registered") from OSError(number, os.strerror(number))  # as PyTorch does

    monkeypatch.setattr(torch.onnx, "export", full)
    with pytest.raises(ExportError, match=f"(?i)could not write while it traced: .*{told}.*TMPDIR"):
        trace(nn.Flatten().eval(), torch.zeros(2, 3, 4, 4), opset=20)
