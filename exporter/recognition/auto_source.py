"""MODEL `auto`: the architecture that a checkpoint was made for.

What the file says of itself decides first (a header, `arch`, the training script's arguments), if its weights fit that.
Else names and shapes decide. What they cannot tell apart is named; with validation images it is measured.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from exporter.checkpoints.checkpoint import Checkpoint, load_checkpoint
from exporter.checkpoints.computed_weights import with_whole_weights
from exporter.checkpoints.network_prefix import likely_prefixes
from exporter.checkpoints.training_record import TIMM as TIMM_SCRIPT
from exporter.checkpoints.weight_layout import layout_of
from exporter.errors import AmbiguousModelError, ExportError, UnknownModelError, WeightsError
from exporter.models.load_model import load_model
from exporter.models.loaded_model import LoadedModel, ModelRequest, is_weights_file
from exporter.models.model_facts import architecture_of
from exporter.models.model_names import TIMM, TORCHVISION, parse_model
from exporter.preprocessing.config_files import architecture_beside
from exporter.recognition.match_weights import matching_models, mismatches, nearest_models
from runtimes.errors import MissingDependencyError

_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.-]{1,100}")
"""A file may name a known architecture, never a Python object, a folder or a hub."""

LOOK_ALIKES = {
    "resnet18": ("timm:resnetblur18",),
    "resnet50": ("timm:resnetaa50", "timm:resnetblur50"),
    "resnet50d": ("timm:resnetaa50d", "timm:resnetblur50d"),
    "efficientnet_lite0": ("timm:tf_efficientnet_lite0",),
}
"""The plainest network, and those that its files fit as well: names and shapes are the same, answers are not.

Source: names and shapes of 324 models of timm 1.0.31 compared with those of the models known here."""

UNSEEN = "strides, dilation, padding, pooling, activations and epsilons have no weights"


def load(request: ModelRequest) -> LoadedModel:
    """Find the architecture and load the weights into it; see `exporter.models.load_model.load_model`.

    Raises:
        AmbiguousModelError: If the checkpoint fits no known architecture or several; lists them and why.
    """
    if not is_weights_file(request.weights):
        raise WeightsError(
            f"MODEL auto reads the architecture off a checkpoint, got --weights {request.weights}; "
            "pass --weights FILE, or name the model"
        )
    checkpoint = with_whole_weights(load_checkpoint(Path(request.weights), key=request.checkpoint_key))
    stated = _stated_model(checkpoint, request.weights)
    if stated is not None:
        name, why = stated
        loaded = load_model(replace(request, name=name))
        return replace(loaded, notes=(f"MODEL auto is {name}: {why}", *loaded.notes))
    return _likeliest(_matching(checkpoint, request.weights), request)


def _stated_model(checkpoint: Checkpoint, weights: str) -> tuple[str, str] | None:
    """Return the model that the file names and how, or None where it names none that its weights fit."""
    named = checkpoint.metadata.get("model")  # of a .safetensors header
    if named is not None:
        if not _PLAIN_NAME.fullmatch(named):
            raise UnknownModelError(
                f"{weights}: its header says model {named!r}, expected a plain name: a file may not say which code to "
                "import; name the model instead of auto"
            )
        try:
            parse_model(named)
        except UnknownModelError as err:
            raise UnknownModelError(f"{weights}: its header says model {named!r}, but {err}") from err
        return named, "the checkpoint's header says so"
    architecture = checkpoint.training.architecture or architecture_beside(Path(weights))
    if architecture is None or not _PLAIN_NAME.fullmatch(architecture):
        return None
    script = checkpoint.training.script
    names = [f"{TORCHVISION}:{architecture}", f"{TIMM}:{architecture}"]
    for name in reversed(names) if script == TIMM_SCRIPT else [architecture, *names]:
        if _fits(name, checkpoint):
            by = f" by {script}'s training script" if script else ""
            return name, f"the checkpoint says it was trained{by} as {architecture!r}, and its weights fit that"
    return None


def _fits(name: str, checkpoint: Checkpoint) -> bool:
    """Tell whether there is such a model and the weights fit it but for its classifier and the first convolution."""
    try:
        layout = layout_of(architecture_of(name).build)
    except (ExportError, MissingDependencyError, AssertionError):
        return False
    missing, _, unfit = mismatches(checkpoint.state_dict, layout)
    first = next(iter(layout.shapes))
    return not [tensor for tensor in (*missing, *unfit) if tensor not in (*layout.classifier, first)]


def _matching(checkpoint: Checkpoint, weights: str) -> tuple[str, str]:
    """Return the one model that names and shapes tell, and how many of them there are in words."""
    matches = matching_models(checkpoint.state_dict)
    if len(matches) == 1:
        return matches[0], f"all {len(checkpoint.state_dict)} names and shapes of its network are those of the file"
    if matches:
        parts = [prefix.removesuffix(".") for prefix in likely_prefixes(checkpoint.state_dict)]
        several = f", or say --checkpoint-key: the file has parts {', '.join(parts)}" if len(parts) > 1 else ""
        raise AmbiguousModelError(
            f"{weights}: its names and shapes fit {', '.join(matches)} alike, which compute different things; "
            f"name the one it was trained as{several}"
        )
    raise AmbiguousModelError(
        f"{weights}: its names and shapes fit no known model; {nearest_models(checkpoint.state_dict)}"
    )


def _likeliest(match: tuple[str, str], request: ModelRequest) -> LoadedModel:
    """Return the model, or of several that the weights do not tell apart the most accurate; else the plainest."""
    name, why = match
    loaded = load_model(replace(request, name=name))
    is_small = name in LOOK_ALIKES and getattr(getattr(loaded.module, "conv1", None), "kernel_size", None) == (3, 3)
    names = (name,) if is_small else candidates(name)  # no look-alike has the stem for small images
    if len(names) > 1 and request.judge is not None:
        return _most_accurate(names, request)
    if len(names) == 1:
        return replace(loaded, notes=(f"MODEL auto is {name}: {why} ({UNSEEN})", *loaded.notes))
    warning = (
        f"MODEL auto: {why}, and those of {', '.join(names[1:])} as well: {UNSEEN}. It goes on as {name}, the plainest;"
        f" if it was trained as another, name it ({names[1]}) instead of auto, or give --val DIR, which measures them"
    )
    return replace(loaded, warnings=(warning, *loaded.warnings))


def candidates(name: str) -> tuple[str, ...]:
    """Return `name` and every known network that the same file fits, the plainest first."""
    return (name, *LOOK_ALIKES.get(name, ()))


def _most_accurate(names: tuple[str, ...], request: ModelRequest) -> LoadedModel:
    assert request.judge is not None
    tried: list[tuple[float, LoadedModel]] = []
    skipped: list[str] = []
    for name in names:
        try:
            loaded = load_model(replace(request, name=name))
        except MissingDependencyError:
            skipped.append(f"{name} was not tried, timm is not installed")
            continue
        tried.append((request.judge(loaded), loaded))
    best = max(range(len(tried)), key=lambda place: tried[place][0])  # the first of equals is the plainest
    figures = ", ".join(f"{loaded.source}:{loaded.model_id} {top1:.1%}" for top1, loaded in tried)
    note = (
        f"MODEL auto is {names[best]}: the names and shapes fit {len(tried)} models, measured on images of --val: "
        f"{'; '.join([figures, *skipped])}"
    )
    chosen = tried[best][1]
    return replace(chosen, notes=(note, *chosen.notes))
