"""The export tells what TensorRT's parser refuses, and refuses an engine of it before any work on images."""

from types import SimpleNamespace

import pytest
import torch
from graph_builder import GraphBuilder
from torch import nn

import resnet_export as rx
from exporter.errors import ExportError
from exporter.target import TARGETS
from resnet_export.console.reporter import Reporter
from resnet_export.export_job import prepare
from resnet_export.export_job.refused_forms import tell_refused_forms

HOW = rx.Preprocessing(size=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3))


def network() -> nn.Module:
    torch.manual_seed(0)
    pool = nn.MaxPool2d(2, dilation=2)
    return nn.Sequential(nn.Conv2d(3, 8, 3), pool, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def test_a_dilated_pool_is_a_warning_of_the_export(tmp_path):
    report = rx.export(network(), tmp_path / "out", preprocessing=HOW)
    (told,) = [warning for warning in report.warnings if "T006" in warning]
    assert "MaxPool with dilations: TensorRT refuses it (T006), in 1;" in told
    assert report.to_json()["next"].startswith("python -c"), "no engine is offered"


@pytest.mark.parametrize("target", ["tensorrt", "onnxruntime"])
def test_an_engine_that_cannot_be_built_is_refused_and_nothing_written(target, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "load_library", lambda flavor: None)
    with pytest.raises(ExportError, match=r"--engine: MaxPool with dilations.*T006.*leave --engine out"):
        rx.export(network(), tmp_path / "out", preprocessing=HOW, engine=True, target=target)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("op", "options", "target", "rule"),
    [
        ("LpPool", {"kernel_shape": [2, 2], "p": 3}, "jetpack5", "T006"),
        ("LpPool", {"kernel_shape": [2, 2], "p": 3}, "onnxruntime", ""),
        ("LRN", {"size": 4}, "jetpack7", "T006"),
        ("GlobalLpPool", {"p": 1}, "tensorrt", "T007"),
        ("MaxPool", {"kernel_shape": [2, 2], "dilations": [1, 1]}, "tensorrt", ""),
    ],
)
def test_lint_s_rules_decide(op, options, target, rule):
    graph, events = GraphBuilder(), []
    model = graph.model(graph.node(op, "node", "input", **options))
    tell_refused_forms(model, SimpleNamespace(engine=False, target=TARGETS[target]), Reporter(events.append))
    assert [event.kind for event in events] == ["warning"] * bool(rule)
    assert all(f"({rule}), in node" in event.message for event in events)
