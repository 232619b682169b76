"""Is this file an engine, the one its sidecar tells of, and for this machine? Asked before TensorRT sees the plan.

TensorRT's own refusal says little, and a plan is code: what does not fit is refused here, with the command to build one
that does.
"""

from __future__ import annotations

import platform
from contextlib import suppress
from pathlib import Path
from shlex import quote

from runtimes.bundle.manifest import file_entry
from runtimes.bundle.precision import option_words
from runtimes.errors import BundleError, RuntimeAdapterError
from runtimes.io.protobuf import fields
from runtimes.machine.version_numbers import version_numbers
from runtimes.trt.engine_sidecar import EngineSidecar, load_sidecar
from runtimes.trt.tensorrt_library import LEAN_LIBRARIES, TensorRtLibrary, base_version, built_flavor

_MODEL_FIELDS = frozenset(range(1, 27))
"""Field numbers of ModelProto. Source: onnx.proto."""


def check_is_no_onnx(path: Path) -> None:
    """Raise when a file is missing, empty, or an ONNX model."""
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # opening a pipe would wait forever
            raise RuntimeAdapterError(f"{path}: got a pipe or device, expected a TensorRT engine")
        with path.open("rb") as file:
            head = file.read(1 << 16)
    except OSError as err:
        raise RuntimeAdapterError(f"{path} cannot be read ({err.strerror}); {rebuild_command(path)}") from err
    if not head:
        raise RuntimeAdapterError(f"{path}: got an empty file, expected a TensorRT engine; {rebuild_command(path)}")
    if looks_like_onnx(head):
        raise RuntimeAdapterError(
            f"{path}: got an ONNX model, expected a TensorRT engine built from one; {rebuild_command(path)}"
        )


def looks_like_onnx(head: bytes) -> bool:
    """Tell whether a file begins as a serialized ModelProto does: known fields, an IR version, and the graph.

    Source: onnx.proto, message ModelProto.
    """
    seen = set()
    with suppress(IndexError, ValueError):  # the head ends somewhere
        for number, _ in fields(memoryview(head), 0, len(head)):
            if number not in _MODEL_FIELDS:
                return False
            seen.add(number)
    return bool(seen & {7, 8}) and 1 in seen  # 1: ir_version, 7: graph, 8: opset_import


def read_sidecar(path: Path, *, required: bool, flavor: str | None) -> EngineSidecar | None:
    """Return the sidecar; None where it is neither required nor needed to know the flavor."""
    if not required and flavor is not None:
        return None
    try:
        return load_sidecar(path)
    except BundleError as err:
        if not required:
            return None
        raise BundleError(
            f"{err}: nothing else tells what the engine was built for; {rebuild_command(path)}, or open it with "
            "check_sidecar=False"
        ) from err


def rebuild_command(path: Path, sidecar: EngineSidecar | None = None, flavor: str | None = None) -> str:
    """Return what to do; without a sidecar, precision and flavor are read off the file's name."""
    words = path.name.split(".")
    precision = "-".join(word for word in ("int8", "fp16") if word in words) or "fp32"
    rtx = flavor == "rtx" if flavor is not None else "rtx" in words
    if sidecar is not None:
        precision, rtx = sidecar.facts.precision, sidecar.facts.flavor == "rtx"
    options = f"{option_words(precision)}{' --rtx' if rtx else ''}{_dla(sidecar)}"
    return f"build it here: resnet-export build {quote(str(path.parent))} {options}"


def _dla(sidecar: EngineSidecar | None) -> str:
    """Return the options that build for a DLA again."""
    if sidecar is None or (core := sidecar.facts.flags.get("dla_core")) is None:
        return ""
    fallback = " --gpu-fallback" if sidecar.facts.flags.get("gpu_fallback") else ""
    return f" --dla {core}{fallback} --batch {sidecar.facts.batch.max}"


def check_plan(path: Path, sidecar: EngineSidecar, flavor: str, command: str) -> None:
    """Compare file, flavor and system with the sidecar; no library is needed for that."""
    entry = file_entry(path)
    if (entry.size_bytes, entry.sha256) != (sidecar.engine_size_bytes, sidecar.engine_sha256):
        raise BundleError(
            f"{path}: changed since it was built: got {entry.size_bytes} bytes, SHA-256 {entry.sha256[:12]}…, expected "
            f"{sidecar.engine_size_bytes} bytes, {sidecar.engine_sha256[:12]}…; copy it again, or {command}"
        )
    if built_flavor(flavor) != sidecar.facts.flavor:
        raise BundleError(
            f"{path}: asked to open it with {flavor!r}, it was built with {sidecar.facts.flavor!r}; leave flavor out"
        )
    system = f"{platform.system()} {platform.machine()}"
    if system != sidecar.facts.system:
        raise BundleError(f"{path}: got an engine for {sidecar.facts.system}, this machine is {system}; {command}")


def check_version(path: Path, sidecar: EngineSidecar, library: TensorRtLibrary, command: str) -> None:
    """Compare the installed library with the sidecar."""
    if sidecar.facts.flags.get("strip_weights"):
        raise BundleError(
            f"{path}: got an engine without weights, which an older resnet-export could build and nothing here fills; "
            f"{command}"
        )
    built = base_version(sidecar.facts.tensorrt_version)
    if library.flavor in LEAN_LIBRARIES and not sidecar.facts.flags.get("version_compat"):
        raise BundleError(
            f"{path}: got an engine for the full TensorRT {built}, expected a version-compatible one: TensorRT's "
            f"{library.flavor} library loads no other; {command} --version-compat"
        )
    if built == library.version:
        return
    if not sidecar.facts.flags.get("version_compat"):
        raise BundleError(
            f"{path}: got an engine of {library.flavor} {built}, expected {library.version}, which is installed here; "
            f"{command}"
        )
    if not loads_version_compatible(built, library.version):
        raise BundleError(
            f"{path}: got a version-compatible engine of {built}, {library.version} is installed here; it loads those "
            f"of its own major version and of the one before, not newer ones; {command}"
        )


def loads_version_compatible(built: str, installed: str) -> bool:
    """Tell whether a TensorRT loads the version-compatible engines of another.

    Source: NVIDIA TensorRT support matrix 11.4.1, version compatibility: 10 loads those of 8, 11 those of 10.
    """
    old, new = (version_numbers(version) for version in (built, installed))
    next_major = {8: 10, 10: 11}
    return old <= new and (old[0] == new[0] or next_major.get(old[0]) == new[0])


def check_gpu(path: Path, sidecar: EngineSidecar, here: str, command: str) -> None:
    """Compare the GPU's compute capability, such as "8.7", with the sidecar."""
    built = sidecar.facts.compute_capability
    if built is None or built == here:  # None: TensorRT-RTX, which checks that itself
        return
    if sidecar.facts.flags.get("hardware_compat") == "ampere-plus" and int(here.split(".")[0]) >= 8:
        return
    raise BundleError(
        f"{path}: got an engine for compute capability {built} ({sidecar.facts.gpu}), expected {here}, this GPU's; "
        f"{command}"
    )
