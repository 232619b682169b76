"""Weights from a file, without running the file's code, and their strict fit into a module.

A `.safetensors` file holds tensors only. A `.pth` file is a pickle, a small program: it is read by
`torch.load(..., weights_only=True)`, which builds tensors and plain containers and refuses the rest; a file that it
refuses for what a training script stored beside the weights is read as inert data (`inert_checkpoint`).
What was done to the file's contents (a wrapper opened, a prefix cut) is told in `Checkpoint.notes`.
"""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from exporter.checkpoints.choose_weights import choose_weights
from exporter.checkpoints.inert_checkpoint import read_inert_checkpoint
from exporter.checkpoints.pickle_imports import is_zip_archive, names_imported_by_pickle
from exporter.checkpoints.size_limits import RESAVE, check_is_no_bomb, check_tensor_bytes
from exporter.checkpoints.training_record import TrainingRecord, training_record
from exporter.errors import UnsafeCheckpointError, WeightsError
from runtimes.first_few import first_few
from runtimes.io.stand_in import stand_in_at

PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".tar")
"""Names that `torch.save` files go by; `.tar` is the `model_best.pth.tar` of PyTorch's ImageNet example."""

WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.", "backbone.")
"""Prefixes that DataParallel, `torch.compile` and the usual training modules put before every name."""


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """Named weights read from one file.

    Attributes:
        state_dict: Name -> tensor on the CPU, detached; names as a bare torchvision-style ResNet has them.
        metadata: The safetensors header's strings; empty for other formats.
        notes: What was done to the file's contents on the way, in plain words; empty if nothing.
        sha256: `state_dict_sha256(state_dict)`, hexadecimal.
        training: What the file says about the training beside the weights.
    """

    state_dict: dict[str, Tensor]
    metadata: dict[str, str]
    notes: tuple[str, ...]
    sha256: str
    training: TrainingRecord = field(default_factory=TrainingRecord)

    def with_weights(self, state_dict: dict[str, Tensor], notes: tuple[str, ...]) -> Checkpoint:
        """Return the checkpoint with these weights instead, and notes on it; itself where that is the same."""
        if not notes and state_dict.keys() == self.state_dict.keys():
            return self
        digest = state_dict_sha256(state_dict)
        return replace(self, state_dict=state_dict, notes=(*self.notes, *notes), sha256=digest)


def load_checkpoint(path: Path, *, key: str | None = None) -> Checkpoint:
    """Read weights from a `.safetensors` or `torch.save` file without running its code.

    Args:
        path: The file; its suffix says the format (`.safetensors`, or one of `PICKLE_SUFFIXES`).
        key: Where the weights are in the file, see `choose_weights`; None for the usual place.

    Raises:
        UnsafeCheckpointError: If loading would run code (a pickled module, a TorchScript archive).
        WeightsError: If the file is missing, empty, corrupt, of an unknown kind, or holds no tensors.
    """
    path = Path(path)
    _check_is_nonempty_file(path)
    suffix = path.suffix.lower()
    metadata: dict[str, str] = {}
    training = TrainingRecord()
    if suffix == ".safetensors":
        tensors, metadata = _read_safetensors(path)
        state_dict, notes = (tensors, list[str]()) if key is None else choose_weights(tensors, path, key)
    elif suffix in PICKLE_SUFFIXES:
        payload = _read_pickle(path)
        state_dict, notes = choose_weights(payload, path, key)
        training = training_record(payload)
    else:
        known = ", ".join((".safetensors", *PICKLE_SUFFIXES))
        program = ""
        if suffix == ".pt2":
            program = f'; of a program: torch.save(dict(torch.export.load("{path}").state_dict), "weights.pth")'
        raise WeightsError(f'{path}: got suffix "{suffix}", expected one of {known}; rename or re-save it{program}')
    if not state_dict:
        raise WeightsError(f"{path}: got no tensors, expected a state dict; save model.state_dict()")
    _check_are_plain(state_dict, path)
    check_tensor_bytes(state_dict, path)
    state_dict, prefix_notes = _strip_prefixes(state_dict)
    notes += [*prefix_notes, *_precision_notes(state_dict)]
    return Checkpoint(state_dict, metadata, tuple(notes), state_dict_sha256(state_dict), training)


def state_dict_sha256(state_dict: Mapping[str, Tensor]) -> str:
    """Return a SHA-256 of the weights, in hexadecimal, that depends on neither file format nor order of names.

    For each name, sorted, the digest takes one line of JSON `[name, dtype, shape]`, such as
    `["fc.bias", "float32", [10]]`, a newline, and the tensor's bytes in row-major order, little-endian (the
    order of the platforms this runs on, x86-64 and AArch64). `num_batches_tracked` buffers are left out:
    inference does not read them and not every file carries them, so one network would get two digests.
    """
    digest = hashlib.sha256()
    for name in sorted(name for name in state_dict if not counts_batches(name)):
        tensor = state_dict[name].detach().cpu()
        header = [name, _short(tensor.dtype), list(tensor.shape)]
        digest.update(json.dumps(header).encode() + b"\n")
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def infer_num_classes(state_dict: Mapping[str, Tensor]) -> int | None:
    """Return the number of classes that the weights were trained for, the rows of `fc.weight`; None if they do not say.

    Only `fc.weight`, [num_classes, features], is looked at: it is the classifier of every ResNet that this
    project builds (torchvision's and `CifarResNet`).
    """
    weight = state_dict.get("fc.weight")
    return int(weight.shape[0]) if weight is not None and weight.ndim == 2 else None


def load_into(module: nn.Module, checkpoint: Checkpoint) -> None:
    """Copy the weights into `module`, which stays as it is if one does not fit, and check that all are finite.

    Values are converted to the module's dtype (a float16 file fits a float32 module). A missing
    `num_batches_tracked` is no misfit: the module keeps its own.

    Raises:
        WeightsError: If a tensor is missing, unexpected, of another shape, or not floating-point where the
            module's is, or if a loaded value is NaN or Inf.
    """
    own = module.state_dict()
    given = checkpoint.state_dict
    missing = [name for name in own if name not in given and not counts_batches(name)]
    unexpected = [name for name in given if name not in own]
    unfit = {name: words for name in own if name in given and (words := _misfit(given[name], own[name]))}
    problems = (
        _listed("missing from the file", missing),
        _listed("unexpected in the file", unexpected),
        _listed("unfit", [f"{name} ({words})" for name, words in unfit.items()]),
    )
    if found := "; ".join(filter(None, problems)):
        hint = _misfit_hint(missing + unexpected, list(unfit), given)
        raise WeightsError(f"the weights do not fit {type(module).__name__}: {found}; {hint}")
    module.load_state_dict(given, strict=False)  # what may be missing was settled above
    check_finite(module)


def check_finite(module: nn.Module) -> None:
    """Raise if any parameter or buffer of `module` holds NaN or Inf.

    Raises:
        WeightsError: Names up to 5 such tensors, with their counts of NaN and Inf.
    """
    found = []
    for name, tensor in module.state_dict().items():
        if bool(torch.isfinite(tensor.sum())):
            continue  # a NaN or Inf would still be there; summing takes a tenth of the time of counting
        num_nan = int(torch.isnan(tensor).sum())
        num_inf = int(torch.isinf(tensor).sum())
        if num_nan or num_inf:
            found.append(f"{name} ({num_nan} NaN and {num_inf} Inf of {tensor.numel()} values)")
    if found:
        raise WeightsError(
            f"{_listed('weights that are not finite', found)}; expected finite numbers only; "
            "training probably diverged: take an earlier checkpoint"
        )


def counts_batches(name: str) -> bool:
    """Tell whether a tensor is BatchNorm's training steps, which inference does not read and old files lack."""
    return name.rpartition(".")[2] == "num_batches_tracked"


def _check_is_nonempty_file(path: Path) -> None:
    """Raise a `WeightsError` unless `path` is a readable file with bytes in it."""
    if not path.exists():
        raise WeightsError(f"{path}: no such file, expected weights; check the path")
    if not path.is_file():
        raise WeightsError(f"{path}: got a folder or device, expected a file; name the weights file itself")
    if path.stat().st_size == 0:
        raise WeightsError(f"{path}: got an empty file, expected weights; copy or download it again")
    if not os.access(path, os.R_OK):
        raise WeightsError(f"{path}: no permission to read it; change its mode or copy it")
    if told := stand_in_at(path):
        raise WeightsError(f"{path}: {told}")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the header's strings; the tensors do not map the file."""
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            metadata = dict(file.metadata() or {})
            state_dict = {name: file.get_tensor(name).clone() for name in sorted(file.keys())}
    except (SafetensorError, OSError, ValueError) as err:
        if zipfile.is_zipfile(path):
            raise WeightsError(
                f"{path}: got a zip, as torch.save writes it, expected a safetensors file; rename it to .pth"
            ) from err
        raise WeightsError(
            f"{path}: got bytes that are not a whole safetensors file ({err}); copy or download it again"
        ) from err
    return state_dict, metadata


def _check_is_pickle(path: Path) -> None:
    """Raise a `WeightsError` for a safetensors file or an archive of files under a name of `torch.save`'s.

    Source: safetensors' format: eight bytes of the header's length, then its JSON; POSIX, ustar: its magic at byte 257.
    """
    with path.open("rb") as file:
        start = file.read(262)
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        raise WeightsError(f"{path}: got a safetensors file, expected one of torch.save; rename it to .safetensors")
    if start[:2] == b"\x1f\x8b":
        raise WeightsError(f"{path}: got a gzip file, expected one of torch.save; unpack it (gunzip)")
    if start[257:262] == b"ustar":
        raise WeightsError(
            f"{path}: got a tar archive, expected one file of torch.save; unpack it and give the weights in it"
        )


def _read_pickle(path: Path) -> object:
    """Return what a `torch.save` file holds, if it can be had without running code."""
    _check_is_pickle(path)
    check_is_no_bomb(path)
    if _is_torchscript(path):
        raise UnsafeCheckpointError(
            f"{path}: got a TorchScript archive, which holds a program and would run it; "
            f"expected tensors in plain containers; {RESAVE}; of the archive itself: "
            f'torch.save(torch.jit.load("{path}").state_dict(), "weights.pth")'
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; what cannot be read is raised below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as err:  # a damaged pickle can make the reader raise anything; all of it is chained
        if not isinstance(err, pickle.UnpicklingError):
            raise _unreadable(path, err) from err
        return _read_beside_weights(path, err)


def _read_beside_weights(path: Path, refusal: pickle.UnpicklingError) -> object:
    """Return the content of a file that torch.load refuses, as inert data."""
    names = names_imported_by_pickle(path)
    try:
        return read_inert_checkpoint(path)
    except UnsafeCheckpointError as err:
        raise _would_run(path, [str(err), *(name for name in names if name != str(err))]) from err
    except WeightsError:
        raise
    except Exception as err:  # a damaged pickle can make the reader raise anything; all of it is chained
        raise (_would_run(path, names) if names else _unreadable(path, refusal)) from err


def _would_run(path: Path, names: list[str]) -> UnsafeCheckpointError:
    return UnsafeCheckpointError(
        f"{path}: loading it would run code ({_listed('it imports', names)}), so it was not loaded; "
        f"expected tensors in plain containers; {RESAVE}"
    )


def _unreadable(path: Path, err: Exception) -> WeightsError:
    return WeightsError(
        f"{path}: got bytes that torch.load cannot read ({_reason(err)}), "
        "expected a whole file written by torch.save; copy or download it again"
    )


def _is_torchscript(path: Path) -> bool:
    """Tell whether `path` is a zip written by `torch.jit.save`.

    Source: `constants.pkl` is what `torch.serialization._is_torchscript_zip` looks for (PyTorch 2.15).
    """
    if not is_zip_archive(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.split("/", 1)[-1] == "constants.pkl" for name in archive.namelist())
    except zipfile.BadZipFile:
        return False  # torch.load will say what is wrong with it


def _check_are_plain(state_dict: Mapping[str, Tensor], path: Path) -> None:
    """Raise a `WeightsError` if a tensor is sparse, quantized, or has no values (device "meta")."""
    odd = [
        f"{name} ({_short(tensor.layout)} {_short(tensor.dtype)} on {tensor.device})"
        for name, tensor in state_dict.items()
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta
    ]
    if odd:
        raise WeightsError(
            f"{path}: {_listed('got tensors that are not plain arrays', odd)}; expected dense floating-point "
            "weights; save the model before it is quantized or made sparse"
        )


def _strip_prefixes(state_dict: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
    """Cut wrapper prefixes off the names, as long as all names share one, and note each."""
    notes: list[str] = []
    while True:
        shared = (p for p in WRAPPER_PREFIXES if all(name.startswith(p) for name in state_dict))
        prefix = next(shared, None)
        if prefix is None:
            return state_dict, notes
        state_dict = {name.removeprefix(prefix): tensor for name, tensor in state_dict.items()}
        notes.append(f'cut the prefix "{prefix}" off every name')


def _precision_notes(state_dict: Mapping[str, Tensor]) -> list[str]:
    """Return a note for each floating-point dtype other than float32 that the weights are stored in."""
    dtypes = {_short(tensor.dtype) for tensor in state_dict.values() if _is_real(tensor)}
    return [
        f"some weights are stored as {dtype}; loading converts them to the model's dtype"
        for dtype in sorted(dtypes - {"float32"})
    ]


def _misfit(given: Tensor, own: Tensor) -> str:
    """Return why `given` cannot be copied into `own`, or an empty string."""
    if given.shape != own.shape:
        return f"got {list(given.shape)}, expected {list(own.shape)}"
    if _is_real(own) and not _is_real(given):
        return f"got {_short(given.dtype)}, expected floating-point values"
    return ""


def _misfit_hint(names: list[str], unfit: list[str], given: Mapping[str, Tensor]) -> str:
    if any("fake_quant" in name or "activation_post_process" in name for name in given):
        return (
            "the file is of a network that PyTorch's own quantization prepared (its fake_quant and "
            "activation_post_process); save the float32 network's weights, without what watches and rounds"
        )
    num_classes = infer_num_classes(given)
    if not names and num_classes is not None and all(name.startswith("fc.") for name in unfit):
        return f"the file's classifier has {num_classes} classes: pass --num-classes {num_classes}"
    return "check that the file was saved from this model: same depth, width and shortcuts; MODEL auto finds out which"


def _listed(title: str, items: list[str]) -> str:
    """Return `title: a, b, ...`; empty if there are no items."""
    return f"{title}: {first_few(items)}" if items else ""


def _reason(err: Exception) -> str:
    """Return what went wrong, in one line.

    Of an `UnpicklingError` only its name: torch's words advise `weights_only=False`, which runs the file.
    """
    first_line = (str(err).strip().splitlines() or [""])[0]
    is_told = first_line and not isinstance(err, pickle.UnpicklingError)
    return f"{type(err).__name__}: {first_line}" if is_told else type(err).__name__


def _short(kind: torch.dtype | torch.layout) -> str:
    """Return "float32" for `torch.float32`, "strided" for `torch.strided`."""
    return str(kind).removeprefix("torch.")


def _is_real(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and not tensor.is_quantized
