"""Weights that a file stores in parts, as pruning and normalizing reparametrizations of PyTorch do, put together.

    prune            weight_orig * weight_mask
    weight_norm      weight_g * weight_v / |weight_v|, the norm over all axes but the one along which g is long
    spectral_norm    weight_orig / (u . W v), W the weight as a matrix [rows, ...]

The newer forms of the last two are called `parametrizations.weight.original0` (g) and `.original1` (v), and
`parametrizations.weight.original` beside `parametrizations.weight.0._u` and `._v`.

Source: torch.nn.utils.prune, .weight_norm, .spectral_norm and .parametrizations, PyTorch 2.14; Salimans and Kingma
2016, arXiv:1602.07868, equation 2; Miyato et al. 2018, arXiv:1802.05957, section 2.1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from exporter.checkpoints.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class _Rule:
    """A way to store a tensor: its name, the first part, the others (`{}` is what the tensor is called), what it is."""

    kind: str
    first: re.Pattern[str]
    others: tuple[str, ...]
    compute: Callable[..., Tensor | None]


def _pruned(weight: Tensor, mask: Tensor) -> Tensor | None:
    return weight * mask.to(weight.dtype) if weight.shape == mask.shape else None


def _normalized(g: Tensor, v: Tensor) -> Tensor | None:
    """Return g v / |v|; g is [1, ..., n, ..., 1], or a single number for a norm over all axes."""
    long = [axis for axis, size in enumerate(g.shape) if size > 1]
    fits = v.ndim > 0 and (not long or (g.ndim == v.ndim and len(long) == 1 and g.shape[long[0]] == v.shape[long[0]]))
    if not fits or not g.is_floating_point() or not v.is_floating_point():
        return None
    return torch._weight_norm(v, g, long[0] if long else -1)


def _divided(weight: Tensor, u: Tensor, v: Tensor) -> Tensor | None:
    """Return the weight over u . W v, its largest singular value; W's rows lie along the first axis as long as u."""
    for axis, size in enumerate(weight.shape):
        if u.shape == (size,) and v.ndim == 1 and size * len(v) == weight.numel():
            return weight / torch.dot(u, torch.mv(weight.movedim(axis, 0).flatten(1), v))
    return None


_PATH = r"(?P<path>(?:.*\.)?)"
_RULES = (
    _Rule("pruned", re.compile(_PATH + r"(?P<name>\w+)_orig"), ("{}_mask",), _pruned),
    _Rule("weight_norm", re.compile(_PATH + r"(?P<name>\w+)_g"), ("{}_v",), _normalized),
    _Rule("spectral_norm", re.compile(_PATH + r"(?P<name>\w+)_orig"), ("{}_u", "{}_v"), _divided),
    _Rule(
        "weight_norm",
        re.compile(_PATH + r"parametrizations\.(?P<name>\w+)\.original0"),
        ("parametrizations.{}.original1",),
        _normalized,
    ),
    _Rule(
        "spectral_norm",
        re.compile(_PATH + r"parametrizations\.(?P<name>\w+)\.original"),
        ("parametrizations.{}.0._u", "parametrizations.{}.0._v"),
        _divided,
    ),
)


def with_whole_weights(checkpoint: Checkpoint, expected: Collection[str] = ()) -> Checkpoint:
    """Return the checkpoint with its weights put together and a note on it; `expected` as in `put_together`."""
    return checkpoint.with_weights(*put_together(checkpoint.state_dict, expected))


def put_together(
    state_dict: Mapping[str, Tensor], expected: Collection[str] = ()
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Return the weights with tensors stored in parts put together, unless parts are `expected`, and what was done."""
    own = tuple(f".{name}" for name in expected)
    whole: dict[str, tuple[str, Tensor]] = {}  # by the name of the first part
    parts: set[str] = set()
    counts: Counter[str] = Counter()
    for name in state_dict:
        if f".{name}".endswith(own):
            continue
        for rule in _RULES:
            found = rule.first.fullmatch(name)
            names = [name] if found is None else [name, *(_part(found, other) for other in rule.others)]
            if found is None or _part(found, "{}") in state_dict or not all(part in state_dict for part in names):
                continue
            tensor = rule.compute(*(state_dict[part] for part in names))
            if tensor is not None:
                whole[name] = _part(found, "{}"), tensor
                parts.update(names)
                counts[rule.kind] += 1
                break
    left = (name for name in state_dict if name in whole or name not in parts)
    notes = tuple(f"{count} tensors stored in parts ({kind}) put together" for kind, count in counts.items())
    return dict(whole.get(name, (name, state_dict[name])) for name in left), notes


def _part(found: re.Match[str], form: str) -> str:
    return str(found["path"]) + form.format(found["name"])
