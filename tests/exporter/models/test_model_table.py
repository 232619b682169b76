"""The committed table of models, recounted for a handful and held against published figures."""

import json
from importlib import resources

import pytest
import torchvision

from exporter.models.model_facts import count_facts
from exporter.models.model_names import FAMILIES, MODEL_NAMES, TORCHVISION, family_of
from exporter.models.model_table import TABLE_FILE, load_model_table

TABLE = {facts.name: facts for facts in load_model_table()}
IMAGENET = [name for family in FAMILIES.values() if family.source == TORCHVISION for name in family.models]

RECOUNTED = (
    "resnet18",
    "cifar_resnet20_a",
    "preact_resnet18",
    "plain34",
    "regnet_y_400mf",
    "efficientnet_lite0",
    "resnet50.a1_in1k",
    "ecaresnet50t",
)
"""One per source and way of counting. All of them: `make model-table`, then `git diff`."""


def test_every_model_once_in_order():
    assert tuple(TABLE) == MODEL_NAMES
    assert all(TABLE[name].family == family_of(name).name for name in MODEL_NAMES)


@pytest.mark.parametrize("name", RECOUNTED)
def test_a_row_counted_anew(name):
    assert count_facts(name) == TABLE[name]


@pytest.mark.parametrize("name", IMAGENET)
def test_parameters_macs_and_accuracy_are_torchvisions(name):
    """torchvision's `_ops` are multiply-accumulates in 1e9, at the crop of its weights."""
    weights = torchvision.models.get_model_weights(name)
    first = next(iter(weights))
    assert TABLE[name].parameters == first.meta["num_params"]
    assert TABLE[name].macs / 1e9 == pytest.approx(first.meta["_ops"], rel=0.02)
    assert TABLE[name].top1 == {member.name: member.meta["_metrics"]["ImageNet-1K"]["acc@1"] for member in weights}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("resnet18", 11_689_512),
        ("resnet34", 21_797_672),
        ("resnet50", 25_557_032),
        ("resnet101", 44_549_160),
        ("resnet152", 60_192_808),
    ],
)
def test_published_parameter_counts(name, parameters):
    assert TABLE[name].parameters == parameters


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("cifar_resnet20", 0.27),
        ("cifar_resnet44", 0.66),
        ("cifar_resnet110", 1.7),
        ("cifar_resnet1202", 19.4),
        ("preact_resnet164", 1.7),
    ],
)
def test_counts_of_the_papers(name, millions):
    digits = len(str(millions).partition(".")[2])
    assert round(TABLE[name].parameters / 1e6, digits) == millions


def test_fingerprints_tell_architectures_apart():
    """Two names have one fingerprint only where one is a recipe of the other."""
    by_fingerprint = {}
    for facts in TABLE.values():
        by_fingerprint.setdefault((facts.classifier, facts.fingerprint), []).append(facts.name)
    assert [names for names in by_fingerprint.values() if len(names) > 1] == [["resnet50", "resnet50.a1_in1k"]]


def test_the_file_says_what_it_was_made_with():
    data = json.loads(resources.files("exporter.models").joinpath(TABLE_FILE).read_text())
    assert set(data["made_with"]) == {"torch", "torchvision", "timm"}


def test_the_table_of_models_is_written_as_it_was():
    text = (resources.files("exporter.models") / TABLE_FILE).read_text(encoding="utf-8")
    assert [json.dumps(row.to_json()) for row in load_model_table()] == [
        json.dumps(row) for row in json.loads(text)["models"]
    ]
