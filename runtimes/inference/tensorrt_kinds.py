"""TensorRT and TensorRT-RTX as runtimes: they run engines that `resnet-export build` made."""

from __future__ import annotations

from functools import partial

from runtimes.bundle.manifest import Manifest
from runtimes.inference.model_description import ModelDescription, library_versions
from runtimes.inference.runtime_kind import Availability, Choice, Machine, Opened, OpenOptions, RuntimeKind
from runtimes.machine.environment import rtx_serves
from runtimes.trt.engine_sidecar import load_sidecar
from runtimes.trt.tensorrt_library import FLAVOURS, LEAN_LIBRARIES, library_for


def open_engine(flavor: str, choice: Choice, manifest: Manifest | None, options: OpenOptions) -> Opened:
    """Open an engine of one flavor; whatever bundle it was built from, its sidecar says what it is.

    Raises:
        RuntimeAdapterError: If it does not fit this machine; see `runtimes.load`.
    """
    from runtimes.trt.adapter import TrtRuntime

    sidecar = choice.sidecar or load_sidecar(choice.path)
    compatible = bool(sidecar.facts.flags.get("version_compat"))
    runtime = TrtRuntime(choice.path, flavor=library_for(flavor, version_compat=compatible))
    batch = sidecar.facts.batch
    description = ModelDescription(
        file=str(choice.path),
        precision=choice.precision,
        runtime="TensorRT-RTX" if flavor == "rtx" else "TensorRT",
        provider=runtime.library_version,
        reason=choice.reason,
        batch=f"{batch.min}-{batch.max}, more in pieces, fewer padded",
        inputs=runtime.input_specs,
        outputs=runtime.output_specs,
        versions=library_versions(**{FLAVOURS[flavor]: sidecar.facts.tensorrt_version}),
    )
    return Opened(runtime, description)


def _flavor_works(flavor: str, machine: Machine) -> Availability:
    """Tell whether the library of a flavor imports and serves a GPU of this machine."""
    infos = {item.module: item for item in machine.tensorrt}
    found, limits = infos[FLAVOURS[flavor]], ""
    if found.version is None and flavor == "tensorrt":
        lean = [info for module in LEAN_LIBRARIES.values() if (info := infos.get(module)) and info.version]
        found, limits = (lean[0], ", version-compatible engines only") if lean else (found, "")
    if found.version is None:
        return Availability(False, f"{found.module}: {found.reason}")
    if not machine.gpu.is_usable:
        return Availability(False, machine.gpu.reason or "no usable GPU")
    if flavor == "rtx" and not any(rtx_serves(found, gpu.compute_capability) for gpu in machine.gpu.devices):
        return Availability(False, f"{found.module} {found.version} serves no GPU of this machine")
    return Availability(True, f"{found.module} {found.version}{limits}")


def _kind(name: str, title: str, flavor: str) -> RuntimeKind:
    return RuntimeKind(
        name=name,
        title=f"engines of {title}",
        computed_by="tensorrt",
        open=partial(open_engine, flavor),
        probe=partial(_flavor_works, flavor),
        engine_flavor=flavor,
        needs_gpu=True,
        reads_onnxruntime_int8=False,
    )


TENSORRT = _kind("tensorrt", "TensorRT", "tensorrt")
TENSORRT_RTX = _kind("tensorrt-rtx", "TensorRT-RTX", "rtx")
