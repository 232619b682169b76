"""A classifier that was changed for fine-tuning: its weights tell its layers, and what they do not tell is asked for.

A ResNet's `fc` becomes `fc.1` behind a Dropout, `classifier`, two Linears, or nothing at all. One Linear is the same
function wherever it stands, because a Dropout does nothing in inference. Between two Linears stands an activation,
which has no weights: nothing in the file says which it was.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from exporter.checkpoints.checkpoint import counts_batches
from exporter.checkpoints.weight_layout import WeightLayout
from exporter.errors import WeightsError

ACTIVATIONS: Mapping[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "hardswish": nn.Hardswish,
    "none": nn.Identity,
}
"""Values of `--head-activation`, with PyTorch's own defaults."""

HEAD_WORDS = frozenset(
    {"fc", "classifier", "head", "linear", "last_linear", "cls", "clf", "logits", "output", "out", "fc_out", "final"}
)
"""Names of modules that classify. Source: torchvision, timm, pretrainedmodels (`last_linear`), common code."""

_OWN = "give the network as your own code, package.module:callable"


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """The classifier of a file, where it is not the architecture's own.

    Attributes:
        path: Where the architecture has its classifier, such as "fc".
        weights: Its weights under the architecture's names ("fc.weight", or "fc.0.weight" where `module` is several
            layers).
        taken: Names in the file that these were; to be left out of the rest.
        module: What stands at `path` instead of the architecture's own; None where that fits.
        num_classes: Width of the output.
        notes: What was done, in words.
        warnings: What was assumed.
    """

    path: str
    weights: dict[str, Tensor]
    taken: frozenset[str]
    module: nn.Module | None
    num_classes: int
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


def find_head(
    state_dict: Mapping[str, Tensor], aside: Mapping[str, Tensor], layout: WeightLayout, activation: str | None
) -> Head | None:
    """Return the classifier of a file, or None where it is the architecture's own or nothing can be said.

    Args:
        state_dict: The network's weights, under the architecture's names as far as they fit.
        aside: The file's tensors outside of the network.
        layout: The architecture's.
        activation: What stands between two Linears, a key of `ACTIVATIONS`; None where nobody said.

    Raises:
        WeightsError: If the head has several layers and no activation was given, or layers that are not known here.
    """
    path = _path(layout)
    if path is None or all(name in state_dict for name in layout.classifier):
        _refuse_activation(activation)
        return None
    if not _has_the_rest(state_dict, layout, path):
        return None  # another network altogether: the strict fit says so
    width = _width(layout)
    where, weights = _candidate(state_dict, aside, layout, path, width)
    if where is None:
        _refuse_activation(activation)
        return _no_head(path, width)
    taken = frozenset(name for name in (*state_dict, *aside) if name.startswith(f"{where}."))
    matrices = [name for name, tensor in weights.items() if tensor.ndim >= 2]
    if len(matrices) == 1 and {name.rpartition(".")[2] for name in weights} <= {"weight", "bias"} and len(weights) <= 2:
        _refuse_activation(activation)
        return _one_linear(path, where, weights, taken)
    return _several_layers(path, where, weights, taken, width=width, activation=activation)


def _refuse_activation(activation: str | None) -> None:
    if activation not in (None, "none"):
        raise WeightsError(
            f"--head-activation {activation}: the file's classifier has no layers of its own with a gap between them, "
            "where it would stand; leave it out"
        )


def _path(layout: WeightLayout) -> str | None:
    """Return the path of the architecture's classifier, None where it is not one Linear."""
    paths = {name.rpartition(".")[0] for name in layout.classifier}
    names = {name.rpartition(".")[2] for name in layout.classifier}
    return paths.pop() if len(paths) == 1 and names <= {"weight", "bias"} and "weight" in names else None


def _width(layout: WeightLayout) -> int:
    weight = next(layout.shapes[name] for name in layout.classifier if name.endswith("weight"))
    assert weight[1] is not None
    return weight[1]


def _has_the_rest(state_dict: Mapping[str, Tensor], layout: WeightLayout, path: str) -> bool:
    rest = [name for name in layout.shapes if not name.startswith(f"{path}.")]
    return all(name in state_dict and tuple(state_dict[name].shape) == layout.shapes[name] for name in rest)


def _candidate(
    state_dict: Mapping[str, Tensor], aside: Mapping[str, Tensor], layout: WeightLayout, path: str, width: int
) -> tuple[str | None, dict[str, Tensor]]:
    """Return where the file has its classifier and the tensors there, named from there; None where it has none."""
    extra = {name: tensor for name, tensor in state_dict.items() if not counts_batches(name)}
    here = _below(extra, path)
    if here:
        return path, here
    extra = {name: tensor for name, tensor in extra.items() if name not in layout.shapes}
    groups: dict[str, dict[str, Tensor]] = {}
    for tensors in (extra, aside):
        words = dict.fromkeys(name.partition(".")[0] for name in tensors)
        groups |= {word: _below(tensors, word) for word in words if word in HEAD_WORDS}
    first = {word: next((t for t in found.values() if t.ndim >= 2), None) for word, found in groups.items()}
    fitting = {word: groups[word] for word, tensor in first.items() if tensor is not None and tensor.shape[1] == width}
    if len(fitting) > 1:
        raise WeightsError(
            f"the file has several classifiers of {width} inputs ({', '.join(fitting)}) and none at {path!r}; {_OWN}"
        )
    if not fitting and groups:
        where, found = next(iter(groups.items()))
        raise WeightsError(
            f"the file has no {path}.weight, and its {where!r} ({', '.join(found)}) does not take the {width} numbers "
            f"that come out of the network; {_OWN}"
        )
    return next(iter(fitting.items()), (None, {}))


def _below(tensors: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{path}."): value for name, value in tensors.items() if name.startswith(f"{path}.")}


def _no_head(path: str, width: int) -> Head:
    return Head(
        path=path,
        weights={},
        taken=frozenset(),
        module=nn.Identity(),
        num_classes=width,
        warnings=(
            f"the file has no classifier: the output is the {width} features that {path!r} would take, so the answers "
            "are no classes",
        ),
    )


def _one_linear(path: str, where: str, weights: Mapping[str, Tensor], taken: frozenset[str]) -> Head:
    """Return the architecture's own Linear with these weights; a 1x1 convolution is one, too."""
    named = {f"{path}.{name.rpartition('.')[2]}": tensor for name, tensor in weights.items()}
    weight = named[f"{path}.weight"]
    if weight.ndim == 4 and tuple(weight.shape[2:]) == (1, 1):
        named[f"{path}.weight"] = weight = weight.flatten(1)
    place = next(iter(weights)).rpartition(".")[0]
    full = ".".join(word for word in (where, place) if word)
    why = "; what stands before it has no weights, and a Dropout does nothing in inference" if place else ""
    module = None if f"{path}.bias" in named else nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    return Head(path, named, taken, module, int(weight.shape[0]), (f'read "{full}" as "{path}"{why}',))


def _several_layers(
    path: str, where: str, weights: Mapping[str, Tensor], taken: frozenset[str], *, width: int, activation: str | None
) -> Head:
    """Return a Sequential of the layers that the weights tell, with `activation` where layers without weights were."""
    layers = _layers(where, weights)
    linears = [place for place, layer in layers.items() if isinstance(layer, nn.Linear)]
    named = ", ".join(f"{where}.{place}" for place in linears)
    gaps = _gaps(layers)
    if gaps and activation is None:
        raise WeightsError(
            f"the classifier of the file has {len(linears)} Linear layers ({named}), and nothing in it says what "
            f"stands between them: say --head-activation {'|'.join(ACTIVATIONS)} (a Dropout does nothing and needs no "
            f"word), or {_OWN}"
        )
    if not gaps:
        _refuse_activation(activation)
    _check_widths(where, layers, width)
    steps: list[nn.Module] = [nn.Identity() for _ in range(max(layers) + 1)]
    for place, layer in layers.items():
        steps[place] = layer
    for place in gaps:
        steps[place] = ACTIVATIONS[activation or "none"]()
    between = ", ".join(f"{where}.{place}" for place in gaps)
    text = f"; {activation} at {between}, as --head-activation says" if gaps else ""
    num_classes = layers[linears[-1]].out_features
    assert isinstance(num_classes, int)
    return Head(
        path=path,
        weights={f"{path}.{name}": tensor for name, tensor in weights.items()},
        taken=taken,
        module=nn.Sequential(*steps),
        num_classes=num_classes,
        notes=(f"the classifier is the file's own, of {len(linears)} Linear layers ({named}){text}",),
    )


def _layers(where: str, weights: Mapping[str, Tensor]) -> dict[int, nn.Module]:
    """Return position in the Sequential -> layer without values, as the names and shapes tell."""
    parts: dict[int, dict[str, Tensor]] = {}
    for name, tensor in weights.items():
        match = re.fullmatch(r"(\d{1,2})\.(\w+)", name)
        if match is None:
            raise WeightsError(f"the classifier of the file is no row of layers: it has {where}.{name}; {_OWN}")
        parts.setdefault(int(match[1]), {})[match[2]] = tensor
    return {place: _layer(f"{where}.{place}", parts[place]) for place in sorted(parts)}


def _layer(name: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    weight = tensors.get("weight")
    if "running_mean" in tensors:
        return nn.BatchNorm1d(tensors["running_mean"].shape[0], affine=weight is not None)
    if weight is not None and weight.ndim == 2:
        return nn.Linear(weight.shape[1], weight.shape[0], bias="bias" in tensors)
    if weight is not None and weight.ndim == 1 and "bias" in tensors:
        return nn.LayerNorm(weight.shape[0])
    shapes = ", ".join(f"{part} {list(tensor.shape)}" for part, tensor in tensors.items())
    raise WeightsError(
        f"the classifier of the file has a layer {name} ({shapes}) that is no Linear, BatchNorm or LayerNorm; {_OWN}"
    )


def _gaps(layers: Mapping[int, nn.Module]) -> list[int]:
    """Return the first free position behind each layer with weights that is followed by another one."""
    places = sorted(layers)
    return [place + 1 for place, following in itertools.pairwise(places) if following > place + 1]


def _check_widths(where: str, layers: Mapping[int, nn.Module], width: int) -> None:
    current = width
    for place, layer in layers.items():
        wanted = layer.in_features if isinstance(layer, nn.Linear) else _normalized(layer)
        if wanted != current:
            raise WeightsError(
                f"the classifier of the file: {where}.{place} takes {wanted} numbers, but {current} come in; {_OWN}"
            )
        current = layer.out_features if isinstance(layer, nn.Linear) else current


def _normalized(layer: nn.Module) -> int:
    if isinstance(layer, nn.BatchNorm1d):
        return layer.num_features
    assert isinstance(layer, nn.LayerNorm)
    return int(layer.normalized_shape[0])


def with_head(module: nn.Module, head: Head) -> nn.Module:
    """Return `module`, its classifier replaced where the head needs another one; changed in place."""
    if head.module is not None:
        fresh = head.module.to(torch.get_default_device())
        module.set_submodule(head.path, fresh.eval())
    return module
