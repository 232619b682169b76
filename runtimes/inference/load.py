"""`load`: a bundle, an ONNX file or an engine, opened on the best that this machine has, or on what was asked for."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Any

from runtimes.argument_kinds import Count, StrPath, checked_kinds
from runtimes.bundle.described_file import load_unchanged
from runtimes.bundle.file_names import MANIFEST_NAME, MODEL_FILES
from runtimes.bundle.manifest import Manifest, load_manifest, read_labels
from runtimes.errors import (
    BundleError,
    MissingDependencyError,
    NotAClassifierError,
    ProviderUnavailableError,
    RuntimeAdapterError,
    SignatureError,
)
from runtimes.inference.classification import Head, head_from_outputs
from runtimes.inference.model import Model
from runtimes.inference.runtime_kind import Choice, Opened, OpenOptions
from runtimes.inference.runtime_registry import AUTO, RUNTIMES, runtime_word
from runtimes.inference.select_file import Here, choose, engine_choice
from runtimes.io.stand_in import stand_in_at
from runtimes.machine.environment import gpu_info
from runtimes.metrics.answer_kind import KEY, AnswerKind, kind_in
from runtimes.preprocessing.model_input import Preparation
from runtimes.preprocessing.transform import Preprocessing
from runtimes.trt.compatibility import looks_like_onnx
from runtimes.trt.engine_sidecar import load_sidecar

_LOG = logging.getLogger(__name__)


@checked_kinds
def load(
    path: StrPath,
    *,
    provider: str = "auto",
    precision: str | None = None,
    file: str | None = None,
    threads: Count | None = None,
    allow_fallback: bool = False,
    backend: str = "pillow",
    draft: bool = False,
    provider_options: Mapping[str, str] | None = None,
    public_key: StrPath | None = None,
) -> Model:
    """Open a model. What runs is what was asked for, or nothing.

    Which file of a bundle runs on what:

    | provider | runs | file, unless `precision` or `file` says |
    |---|---|---|
    | `auto` | with a GPU: a fitting engine, else CUDA where ONNX Runtime has it; else the CPU | as below |
    | `cpu` | ONNX Runtime's CPU | INT8 of bundles for ONNX Runtime; else FP32, the others being slower |
    | `openvino` | OpenVINO on the CPU, for x86 | INT8 of either dialect, else FP32 |
    | `cuda` | ONNX Runtime's CUDA provider | FP16, else FP32 (it computes INT8 in float) |
    | `tensorrt`, `tensorrt-rtx` | an engine that `resnet-export build` made here | the lowest precision |
    | `ort-tensorrt` | ONNX Runtime's TensorRT provider | the lowest precision |
    | `ort-tensorrt-rtx` | the TensorRT-RTX plug-in of ONNX Runtime | the lowest precision |

    Args:
        path: A bundle folder, whose files must be unchanged; or one of its files; or any ONNX file or engine.
        provider: See the table; ONNX Runtime's own names are understood too, and runtimes of other packages.
        precision: "fp32", "fp16", "int8" or "int8-fp16".
        file: Name of one file of the bundle.
        threads: Threads of one operator on the CPU; None lets the runtime choose.
        allow_fallback: Where `provider` does not load, or does not run every node, run on the CPU, or there in part,
            and log a warning (logger `runtimes.inference.load`). Otherwise that is an error.
        backend: "pillow" prepares pictures bit for bit as in training, "opencv" faster and a little differently.
        draft: Decode huge JPEGs at a reduced size; faster, and a little different (docs/runtimes.md has the bounds).
        provider_options: Further options of ONNX Runtime's provider, or properties of OpenVINO's CPU plug-in.
        public_key: Ed25519 in PEM: the bundle must be signed by its owner (`--sign`). Engines that were built from it
            here are not covered by the signature.

    Raises:
        BundleError: If the bundle is incomplete or changed, or lacks what was asked for.
        SignatureError: If a public key is given, and the bundle is not signed by its owner.
        ProviderUnavailableError: If the provider does not load or does not run every node; says what is missing.
        MissingDependencyError: If a library is not installed.
        RuntimeAdapterError: If the file does not load.
        TypeError: If `path` is no path, or `provider_options` no mapping.
        ValueError: If an argument is unknown.
    """
    _check_arguments(precision, provider_options)
    word = runtime_word(provider)
    if provider_options and word == "cpu":
        raise ValueError(f"provider_options: got {dict(provider_options)}, but the CPU provider takes none")
    source = _source(Path(path), file, None if public_key is None else Path(public_key))
    options = OpenOptions(threads=threads, provider_options=dict(provider_options or {}), strict=not allow_fallback)
    here = _here(source, word)
    choice = source.choice(here, word, precision)
    try:
        opened = RUNTIMES[choice.provider].open(choice, source.manifest, options)
    except RuntimeAdapterError as err:
        if choice.provider == "cpu":
            raise
        if not allow_fallback:
            raise _with_way_out(err, source.has_onnx) from err
        _LOG.warning("%s: fell back to the CPU, as allow_fallback=True permits: %s", choice.path, err)
        choice = source.without_engine().choice(here, "cpu", precision)
        choice = replace(choice, reason=f"fell back from {word}: {err}")
        opened = RUNTIMES[choice.provider].open(choice, source.manifest, options)
    for warning in opened.warnings:
        _LOG.warning("%s: %s", choice.path, warning)
    return source.model(opened, backend=backend, draft=draft)


def _check_arguments(precision: str | None, provider_options: object) -> None:
    if not isinstance(provider_options, (Mapping, NoneType)):
        got = type(provider_options).__name__
        raise TypeError(f"provider_options: got {got}, expected a mapping of names to values")
    if precision is not None and precision not in MODEL_FILES:
        raise ValueError(f"precision: got {precision!r}, expected one of {', '.join(MODEL_FILES)}")


@dataclass(frozen=True, slots=True)
class _Source:
    """A bundle and perhaps the name of one of its files; or, without a manifest, one file."""

    path: Path
    manifest: Manifest | None
    file: str | None

    @property
    def has_onnx(self) -> bool:
        """Whether there is a file that the CPU could run."""
        return self.manifest is not None or _is_onnx(self.path)

    def choice(self, here: Here, provider: str, precision: str | None) -> Choice:
        """Return what is to be opened."""
        if self.manifest is not None:
            return choose(self.path, self.manifest, here, provider=provider, precision=precision, file=self.file)
        if _is_onnx(self.path):
            if provider != AUTO and RUNTIMES[provider].engine_flavor is not None:
                raise BundleError(f"{self.path} is an ONNX model, {provider} runs engines; build one first")
            return Choice(self.path, here.provider if provider == AUTO else provider, precision, "one file was given")
        return engine_choice(self.path, load_sidecar(self.path), provider, "one engine was given")

    def without_engine(self) -> _Source:
        """Return the same without the name of a file that the CPU cannot run."""
        return self if self.file in MODEL_FILES.values() else replace(self, file=None)

    def model(self, opened: Opened, *, backend: str, draft: bool) -> Model:
        """Return the model, with what is known of its pictures and classes."""
        runtime = opened.runtime
        try:
            told = self._told(opened)
            preparation = None
            if told.preprocessing is not None and len(runtime.input_specs) == 1:
                (spec,) = runtime.input_specs.values()
                preparation = Preparation(told.preprocessing, spec.dtype == "uint8", backend, draft)
            head: Head | NotAClassifierError
            try:
                head = head_from_outputs(runtime.output_specs, labels=told.labels, kind=told.kind)
            except NotAClassifierError as err:
                head = err
        except BaseException:  # an interrupt too: nothing may stay open that nobody holds
            runtime.close()
            raise
        return Model(runtime, description=opened.description, preparation=preparation, head=head)

    def _told(self, opened: Opened) -> _Told:
        if self.manifest is None:
            return _told_by_metadata(self.path, opened.metadata)
        return _Told(self.manifest.preprocessing, read_labels(self.path, self.manifest), self.manifest.answers)


@dataclass(frozen=True, slots=True)
class _Told:
    preprocessing: Preprocessing | None
    labels: tuple[str, ...] | None
    kind: AnswerKind | None


def _told_by_metadata(path: Path, metadata: Mapping[str, str]) -> _Told:
    """Read what `resnet-export` writes into a file's metadata; other tools write other things under these names."""
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    kind: AnswerKind | None = None
    try:
        if KEY in metadata:
            kind = kind_in({KEY: json.loads(metadata[KEY])})
        if "preprocessing" in metadata:
            preprocessing = Preprocessing.from_json(json.loads(metadata["preprocessing"]))
        if "labels" in metadata:
            names: Any = json.loads(metadata["labels"])
            labels = tuple(names) if isinstance(names, list) and all(isinstance(name, str) for name in names) else None
    except (ValueError, RecursionError) as err:
        _LOG.warning("%s: its metadata is not ours, classify() will not work: %s", path, err)
    return _Told(preprocessing, labels, kind)


def _source(path: Path, file: str | None, public_key: Path | None) -> _Source:
    if path.is_dir():
        return _Source(path, load_unchanged(path, public_key=public_key), file)
    if file is not None:
        raise ValueError(f"file: got {file!r} beside {path}, which is no folder; give the bundle's folder")
    if not path.is_file():
        raise RuntimeAdapterError(f"{path} does not exist; expected a bundle folder, an ONNX file or an engine")
    if told := stand_in_at(path):
        raise RuntimeAdapterError(f"{path}: {told}")
    folder = path.parent
    if path.name == MANIFEST_NAME:
        raise BundleError(f"{path} is a manifest, no model; expected the bundle's folder, {folder}")
    if (folder / MANIFEST_NAME).is_file() and _is_of_bundle(path, load_manifest(folder)):
        return _source(folder, path.name, public_key)
    if public_key is not None:
        raise SignatureError(f"{path}: got a public key and a file of no bundle; only bundles are signed")
    return _Source(path, None, None)


def _is_of_bundle(path: Path, manifest: Manifest) -> bool:
    """Tell whether a file is one of the bundle beside it, or an engine built from it."""
    if path.name in manifest.files:
        return True
    if _is_onnx(path):
        return False
    try:
        onnx_sha256 = load_sidecar(path).facts.onnx_sha256
    except BundleError:
        return False
    return any(entry.sha256 == onnx_sha256 for entry in manifest.files.values())


def _is_onnx(path: Path) -> bool:
    with path.open("rb") as file:
        return looks_like_onnx(file.read(1 << 16))


def _here(source: _Source, provider: str) -> Here:
    """Look at the machine as far as "auto" needs it; a GPU that ONNX Runtime was not built for is worth a word."""
    if provider != AUTO:
        return Here()
    gpus = gpu_info()
    if not gpus.is_usable:
        return Here()
    capability = gpus.devices[0].compute_capability
    try:
        import onnxruntime
    except ImportError:
        return Here(has_gpu=True, compute_capability=capability)
    has_cuda = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if not has_cuda:
        _LOG.warning("%s: there is a GPU, but the installed ONNX Runtime has no CUDA provider", source.path)
    return Here(has_gpu=True, ort_has_cuda=has_cuda, compute_capability=capability)


def _with_way_out(err: RuntimeAdapterError, has_onnx: bool) -> RuntimeAdapterError:
    """Return the error with the one way down, where there is one; of the same class, so that callers can tell."""
    if not has_onnx or not isinstance(err, (ProviderUnavailableError, MissingDependencyError)):
        return err
    return type(err)(f'{err}. Nothing was run; provider="cpu" or allow_fallback=True runs it on the CPU')
