"""The known models whose names and shapes are those of a checkpoint, or differ from it least."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import Tensor

from exporter.checkpoints.network_prefix import likely_networks
from exporter.checkpoints.replaced_head import HEAD_WORDS
from exporter.checkpoints.weight_layout import Shape, WeightLayout, fingerprint, layout_of, shapes_of
from exporter.checkpoints.weight_names import conventional_names, fit_names
from exporter.models.model_facts import architecture_of
from exporter.models.model_table import ModelFacts, load_model_table
from runtimes.errors import MissingDependencyError

_IMAGENET_STEM = (7, 7)
_RGB = 3
_STEMS = ("conv1.weight", "conv1.0.weight", "stem.conv.weight", "features.0.0.weight", "features.conv0.weight")
_NUM_NEAREST = 3
_NUM_COMPARED = 12  # nearest by size; each is built, without values, to be compared


def matching_models(state_dict: Mapping[str, Tensor]) -> list[str]:
    """Return the models whose names, by any known convention, and shapes but for the classes are those of the weights.

    Where none is, the classifier is left out of the comparison: it is what fine-tuning replaces. Pretrained variants
    of one architecture (`resnet50.a1_in1k`) are not told apart by names and shapes and are left out.
    """
    table = [facts for facts in load_model_table() if "." not in facts.name]
    readings = list(_readings(state_dict))
    classifiers = {facts.classifier for facts in table}
    digests = {
        (classifier, fingerprint(variant))
        for shapes in readings
        for classifier in classifiers
        if (variant := _with_free_classes(shapes, classifier)) is not None
    }
    if whole := [facts.name for facts in table if (facts.classifier, facts.fingerprint) in digests]:
        return whole
    paths = {classifier[0].rpartition(".")[0] for classifier in classifiers}
    bodies = {(path, fingerprint(_without_head(shapes, path))) for shapes in readings for path in paths}
    return [facts.name for facts in table if (facts.classifier[0].rpartition(".")[0], facts.body) in bodies]


def _readings(state_dict: Mapping[str, Tensor]) -> Iterator[dict[str, Shape]]:
    """Yield the shapes as they stand, behind likely prefixes, under conventional names, with the usual stem."""
    for network in likely_networks(state_dict):
        for named in (network.state_dict, conventional_names(network.state_dict)):
            shapes = shapes_of(named)
            yield shapes
            if (usual := _with_usual_stem(shapes)) != shapes:
                yield usual


def _with_usual_stem(shapes: dict[str, Shape]) -> dict[str, Shape]:
    """Return the shapes with the first convolution for three channels, and that of a ResNet for large images."""
    first = next((name for name in _STEMS if len(shapes.get(name, ())) == 4), None)
    if first is None:
        return shapes
    width, _, *kernel = shapes[first]
    is_small = first == "conv1.weight" and tuple(kernel) == (3, 3)
    return {**shapes, first: (width, _RGB, *(_IMAGENET_STEM if is_small else kernel))}


def _with_free_classes(shapes: Mapping[str, Shape], classifier: tuple[str, ...]) -> dict[str, Shape] | None:
    """Return the shapes with the number of classes left open, or None if these are not its classifier's names."""
    sizes = {shapes[name][0] for name in classifier if name in shapes}
    if len(sizes) != 1 or any(name not in shapes for name in classifier):
        return None
    return {name: (None, *shape[1:]) if name in classifier else shape for name, shape in shapes.items()}


def _without_head(shapes: Mapping[str, Shape], path: str) -> dict[str, Shape]:
    """Return the shapes without what stands at `path` or is called like a classifier."""
    return {
        name: shape
        for name, shape in shapes.items()
        if not name.startswith(f"{path}.")
        and (name.partition(".")[0] not in HEAD_WORDS or path.startswith("classifier."))
    }


def nearest_models(state_dict: Mapping[str, Tensor]) -> str:
    """Say which models the weights miss by least, and by what; they are built without values."""
    num_values = sum(tensor.numel() for tensor in state_dict.values())
    known = (facts for facts in load_model_table() if "." not in facts.name)
    by_size = sorted(known, key=lambda facts: abs(facts.parameters - num_values))
    found = [difference for facts in by_size[:_NUM_COMPARED] if (difference := _difference(facts, state_dict))[0]]
    found.sort(key=lambda difference: difference[0])  # stable: of equals the nearer in size
    told = "; ".join(words for _, words in found[:_NUM_NEAREST])
    return (
        f"nearest of those of its size ({num_values / 1e6:.1f} M values): {told}. Name the model, or give your own "
        "code as package.module:callable"
    )


def _difference(facts: ModelFacts, state_dict: Mapping[str, Tensor]) -> tuple[int, str]:
    """Return the number of tensors that do not fit, and which."""
    try:
        layout = layout_of(architecture_of(facts.name).build)
    except MissingDependencyError:
        return len(state_dict), f"{facts.name} (needs timm to compare)"
    missing, extra, unfit = mismatches(state_dict, layout)
    told = [
        f"{len(names)} {words} ({names[0]}{', ...' if len(names) > 1 else ''})"
        for names, words in ((missing, "missing"), (extra, "unexpected"), (unfit, "of another shape"))
        if names
    ]
    return len(missing) + len(extra) + len(unfit), f"{facts.name}: {', '.join(told)}"


def mismatches(state_dict: Mapping[str, Tensor], layout: WeightLayout) -> tuple[list[str], list[str], list[str]]:
    """Return the names that are missing, unexpected, and of another shape, compared with an architecture."""
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
    return missing, extra, unfit
