"""Bring the names of a checkpoint's weights to those of the architecture, where only a convention differs.

A rule is used when it makes more of the architecture's names present, and each one used is told. What still does not
fit afterwards is refused by `exporter.checkpoints.checkpoint.load_into`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Set
from dataclasses import dataclass, replace

from torch import Tensor

from exporter.checkpoints.network_prefix import Network, network_among
from exporter.errors import WeightsError


@dataclass(frozen=True, slots=True)
class NamingRule:
    """One convention: from names in the file to the architecture's, and what that is in words, for the report."""

    words: str
    rename: Callable[[str], str]


def _replacing(pattern: str, replacement: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)
    return lambda name: compiled.sub(replacement, name)


def _torchvision_name(name: str) -> str:
    """Return torchvision's name of a tensor of Hugging Face's ResNet, other names as they are."""
    if not name.startswith(("resnet.embedder.", "resnet.encoder.", "embedder.embedder.", "encoder.stages.")):
        return re.sub(r"^classifier\.1\.", "fc.", name)
    name = re.sub(r"^(resnet\.)?embedder\.embedder\.", "stem1.", name)
    name = re.sub(
        r"^(resnet\.)?encoder\.stages\.(\d+)\.layers\.(\d+)\.",
        lambda found: f"layer{int(found[2]) + 1}.{found[3]}.",
        name,
    )
    name = re.sub(r"\.layer\.(\d+)\.", lambda found: f".step{int(found[1]) + 1}.", name)
    name = name.replace("shortcut.convolution.", "downsample.0.").replace("shortcut.normalization.", "downsample.1.")
    name = re.sub(r"(?:stem|step)(\d+)\.convolution\.", r"conv\1.", name)
    return re.sub(r"(?:stem|step)(\d+)\.normalization\.", r"bn\1.", name)


RULES = (
    # The textbook implementations for CIFAR (kuangliu/pytorch-cifar, akamaster/pytorch_resnet_cifar10).
    NamingRule('read "shortcut" as "downsample"', _replacing(r"(^|\.)shortcut\.", r"\1downsample.")),
    NamingRule('read "linear" as "fc"', _replacing(r"^linear\.", "fc.")),
    # OpenMMLab's classifiers: backbone.layer1..., head.fc...
    NamingRule('cut "backbone." off and read "head.fc" as "fc"', _replacing(r"^(backbone\.|head\.(?=fc\.))", "")),
    # Hugging Face's ResNetForImageClassification. Source: transformers 4.57, models/resnet/modeling_resnet.py.
    NamingRule("read Hugging Face's names as torchvision's", _torchvision_name),
    # torchvision's DenseNet files from before modules were renamed.
    # Source: torchvision 0.29, models/densenet.py, _load_state_dict.
    NamingRule(
        'joined "norm.1" to "norm1", "conv.1" to "conv1" in dense layers',
        _replacing(r"(denselayer\d+\.(?:norm|relu|conv))\.(?=[12]\.)", r"\1"),
    ),
)


def fit_names(
    state_dict: Mapping[str, Tensor], expected: Collection[str], *, ignored_prefixes: tuple[str, ...] = ()
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights under the architecture's names, and a note for each thing done; see `find_network`."""
    network = find_network(state_dict, expected, ignored_prefixes=ignored_prefixes)
    return network.state_dict, list(network.notes)


def find_network(
    state_dict: Mapping[str, Tensor], expected: Collection[str], *, ignored_prefixes: tuple[str, ...] = ()
) -> Network:
    """Return the weights under the architecture's names, those of other parts aside, and a note for each thing done.

    Raises:
        WeightsError: If there are several whole networks, and their names do not tell which is meant.
    """
    wanted = set(expected)
    network = network_among(
        state_dict, lambda name: name in wanted or any(rule.rename(name) in wanted for rule in RULES)
    )
    readings = [_renamed(reading, wanted) for reading in (Network(dict(state_dict), {}), network)]
    best = min(readings, key=lambda reading: _misfits(reading.state_dict.keys(), wanted))  # the first of equals
    if best.rivals and 2 * _misfits(best.state_dict.keys(), wanted)[0] < len(wanted):
        raise WeightsError(
            f"the file holds several whole networks ({', '.join(prefix.removesuffix('.') for prefix in best.rivals)}), "
            "and nothing tells which is meant; say which with --checkpoint-key"
        )
    if ignored_prefixes and (left := [name for name in best.state_dict if name.startswith(ignored_prefixes)]):
        kept = {name: tensor for name, tensor in best.state_dict.items() if name not in left}
        note = f"left out {len(left)} weights of heads that only training uses ({left[0]}, ...)"
        return replace(best, state_dict=kept, notes=(*best.notes, note))
    return best


def _misfits(names: Set[str], wanted: set[str]) -> tuple[int, int]:
    """Return how many names are missing, and how many are too many."""
    return len(wanted - names), len(names - wanted)


def _renamed(network: Network, wanted: set[str]) -> Network:
    """Return the network with every rule applied that makes more of the architecture's names present."""
    fitted, notes = network.state_dict, list(network.notes)
    for rule in RULES:
        renamed = {rule.rename(name): tensor for name, tensor in fitted.items()}
        if len(renamed) == len(fitted) and len(wanted - renamed.keys()) < len(wanted - fitted.keys()):
            fitted = renamed
            notes.append(rule.words)
    return replace(network, state_dict=fitted, notes=tuple(notes))


def conventional_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with every rule applied, for when no architecture is known yet."""
    renamed = dict(state_dict)
    for rule in RULES:
        candidate = {rule.rename(name): tensor for name, tensor in renamed.items()}
        renamed = candidate if len(candidate) == len(renamed) else renamed
    return renamed
