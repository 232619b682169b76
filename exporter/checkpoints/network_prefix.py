"""The network among other tensors: `model.conv1.weight` beside `criterion.weight` and a metric's counters.

Training modules hold more than the network: losses with weights, metrics with buffers, a second, averaged network.
Where one beginning is before most of the architecture's names, the names with that beginning are the network and the
others are left aside, and told.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from runtimes.first_few import first_few

_USUAL_WORDS = frozenset({"module", "_orig_mod", "model", "backbone", "net", "network", "encoder", "student"})
_MIN_SHARE = 0.3
"""Of all names; two whole networks with a few metrics have 0.45 each."""
_MAX_DEPTH = 4
_MAX_LISTED = 3


class Caution(str):
    """A note that is told as a warning: something else may have been meant."""

    __slots__ = ()


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A network's tensors without their prefix, those of other parts as the file names them, and what was done.

    Where others have as many wanted names behind prefixes that are as usual, `rivals` are all these prefixes.
    """

    state_dict: dict[str, Tensor]
    aside: dict[str, Tensor]
    notes: tuple[str, ...] = ()
    rivals: tuple[str, ...] = ()


def network_among(state_dict: Mapping[str, Tensor], is_wanted: Callable[[str], bool]) -> Network:
    """Return the network: the names behind the prefix that most wanted names stand behind, or all as they are.

    Architectures accept usual first words, `backbone.fc.weight` for `fc.weight`, so a prefix within the prefix may have
    as many. It is taken where what lies between is no part of the network: a counter, or a second network.
    """
    num_wanted: Counter[str] = Counter()
    for name in state_dict:
        for prefix, rest in _splits(name):
            num_wanted[prefix] += is_wanted(rest)
    most = max(num_wanted.values(), default=0)
    best = sorted((prefix for prefix, count in num_wanted.items() if count == most), key=_by_usage)
    chosen = "" if "" in best else best[0]
    copies = []  # of the network, such as its average, below the prefix that it stands behind
    for prefix in best:
        if not prefix.startswith(chosen):
            continue
        between = [name for name in state_dict if name.startswith(chosen) and not name.startswith(prefix)]
        if sum(is_wanted(name[len(chosen) :]) for name in between) == most:
            copies.append(prefix)
        elif (chosen or between) and not any(_may_belong(name, state_dict, is_wanted) for name in between):
            chosen = prefix  # where one word is before all names, that is told elsewhere
    others = [prefix for prefix in best if not prefix.startswith(chosen) and not chosen.startswith(prefix)]
    rivals = tuple(prefix for prefix in others if _is_rival(prefix, chosen, state_dict))
    return replace(_cut(state_dict, chosen, [*copies, *others]), rivals=(chosen, *rivals) if rivals else ())


def _is_rival(prefix: str, chosen: str, state_dict: Mapping[str, Tensor]) -> bool:
    """Tell whether another network may be meant as well as the chosen: its prefix is as usual, its values are not."""
    mine = {name.removeprefix(chosen): tensor for name, tensor in state_dict.items() if name.startswith(chosen)}
    other = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name.startswith(prefix)}
    return _by_usage(prefix)[:2] == _by_usage(chosen)[:2] and not (
        mine.keys() == other.keys() and all(torch.equal(tensor, other[name]) for name, tensor in mine.items())
    )


def _may_belong(name: str, state_dict: Mapping[str, Tensor], is_wanted: Callable[[str], bool]) -> bool:
    """Tell whether a tensor beside a network may belong to it: it is no number, and no tensor of a second one."""
    return state_dict[name].numel() > 1 and not any(is_wanted(rest) for _, rest in _splits(name))


def likely_prefixes(state_dict: Mapping[str, Tensor]) -> list[str]:
    """Return the prefixes behind which a network may stand when no architecture is known, usual ones first."""
    counts = Counter(prefix for name in state_dict for prefix, _ in _splits(name) if prefix)
    return sorted((prefix for prefix, count in counts.items() if count >= _MIN_SHARE * len(state_dict)), key=_by_usage)


def likely_networks(state_dict: Mapping[str, Tensor]) -> list[Network]:
    """Return what may be a network in the file when no architecture is known: all of it, then by usual prefixes."""
    return [Network(dict(state_dict), {}), *(_cut(state_dict, prefix) for prefix in likely_prefixes(state_dict))]


def _cut(state_dict: Mapping[str, Tensor], prefix: str, others: Sequence[str] = ()) -> Network:
    within = tuple(other for other in others if other.startswith(prefix))
    taken = {name for name in state_dict if name.startswith(prefix) and not name.startswith(within)}
    inside = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items() if name in taken}
    aside = {name: tensor for name, tensor in state_dict.items() if name not in taken}
    if not aside:
        return Network(inside, aside, (f'cut the prefix "{prefix}" off every name',) if prefix else ())
    left = f"left aside {len(aside)} tensors of other parts: {first_few(aside, _MAX_LISTED)}"
    told = f'took the names that begin with "{prefix}"; {left}' if prefix else left
    notes = [told if others or 2 * len(aside) < len(inside) else Caution(told)]
    if others:
        listed = ", ".join(other.removesuffix(".") for other in others)
        notes += [Caution(f"the file holds another whole network under {listed}: not used; --checkpoint-key takes it")]
    return Network(inside, aside, tuple(notes))


def _splits(name: str) -> list[tuple[str, str]]:
    """Return the prefixes of a name, "" first, each with what stands behind it."""
    words = name.split(".")
    depths = range(min(_MAX_DEPTH, len(words) - 1) + 1)
    return [("".join(f"{word}." for word in words[:depth]), ".".join(words[depth:])) for depth in depths]


def _by_usage(prefix: str) -> tuple[bool, int, str]:
    words = prefix.split(".")[:-1]
    return any(word not in _USUAL_WORDS for word in words), len(words), prefix
