"""Request to a model source, and its result. Imports no framework."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from exporter.errors import ExportError
from exporter.models.model_names import ModelReference, parse_model
from exporter.preprocessing.options import PreprocessingOptions
from runtimes.preprocessing.transform import Preprocessing

if TYPE_CHECKING:
    from torch import nn

RANDOM_WEIGHTS = "random"
DEFAULT_WEIGHTS = "DEFAULT"
HEAD_ACTIVATIONS = ("relu", "gelu", "silu", "tanh", "sigmoid", "elu", "leaky_relu", "hardswish", "none")
"""Activations allowed between the Linears of a changed classifier; see `exporter.checkpoints.replaced_head`."""

RANDOM_SEED = 0
"""Seed of `--weights random`, so that two runs export the same file."""


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """Request for one model.

    Attributes:
        name: MODEL as `exporter.models.model_names.parse_model` reads it: one of `MODEL_NAMES`, "torchvision:NAME",
            "timm:NAME", "package.module:callable", or "auto".
        weights: "DEFAULT", "random", the name of published weights (a torchvision weights enum member, a timm
            tag), or a checkpoint's path.
        num_classes: Width of the last layer; None takes what the weights say.
        preprocessing: What is said about preprocessing beside the weights.
        checkpoint_key: Where the weights are in the file; see `exporter.checkpoints.choose_weights`.
        head_activation: What stands between the Linears of a changed classifier, or None.
        outputs: Names of the outputs that are wanted of a model that has several; empty for its only one.
        checks_output: Whether what the model gives matters; not so where `--features` takes tensors inside it.
        judge: Returns a model's top-1 accuracy, 0 to 1, on images of the user; None where there are none.
    """

    name: str
    weights: str = DEFAULT_WEIGHTS
    num_classes: int | None = None
    preprocessing: PreprocessingOptions = field(default_factory=PreprocessingOptions)
    checkpoint_key: str | None = None
    head_activation: str | None = None
    outputs: tuple[str, ...] = ()
    checks_output: bool = True
    judge: Callable[[LoadedModel], float] | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        """Refuse a number of classes that no classifier has."""
        if self.num_classes is not None and self.num_classes < 1:
            raise ValueError(f"num_classes: got {self.num_classes}, expected at least 1")

    @property
    def reference(self) -> ModelReference:
        """Source and name that MODEL stands for.

        Raises:
            UnknownModelError: If there is no such model.
        """
        return parse_model(self.name)


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """A network ready to export.

    Attributes:
        module: In evaluation mode, on the CPU.
        model_id: Name for folders and the manifest, such as "resnet50".
        source: Who defines the architecture: "torchvision", "timm", "resnet-export", "python" or "onnx".
        weights: What was loaded, in words: an enum member, a file name, or "random (seed 0)".
        weights_sha256: `exporter.checkpoints.checkpoint.state_dict_sha256` of the loaded weights.
        preprocessing_source: Where that came from, in words.
        labels: One name per class, or None when nobody said.
        notes: What happened on the way, one sentence each.
        warnings: What was assumed and may be wrong, one sentence each.
        reference_name: What `module` is called where exports are compared with it.
        outputs: Names of what `module` gives: the logits, or the features asked for.
        takes_bgr: Whether the network inside takes blue, green, red; `module` takes red, green, blue.
        gives_logits: Whether it is one row of class scores, [N, classes]; else tensors without a top-1.
    """

    module: nn.Module
    model_id: str
    source: str
    weights: str
    weights_sha256: str
    preprocessing: Preprocessing
    preprocessing_source: str
    num_classes: int
    labels: tuple[str, ...] | None
    notes: tuple[str, ...] = ()
    reference_name: str = "PyTorch"
    outputs: tuple[str, ...] = ("logits",)
    warnings: tuple[str, ...] = ()
    gives_logits: bool = True
    takes_bgr: bool = False


def told_features(count: int, why: str) -> str:
    """Return the warning of a network whose output [N, count] is no classes."""
    return (
        f"this network gives {count} features, no classes ({why}): files are compared by SQNR and cosine, and there is "
        f"no top-1; if they are scores of classes all the same, say --num-classes {count}"
    )


def is_weights_file(weights: str) -> bool:
    """Tell whether `--weights` names a file rather than a keyword or an enum member.

    A member may carry its enum's name, as messages and manifests print it: `ResNet50_Weights.IMAGENET1K_V2`.
    """
    if weights in (DEFAULT_WEIGHTS, RANDOM_WEIGHTS):
        return False
    if Path(weights).exists() or "/" in weights:
        return True
    return "." in weights and not re.fullmatch(r"\w+_Weights\.\w+", weights)


def check_labels(labels: tuple[str, ...], num_classes: int, origin: str) -> None:
    """Raise unless there is one non-empty label per class.

    Raises:
        ExportError: Saying how many there are and how many are expected.
    """
    if len(labels) != num_classes:
        raise ExportError(f"{origin}: got {len(labels)} labels, expected {num_classes}, one line per class")
    if empty := [place for place, label in enumerate(labels) if not label.strip()]:
        raise ExportError(f"{origin}: label {empty[0]} is empty")
    if broken := [label for label in labels if label.splitlines() != [label]]:
        raise ExportError(f"{origin}: got {broken[0]!r}, expected names of one line, as labels.txt holds them")
