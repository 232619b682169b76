"""An architecture that can be built for any number of classes, filled from a checkpoint file or at random.

A `.safetensors` header may carry `model`, `labels` (a JSON list) and `preprocessing` (JSON of
`Preprocessing.to_json`), as the demo's checkpoint does: such a file needs no further option.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from exporter.checkpoint import check_finite, infer_num_classes, load_checkpoint, load_into, state_dict_sha256
from exporter.errors import WeightsError
from exporter.loaded_model import RANDOM_SEED, LoadedModel, ModelRequest
from runtimes.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True)
class Architecture:
    """How to build one network, and what holds when its weights say nothing.

    Attributes:
        model_id: Its name on the command line.
        source: Who defines it.
        build: Number of classes -> module.
        num_classes: When neither the request nor the weights say.
        preprocessing: When the weights do not say.
        preprocessing_source: What that assumption is, in words.
    """

    model_id: str
    source: str
    build: Callable[[int], nn.Module]
    num_classes: int
    preprocessing: Preprocessing
    preprocessing_source: str

    def seeded(self, num_classes: int) -> nn.Module:
        """Build with the fixed seed, in evaluation mode, without touching the caller's random state."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            return self.build(num_classes).eval()


def load_random(architecture: Architecture, request: ModelRequest) -> LoadedModel:
    """Return the network with seeded random weights."""
    num_classes = request.num_classes or architecture.num_classes
    module = architecture.seeded(num_classes)
    return LoadedModel(
        module=module,
        model_id=architecture.model_id,
        source=architecture.source,
        weights=f"random (seed {RANDOM_SEED})",
        weights_sha256=state_dict_sha256(module.state_dict()),
        preprocessing=architecture.preprocessing,
        preprocessing_source=architecture.preprocessing_source,
        num_classes=num_classes,
        labels=None,
        notes=("random weights: sizes and latency mean something, accuracy figures do not",),
    )


def load_file(architecture: Architecture, request: ModelRequest) -> LoadedModel:
    """Return the network with the weights of the file `request.weights`.

    Raises:
        WeightsError: If the file cannot be read, was made for another model, does not fit, or holds NaN or Inf.
    """
    checkpoint = load_checkpoint(Path(request.weights))
    header = _read_header(checkpoint.metadata, request)
    num_classes = request.num_classes or infer_num_classes(checkpoint.state_dict) or architecture.num_classes
    module = architecture.seeded(num_classes)
    load_into(module, checkpoint)
    check_finite(module)
    return LoadedModel(
        module=module,
        model_id=architecture.model_id,
        source=architecture.source,
        weights=Path(request.weights).name,
        weights_sha256=checkpoint.sha256,
        preprocessing=header.preprocessing or architecture.preprocessing,
        preprocessing_source="the checkpoint's header" if header.preprocessing else architecture.preprocessing_source,
        num_classes=num_classes,
        labels=header.labels,
        notes=checkpoint.notes,
    )


@dataclass(frozen=True, slots=True)
class _Header:
    labels: tuple[str, ...] | None
    preprocessing: Preprocessing | None


def _read_header(metadata: Mapping[str, str], request: ModelRequest) -> _Header:
    made_for = metadata.get("model", request.name)
    if made_for != request.name:
        raise WeightsError(f"{request.weights}: its header says model {made_for!r}, expected {request.name!r}")
    try:
        labels = json.loads(metadata["labels"]) if "labels" in metadata else None
        stored = json.loads(metadata["preprocessing"]) if "preprocessing" in metadata else None
        return _Header(
            labels=None if labels is None else _labels_from_json(labels),
            preprocessing=None if stored is None else Preprocessing.from_json(stored),
        )
    except (ValueError, TypeError) as err:
        raise WeightsError(f"{request.weights}: its header cannot be read: {err}") from err


def _labels_from_json(labels: object) -> tuple[str, ...]:
    if not isinstance(labels, list):
        raise TypeError(f"labels: got {type(labels).__name__}, expected a list")
    return tuple(map(str, labels))
