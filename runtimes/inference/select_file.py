"""Which file of a bundle runs, and on what: the rule of `load`, as one function of facts.

    machine                                     provider      file
    TensorRT (or -RTX), a GPU, an engine that   tensorrt(-rtx) the engine; of several the lowest precision
      fits this bundle, library and GPU
    a GPU, ONNX Runtime with CUDA               cuda          FP16, else FP32; never INT8, which it computes in float
    any other                                   cpu           INT8 of a bundle for ONNX Runtime, else FP32

What the caller names (provider, precision, file) is not up for choice; what cannot be had is an error.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from runtimes.bundle.file_names import DLA_FILES, MODEL_FILES
from runtimes.bundle.manifest import Manifest
from runtimes.bundle.precision import LOWEST_FIRST, is_int8, option_words
from runtimes.errors import BundleError, RuntimeAdapterError
from runtimes.inference.runtime_kind import Choice
from runtimes.inference.runtime_registry import AUTO, RUNTIMES, word_of_flavor
from runtimes.trt.compatibility import check_gpu, check_plan, check_version, rebuild_command
from runtimes.trt.engine_sidecar import EngineSidecar, load_sidecar
from runtimes.trt.tensorrt_library import is_installed, library_for, load_library

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Here:
    """Facts about this machine that decide "auto"."""

    has_gpu: bool = False
    ort_has_cuda: bool = False
    compute_capability: str | None = None

    @property
    def provider(self) -> str:
        """What "auto" runs an ONNX file on."""
        return "cuda" if self.has_gpu and self.ort_has_cuda else "cpu"


def choose(
    bundle: Path, manifest: Manifest, here: Here, *, provider: str, precision: str | None, file: str | None
) -> Choice:
    """Return which file of a bundle runs on what; see the module's docstring.

    Raises:
        BundleError: If the bundle lacks what was named, or it does not fit the provider.
    """
    if file is not None:
        return _named(bundle, manifest, here, provider=provider, precision=precision, file=file)
    if provider != AUTO and (flavor := RUNTIMES[provider].engine_flavor) is not None:
        return _engine(bundle, manifest, flavor, precision)
    if provider == AUTO:
        engine = _fitting_engine(bundle, manifest, here, precision) if here.has_gpu else None
        if engine is not None:
            return engine
        provider = here.provider
    wanted = (precision,) if precision else RUNTIMES[provider].precisions_for(manifest)
    found = next((word for word in wanted if word in manifest.precisions), None)
    if found is None:
        have = ", ".join(manifest.precisions)
        raise BundleError(
            f"{bundle} holds no {' or '.join(wanted)} model, it has {have}; export with {option_words(wanted[0])}"
        )
    _check_dialect(bundle, manifest, found, provider)
    why = _why(provider, found, asked=precision is not None, here=here)
    return Choice(bundle / MODEL_FILES[found], provider, found, why)


def engine_choice(path: Path, sidecar: EngineSidecar, provider: str, reason: str) -> Choice:
    """Return the choice of one engine; raise a BundleError where it is for another runtime than was asked for."""
    word = word_of_flavor(sidecar.facts.flavor) or sidecar.facts.flavor
    if provider not in (AUTO, word):
        raise BundleError(f"{path} is an engine for {word}, asked for {provider}; leave the provider out")
    return Choice(path, word, sidecar.facts.precision, reason, sidecar)


def _belongs(manifest: Manifest, sidecar: EngineSidecar) -> bool:
    """Tell whether an engine was built from one of the bundle's files, as they are now."""
    return any(
        name in manifest.files and manifest.files[name].sha256 == sidecar.facts.onnx_sha256
        for name in (*MODEL_FILES.values(), *DLA_FILES.values())
    )


def _check_dialect(bundle: Path, manifest: Manifest, precision: str, provider: str) -> None:
    if is_int8(precision) and not manifest.int8_for_tensorrt and not RUNTIMES[provider].reads_onnxruntime_int8:
        raise BundleError(
            f"{bundle} was exported for ONNX Runtime: {RUNTIMES[provider].title} does not read its INT8 model (UINT8 "
            "activations, INT32 bias); export again with --target tensorrt or a jetpack"
        )


def _why(provider: str, found: str, *, asked: bool, here: Here) -> str:
    """Return the runtime's reason for a precision; that it is the CPU for want of a GPU is the machine's."""
    reason = RUNTIMES[provider].reason(found, asked=asked)
    return reason.replace("the CPU;", "the CPU, there being no usable GPU;") if not here.has_gpu else reason


def _named(bundle: Path, manifest: Manifest, here: Here, *, provider: str, precision: str | None, file: str) -> Choice:
    path = bundle / file
    if path.name != file:
        raise BundleError(f"file {file!r} is not in {bundle}; give the name of one of its files")
    if not path.exists():
        raise BundleError(f"{path} does not exist; the bundle has {', '.join(sorted(manifest.files))}")
    known = next((word for word, name in MODEL_FILES.items() if name == file), None)
    if known is None and file in manifest.files:
        raise BundleError(f"{path} is no model; it has {', '.join(map(MODEL_FILES.__getitem__, manifest.precisions))}")
    if known is None:
        sidecar = load_sidecar(path)
        if not _belongs(manifest, sidecar):
            raise BundleError(f"{path} was not built from this bundle as it is now; {rebuild_command(path, sidecar)}")
        _check_precision(file, sidecar.facts.precision, precision)
        return engine_choice(path, sidecar, provider, "the file was named")
    if provider != AUTO and RUNTIMES[provider].engine_flavor is not None:
        raise BundleError(f"{path} is an ONNX model, {provider} runs engines; {rebuild_command(path)}")
    if file not in manifest.files:
        raise BundleError(f"{path} is not in the bundle's manifest; it has {', '.join(sorted(manifest.files))}")
    _check_precision(file, known, precision)
    chosen = here.provider if provider == AUTO else provider
    _check_dialect(bundle, manifest, known, chosen)
    return Choice(path, chosen, known, "the file was named")


def _check_precision(file: str, known: str, asked: str | None) -> None:
    if asked is not None and asked != known:
        raise BundleError(f"{file} is {known}, asked for {asked}; leave one of the two out")


def _engine(bundle: Path, manifest: Manifest, flavor: str, precision: str | None) -> Choice:
    """Return the engine of the lowest precision of one flavor; whether it fits this machine is checked on opening."""
    candidates = [
        choice
        for choice in _engines(bundle, manifest)
        if choice.sidecar is not None
        and choice.sidecar.facts.flavor == flavor
        and precision in (None, choice.precision)
    ]
    if not candidates:
        rtx = " --rtx" if flavor == "rtx" else ""
        named = precision or next(word for word in LOWEST_FIRST if MODEL_FILES[word] in manifest.files)
        raise BundleError(
            f"{bundle} holds no engine for {flavor}{f' in {precision}' if precision else ''} that was built from its "
            f"files; build it here: resnet-export build {quote(str(bundle))} {option_words(named)}{rtx}"
        )
    return candidates[0]


def _fitting_engine(bundle: Path, manifest: Manifest, here: Here, precision: str | None) -> Choice | None:
    """Return the best engine that fits plan, system, library and GPU, or None; one that does not fit is logged."""
    for choice in _engines(bundle, manifest):
        assert choice.sidecar is not None
        facts = choice.sidecar.facts
        flavor = library_for(facts.flavor, version_compat=bool(facts.flags.get("version_compat")))
        if precision not in (None, choice.precision) or not is_installed(flavor):
            continue
        command = rebuild_command(choice.path, choice.sidecar)
        try:
            check_plan(choice.path, choice.sidecar, flavor, command)
            check_version(choice.path, choice.sidecar, load_library(flavor), command)
            if here.compute_capability is not None:
                check_gpu(choice.path, choice.sidecar, here.compute_capability, command)
        except RuntimeAdapterError as err:
            _LOG.warning("an engine of the bundle is left out: %s", err)
            continue
        return choice
    return None


def _engines(bundle: Path, manifest: Manifest) -> list[Choice]:
    """Return the engines beside the bundle's files that were built from them, lowest precision first."""
    found = []
    for path in sorted(bundle.glob("*.engine")):
        try:
            sidecar = load_sidecar(path)
        except BundleError:
            continue  # an engine of someone else
        facts = sidecar.facts
        if "dla_core" in facts.flags:
            continue  # slower than the GPU, to keep that free: only where it is named
        word = word_of_flavor(facts.flavor)
        if word is not None and _belongs(manifest, sidecar):
            found.append(Choice(path, word, facts.precision, "an engine that was built from this bundle", sidecar))
    return sorted(found, key=lambda choice: LOWEST_FIRST.index(choice.precision or "fp32"))
