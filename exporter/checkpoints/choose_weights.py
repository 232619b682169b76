"""Which of the dictionaries in a checkpoint holds the weights: the one named by `--checkpoint-key`, or the usual one.

What else could have been meant is listed, so that averaged weights beside the raw ones, a teacher beside a student or a
second network are never passed over in silence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from exporter.checkpoints.inert_checkpoint import Opaque
from exporter.checkpoints.network_prefix import Caution
from exporter.checkpoints.size_limits import RESAVE
from exporter.errors import UnsafeCheckpointError, WeightsError
from runtimes.first_few import first_few

WRAPPER_KEYS = ("state_dict", "model_state_dict", "model", "net", "module", "ema", "model_ema", "state_dict_ema")
"""Where training scripts put the weights, in the order they are looked for.

Source: PyTorch's ImageNet example and Lightning (`state_dict`), PyTorch's tutorials (`model_state_dict`),
torchvision's references (`model`, `model_ema`), timm (`state_dict_ema`), DeepSpeed (`module`). They may be nested.
"""

_TRAINING_STATE = ("optim", "sched", "scaler", "callback", "loop", "rng", "amp")
"""How keys begin or end under which tensors are no network's: moments of an optimizer, random states."""

_COUNTS = frozenset(("n_averaged", "total_ops", "total_params"))
"""Numbers beside the weights: updates counted by torch.optim.swa_utils.AveragedModel, what thop.profile leaves."""
_MAX_NESTING = 4  # wrappers in wrappers; a pickle can hold itself


def choose_weights(payload: object, path: Path, key: str | None = None) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights inside what a checkpoint file held, and notes on where they were and what else there is.

    Args:
        payload: What was read from the file.
        path: For messages.
        key: Keys joined by dots, such as "state_dict_ema" or "ema.module", or the first words of the names wanted
            ("ema_model"), where a beginning that all have may be left out; None takes the first of `WRAPPER_KEYS`, or
            the only dictionary of weights there is.

    Raises:
        UnsafeCheckpointError: If the weights themselves would need code.
        WeightsError: If there are none, none under `key`, or several and no rule says which.
    """
    if isinstance(payload, Opaque):
        raise _needs_code(path, "it is", payload)
    if not isinstance(payload, Mapping):
        raise WeightsError(
            f"{path}: got a {type(payload).__name__}, expected a dict of name -> tensor; save model.state_dict()"
        )
    found = dict(_networks(payload))
    if key is not None:
        return _under_key(payload, found, path, key)
    if () in found:
        return _only_tensors(payload, path)
    place = _usual_place(payload) or _only_place(found, path)
    if place is None:
        raise _without_weights(payload, path)
    return _taken(payload, place, found, path)


def _networks(payload: Mapping[object, object]) -> Iterator[tuple[tuple[str, ...], Mapping[str, object]]]:
    """Yield (keys that lead to it, dictionary) of everything in `payload` that can be a network's weights."""
    waiting: list[tuple[tuple[str, ...], Mapping[object, object]]] = [((), payload)]
    while waiting:
        place, entries = waiting.pop(0)
        if _is_mostly_tensors(entries):
            yield place, {str(name): value for name, value in entries.items()}
        elif len(place) < _MAX_NESTING:
            waiting += [
                ((*place, name), value)
                for name, value in entries.items()
                if isinstance(name, str) and isinstance(value, Mapping) and not _is_training_state(name)
            ]


def _is_training_state(name: str) -> bool:
    return any(word in name.lower().split("_")[0] or name.lower().startswith(word) for word in _TRAINING_STATE)


def _usual_place(payload: Mapping[object, object]) -> tuple[str, ...] | None:
    """Return the keys that lead to the weights by `WRAPPER_KEYS`, or None."""
    place: tuple[str, ...] = ()
    entries: object = payload
    while not _is_mostly_tensors(entries):
        if not isinstance(entries, Mapping) or len(place) > _MAX_NESTING:
            return None
        key = next((key for key in WRAPPER_KEYS if _holds_weights(entries.get(key))), None)
        if key is None:
            return None
        place, entries = (*place, key), entries[key]
    return place


def _only_place(found: Mapping[tuple[str, ...], object], path: Path) -> tuple[str, ...] | None:
    """Return the only dictionary of weights, None where there is none."""
    if len(found) > 1:
        raise WeightsError(
            f"{path}: it holds several dictionaries of weights ({_named(found)}), and none under a usual name "
            f"({', '.join(WRAPPER_KEYS)}); say which with --checkpoint-key"
        )
    return next(iter(found), None)


def _taken(
    payload: Mapping[object, object],
    place: tuple[str, ...],
    found: Mapping[tuple[str, ...], Mapping[str, object]],
    path: Path,
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights at `place`, and a note for each key on the way there; a warning where others are as many."""
    least = len(found[place]) / 2
    notes: list[str] = []
    entries: object = payload
    for depth, key in enumerate(place):
        here = place[:depth]
        beside = [at for at in found if at[:depth] == here and len(at) > depth and at[depth] != key]
        entries = entries[key] if isinstance(entries, Mapping) else None
        listed = ", ".join(sorted({at[depth] for at in beside}))
        ignored = f" (the file also holds {listed}: not used; --checkpoint-key takes another)" if listed else ""
        is_doubtful = any(len(found[at]) >= least for at in beside)
        notes.append((Caution if is_doubtful else str)(f'took the weights under "{key}"{ignored}'))
    assert isinstance(entries, Mapping)
    state_dict, left = _only_tensors(entries, path)
    return state_dict, [*notes, *left]


def _under_key(
    payload: Mapping[object, object], found: Mapping[tuple[str, ...], Mapping[str, object]], path: Path, key: str
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the weights that `key` names: a dictionary, or names that begin with it."""
    exact = [at for at in found if ".".join(at) == key][:1]
    places = exact or [at for at in found if ".".join(at).startswith(f"{key}.")]
    if len(places) > 1:
        usual = [at for at in places if all(word in WRAPPER_KEYS for word in at[len(key.split(".")) :])]
        places = usual if len(usual) == 1 else places
    if len(places) == 1:
        state_dict, left = _only_tensors(found[places[0]], path)
        return state_dict, [f'took the weights under "{".".join(places[0])}", as --checkpoint-key says', *left]
    for place, entries in sorted(found.items(), key=lambda item: item[0] != _usual_place(payload)):
        rest = key[len(".".join(place)) + 1 :] if place and key.startswith(".".join(place) + ".") else key
        beginning = _beginning(rest, entries)
        if beginning is not None:
            named = {name[len(beginning) :]: value for name, value in entries.items() if name.startswith(beginning)}
            state_dict, _ = _only_tensors(named, path)
            where = f' of "{".".join(place)}"' if place else ""
            told = f'took the {len(named)} names{where} that begin with "{beginning}", as --checkpoint-key says'
            return state_dict, [told]
    there = f"it holds {_named(found)}" if found else "it holds no weights at all"
    raise WeightsError(f"{path}: --checkpoint-key {key}: no weights under that key; {there}")


def _beginning(words: str, entries: Mapping[str, object]) -> str | None:
    """Return what names begin with that `words` are the first of, or follow on one common beginning; None if none."""
    if any(name.startswith(f"{words}.") for name in entries):
        return f"{words}."
    found = {before for before, inside, _ in (name.partition(f".{words}.") for name in entries) if inside}
    return f"{found.pop()}.{words}." if len(found) == 1 else None


def _holds_weights(value: object, depth: int = _MAX_NESTING) -> bool:
    """Tell whether `value` is a state dict, or wraps one under a known key."""
    if _is_mostly_tensors(value):
        return True
    if depth == 0 or not isinstance(value, Mapping):
        return False
    return any(_holds_weights(value.get(key), depth - 1) for key in WRAPPER_KEYS)


def _is_mostly_tensors(value: object) -> bool:
    """Tell whether `value` is a dict of which more than half of the values are tensors."""
    return isinstance(value, Mapping) and 2 * sum(isinstance(item, Tensor) for item in value.values()) > len(value)


def _only_tensors(
    entries: Mapping[object, object] | Mapping[str, object], path: Path
) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors among `entries`, detached, and a note on what was left out."""
    for name, value in entries.items():
        if isinstance(value, Opaque) and value.name.startswith(("torch._utils._rebuild", "torch._tensor._rebuild")):
            raise _needs_code(path, f"its weight {str(name)!r} is", value)
    tensors = {
        str(name): value.detach()
        for name, value in entries.items()
        if isinstance(value, Tensor) and not (value.numel() == 1 and str(name).rpartition(".")[2] in _COUNTS)
    }
    dropped = [str(name) for name in entries if str(name) not in tensors]
    return tensors, [f"left out what is not a weight: {first_few(dropped)}"] if dropped else []


def _without_weights(payload: Mapping[object, object], path: Path) -> WeightsError:
    """Return the error for a dict without weights; a module among its values is named."""
    for key, value in payload.items():
        if isinstance(value, Opaque) and (key in WRAPPER_KEYS or ("." in value.name and "model" in str(key))):
            return _needs_code(path, f'under "{key}" it holds', value)
    inside = [entries for key in WRAPPER_KEYS if isinstance(entries := payload.get(key), Mapping)]
    for entries in (payload, *inside):
        arrays = [name for name, value in entries.items() if isinstance(value, Opaque) and _is_array(value)]
        if arrays:
            return WeightsError(
                f"{path}: {len(arrays)} of its values are NumPy arrays ({first_few(arrays, 3)}), expected tensors; "
                "save {name: torch.from_numpy(array) for name, array in weights.items()}"
            )
    return WeightsError(
        f"{path}: got a dict without weights (it holds {first_few(payload) or 'nothing'}), expected name -> tensor, "
        f"or that under one of {', '.join(WRAPPER_KEYS)}; save model.state_dict()"
    )


def _is_array(value: Opaque) -> bool:
    return value.name.startswith("numpy.") and value.name.endswith("multiarray._reconstruct")


def _needs_code(path: Path, what: str, value: object) -> UnsafeCheckpointError:
    name = value.name if isinstance(value, Opaque) else type(value).__name__
    return UnsafeCheckpointError(
        f"{path}: {what} an object of {name}, and loading it would run code (it imports: {name}), so it was not "
        f"loaded; expected tensors in plain containers; {RESAVE}"
    )


def _named(found: Mapping[tuple[str, ...], object]) -> str:
    return ", ".join(".".join(at) or "the file itself" for at in found)
