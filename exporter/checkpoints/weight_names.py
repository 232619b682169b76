"""Bring the names of a checkpoint's weights to those of the architecture, where only a convention differs.

A rule is used when it makes more of the architecture's names present, and each one used is told. What still does not
fit afterwards is refused by `exporter.checkpoints.checkpoint.load_into`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class NamingRule:
    """One convention.

    Attributes:
        words: What the rule does, for the report.
        rename: Name in the file -> name in the architecture.
    """

    words: str
    rename: Callable[[str], str]


def _replacing(pattern: str, replacement: str) -> Callable[[str], str]:
    compiled = re.compile(pattern)
    return lambda name: compiled.sub(replacement, name)


RULES = (
    # The textbook implementations for CIFAR (kuangliu/pytorch-cifar, akamaster/pytorch_resnet_cifar10).
    NamingRule('read "shortcut" as "downsample"', _replacing(r"(^|\.)shortcut\.", r"\1downsample.")),
    NamingRule('read "linear" as "fc"', _replacing(r"^linear\.", "fc.")),
    # OpenMMLab's classifiers: backbone.layer1..., head.fc...
    NamingRule('cut "backbone." off and read "head.fc" as "fc"', _replacing(r"^(backbone\.|head\.(?=fc\.))", "")),
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
    """Return the weights under the architecture's names, and a note for each thing done.

    Args:
        state_dict: Name -> tensor, as read from the file.
        expected: The architecture's names.
        ignored_prefixes: Names that begin so are left out: heads that only training uses.

    Returns:
        The weights (the same tensors) and the notes.
    """
    wanted = set(expected)
    fitted, notes = dict(state_dict), []
    for rule in (*_shared_prefix_rule(state_dict, wanted), *RULES):
        renamed = {rule.rename(name): tensor for name, tensor in fitted.items()}
        if len(renamed) == len(fitted) and len(wanted - renamed.keys()) < len(wanted - fitted.keys()):
            fitted = renamed
            notes.append(rule.words)
    if ignored_prefixes and (left := [name for name in fitted if name.startswith(ignored_prefixes)]):
        fitted = {name: tensor for name, tensor in fitted.items() if name not in left}
        notes.append(f"left out {len(left)} weights of heads that only training uses ({left[0]}, ...)")
    return fitted, notes


def conventional_names(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the weights with every rule applied, for when no architecture is known yet."""
    renamed = dict(state_dict)
    for rule in RULES:
        candidate = {rule.rename(name): tensor for name, tensor in renamed.items()}
        renamed = candidate if len(candidate) == len(renamed) else renamed
    return renamed


def _shared_prefix_rule(state_dict: Mapping[str, Tensor], wanted: set[str]) -> tuple[NamingRule, ...]:
    """Return a rule that cuts the first word off, if all names share it and the architecture has no such module."""
    words = {name.partition(".")[0] for name in state_dict}
    if len(words) != 1 or any(name.startswith(f"{next(iter(words))}.") for name in wanted):
        return ()
    prefix = f"{words.pop()}."
    return (NamingRule(f'cut the prefix "{prefix}" off every name', lambda name: name.removeprefix(prefix)),)
