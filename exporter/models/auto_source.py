"""MODEL `auto`: the architecture that a checkpoint was made for, by its header or by the names and shapes in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from exporter.checkpoints.checkpoint import Checkpoint, load_checkpoint
from exporter.checkpoints.weight_layout import Shape, fingerprint, layout_of, shapes_of
from exporter.checkpoints.weight_names import conventional_names, fit_names
from exporter.errors import AmbiguousModelError, UnknownModelError, WeightsError
from exporter.models.architecture import model_in_header
from exporter.models.load_model import load_model
from exporter.models.loaded_model import LoadedModel, ModelRequest, is_weights_file
from exporter.models.model_facts import architecture_of
from exporter.models.model_names import parse_model
from exporter.models.model_table import ModelFacts, load_model_table
from runtimes.errors import MissingDependencyError

_IMAGENET_STEM = (7, 7)
_NUM_NEAREST = 3


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
    checkpoint = load_checkpoint(Path(request.weights))
    name, why = _model_of(checkpoint, request.weights)
    loaded = load_model(replace(request, name=name))
    return replace(loaded, notes=(f"MODEL auto is {name}: {why}", *loaded.notes))


def _model_of(checkpoint: Checkpoint, weights: str) -> tuple[str, str]:
    """Return the model's name and how it was found."""
    named = model_in_header(checkpoint)
    if named is not None:
        try:
            parse_model(named)
        except UnknownModelError as err:
            raise UnknownModelError(f"{weights}: its header says model {named!r}, but {err}") from err
        return named, "the checkpoint's header says so"
    matches = matching_models(checkpoint.state_dict)
    if len(matches) == 1:
        return matches[0], f"all {len(shapes_of(checkpoint.state_dict))} names and shapes are its own, and no other's"
    if matches:
        raise AmbiguousModelError(
            f"{weights}: its names and shapes fit {', '.join(matches)} alike, which compute different things; "
            "name the one it was trained as"
        )
    raise AmbiguousModelError(f"{weights}: its names and shapes fit no known model; {_nearest(checkpoint.state_dict)}")


def matching_models(state_dict: Mapping[str, Tensor]) -> list[str]:
    """Return the models whose names and shapes are those of the weights, whatever the number of classes.

    Pretrained variants of one architecture (`resnet50.a1_in1k`) are not told apart by names and shapes and are left
    out.

    Args:
        state_dict: Name -> tensor, in any convention that `exporter.checkpoints.weight_names` knows.
    """
    table = [facts for facts in load_model_table() if "." not in facts.name]
    classifiers = {facts.classifier for facts in table}
    digests = {
        (classifier, fingerprint(variant))
        for shapes in _readings(state_dict)
        for classifier in classifiers
        if (variant := _with_free_classes(shapes, classifier)) is not None
    }
    return [facts.name for facts in table if (facts.classifier, facts.fingerprint) in digests]


def _readings(state_dict: Mapping[str, Tensor]) -> Iterator[dict[str, Shape]]:
    """Yield the shapes as they stand and under conventional names, each also with the ImageNet stem of a ResNet."""
    for named in (state_dict, conventional_names(state_dict)):
        shapes = shapes_of(named)
        yield shapes
        stem = shapes.get("conv1.weight", ())
        if len(stem) == 4 and stem[2:] == (3, 3):
            yield {**shapes, "conv1.weight": (*stem[:2], *_IMAGENET_STEM)}


def _with_free_classes(shapes: Mapping[str, Shape], classifier: tuple[str, ...]) -> dict[str, Shape] | None:
    """Return the shapes with the number of classes left open, or None if these are not its classifier's names."""
    sizes = {shapes[name][0] for name in classifier if name in shapes}
    if len(sizes) != 1 or any(name not in shapes for name in classifier):
        return None
    return {name: (None, *shape[1:]) if name in classifier else shape for name, shape in shapes.items()}


def _nearest(state_dict: Mapping[str, Tensor]) -> str:
    """Say what the nearest models by size lack; they are built without values."""
    num_values = sum(tensor.numel() for tensor in state_dict.values())

    def distance(facts: ModelFacts) -> float:
        return abs(facts.parameters - num_values)

    candidates = sorted((facts for facts in load_model_table() if "." not in facts.name), key=distance)
    found = [words for facts in candidates[:_NUM_NEAREST] if (words := _difference(facts, state_dict))]
    return (
        f"nearest by size ({num_values / 1e6:.1f} M values): {'; '.join(found)}. Name the model, or give your own "
        "code as package.module:callable"
    )


def _difference(facts: ModelFacts, state_dict: Mapping[str, Tensor]) -> str:
    try:
        layout = layout_of(architecture_of(facts.name).build)
    except MissingDependencyError:
        return f"{facts.name} (needs timm to compare)"
    fitted, _ = fit_names(state_dict, layout.shapes)
    given = shapes_of(fitted)
    missing = [name for name in layout.shapes if name not in given]
    extra = [name for name in given if name not in layout.shapes]
    unfit = [
        name
        for name, shape in layout.shapes.items()
        if name in given
        and (len(given[name]) != len(shape) or any(a not in (None, b) for a, b in zip(shape, given[name], strict=True)))
    ]
    told = [
        f"{len(names)} {words} ({names[0]}{', ...' if len(names) > 1 else ''})"
        for names, words in ((missing, "missing"), (extra, "unexpected"), (unfit, "of another shape"))
        if names
    ]
    return f"{facts.name}: {', '.join(told)}"
