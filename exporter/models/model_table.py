"""Facts about every model by name, without building it: `model_table.json`, which `make model-table` writes.

Imports no framework: `resnet-export models` must be quick, and needs neither torch nor timm.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from runtimes.io.json_fields import JsonFields

TABLE_FILE = "model_table.json"


@dataclass(frozen=True, slots=True)
class ModelFacts(JsonFields):
    """One model.

    Attributes:
        parameters: With its default number of classes.
        macs: Multiply-accumulate operations of one image at `input_size`: convolutions, linear layers, attention.
        input_size: (height, width) in pixels that its default preprocessing gives.
        top1: Published weights -> top-1 on ImageNet-1k in percent, where the library that publishes them says it.
        fingerprint: `WeightLayout.fingerprint`: which files fit it.
        body: `WeightLayout.body_fingerprint`: which files fit it but for their classifier.
        classifier: Names of the weights whose shape depends on the number of classes.
    """

    name: str
    family: str
    source: str
    parameters: int
    macs: int
    input_size: tuple[int, int]
    top1: Mapping[str, float]
    fingerprint: str
    body: str
    classifier: tuple[str, ...]

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelFacts:
        """Build from the form of `to_json`."""
        height, width = data["input_size"]
        return cls(**{**data, "input_size": (height, width), "classifier": tuple(data["classifier"])})


@cache
def load_model_table() -> tuple[ModelFacts, ...]:
    """Return the facts of every model, in the order of `exporter.models.model_names.FAMILIES`."""
    text = resources.files("exporter.models").joinpath(TABLE_FILE).read_text(encoding="utf-8")
    return tuple(ModelFacts.from_json(row) for row in json.loads(text)["models"])
