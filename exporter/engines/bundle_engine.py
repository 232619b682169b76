"""A bundle's ONNX file -> engine and sidecar beside it; or the engine that is there already, when nothing changed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from exporter.bundle.tool_entry import tool_entry
from exporter.engines.build import Progress, build_engine
from exporter.engines.build_options import BuildOptions
from exporter.engines.dla import DlaPlacement
from exporter.engines.engine_evidence import EngineEvidence, gather_evidence, layers_path, saved_evidence, times_path
from exporter.engines.timing_cache import default_timing_cache
from exporter.errors import EngineBuildError
from runtimes.bundle.described_file import load_unchanged
from runtimes.bundle.file_names import DLA_FILES, DLA_SCALES, MODEL_FILES
from runtimes.bundle.manifest import Manifest, check_holds, file_entry
from runtimes.bundle.precision import is_int8, option_words
from runtimes.errors import BundleError
from runtimes.io.atomic_write import remove_leftovers, write_whole
from runtimes.io.writable import why_not_writable
from runtimes.machine.this_machine import machine_facts
from runtimes.trt.engine_layers import NetworkProducts
from runtimes.trt.engine_sidecar import EngineFacts, EngineSidecar, load_sidecar, sidecar_path
from runtimes.trt.tensorrt_library import load_library


@dataclass(frozen=True, slots=True)
class EngineOutcome:
    """An engine that is ready, just built or there already, why, and what is known of it."""

    path: Path
    sidecar: EngineSidecar
    reused: bool
    reason: str
    evidence: EngineEvidence = field(default_factory=EngineEvidence)
    placement: DlaPlacement | None = None


def engine_from_bundle(
    bundle: Path,
    *,
    precision: str,
    flavor: str = "tensorrt",
    options: BuildOptions | None = None,
    output: Path | None = None,
    progress: Progress | None = None,
    timing_cache: bool | Path = True,
    on_notice: Callable[[str], None] | None = None,
) -> EngineOutcome:
    """Build the engine of one precision, or find that the one there was built from the same facts.

    Args:
        bundle: A bundle folder; its files must be unchanged.
        precision: A key of `MODEL_FILES`.
        flavor: "tensorrt" or "rtx".
        options: How to build; the bundle's batch range and TensorRT's defaults when None.
        output: Where the plan goes; beside the ONNX file when None.
        progress: See `exporter.engines.build.build_engine`.
        timing_cache: A file, or True for the default one of this TensorRT version and GPU, or False for none.
        on_notice: See `exporter.engines.build.build_engine`.

    Raises:
        BundleError: If the folder is no bundle, was changed, or lacks that precision.
        EngineBuildError: If the build fails or the plan cannot be written.
        MissingDependencyError: If the library is not installed.
    """
    manifest = load_unchanged(bundle)
    chosen = options or BuildOptions(batch=manifest.batch)
    find = _onnx_file if chosen.dla_core is None else _dla_file
    precision, file = find(manifest, bundle, precision)
    model = bundle / file
    scales = bundle / DLA_SCALES if file == DLA_FILES["int8"] else None
    facts = _facts(model, precision, flavor, chosen, scales)
    path = output or model.with_name(f"{model.stem}.{'rtx.' if flavor == 'rtx' else ''}engine")
    remove_leftovers(path.parent, [path.name, sidecar_path(path).name, layers_path(path).name, times_path(path).name])
    reason = _why_rebuild(path, facts)
    if reason is None:
        reason = "built from the same file, for the same machine, with the same options"
        return EngineOutcome(path, load_sidecar(path), reused=True, reason=reason, evidence=saved_evidence(path))
    if told := why_not_writable(sidecar_path(path)):
        raise EngineBuildError(f"{path} cannot be written: {told}; choose another -o/--output")
    start = time.perf_counter()
    if timing_cache is True:
        timing_cache = default_timing_cache(facts.tensorrt_version, facts.gpu)
    placements: list[DlaPlacement] = []
    products: list[NetworkProducts] = []
    plan = build_engine(
        model,
        flavor=flavor,
        options=chosen,
        progress=progress,
        timing_cache=timing_cache or None,
        scales=scales,
        on_placement=placements.append,
        on_products=products.append,
        on_notice=on_notice,
    )
    layer_list = load_library(flavor).log.layer_list
    sidecar = _write(path, plan, facts, model, time.perf_counter() - start)
    evidence = gather_evidence(path, plan, facts, products[0] if products else None, layer_list)
    placement = placements[0] if placements else None
    return EngineOutcome(path, sidecar, reused=False, reason=reason, evidence=evidence, placement=placement)


def _onnx_file(manifest: Manifest, bundle: Path, precision: str) -> tuple[str, str]:
    """Return the precision and the bundle's file of it."""
    check_holds(bundle, manifest, [precision])
    if is_int8(precision) and not manifest.int8_for_tensorrt:
        raise BundleError(
            f"{bundle} was exported for {manifest.target}: TensorRT does not read its INT8 model (UINT8 activations, "
            "INT32 bias); export again with --target tensorrt or a jetpack"
        )
    return precision, MODEL_FILES[precision]


def _dla_file(manifest: Manifest, bundle: Path, precision: str) -> tuple[str, str]:
    """Return the precision on the DLA, where INT8 takes FP16 along, and the file that is built in it."""
    wanted = "int8" if is_int8(precision) else precision
    if wanted not in DLA_FILES:
        raise EngineBuildError(f"--dla: a DLA computes in INT8 and FP16, not in {precision}; give --int8 or --fp16")
    files = {DLA_FILES[wanted], *([DLA_SCALES] if wanted == "int8" else [])}
    if missing := sorted(files - manifest.files.keys()):
        raise BundleError(
            f"{bundle} holds no {missing[0]}, which is written where torch and the calibration images are: export "
            f"again with {option_words(wanted)} --dla"
        )
    return wanted, DLA_FILES[wanted]


def _facts(model: Path, precision: str, flavor: str, options: BuildOptions, scales: Path | None) -> EngineFacts:
    flags = options.flags()
    if scales is not None:
        flags["scales_sha256"] = file_entry(scales).sha256
    machine = machine_facts()
    portable = flavor == "rtx"  # TensorRT-RTX builds for compute capabilities, not for the GPU and driver at hand
    return EngineFacts(
        onnx_sha256=file_entry(model).sha256,
        precision=precision,
        flavor=flavor,
        tensorrt_version=load_library(flavor).version,
        gpu=None if portable else machine.gpu,
        compute_capability=None if portable else machine.compute_capability,
        cuda=None if portable else machine.cuda,
        system=machine.system,
        jetpack=machine.jetpack,
        batch=options.batch,
        flags=flags,
    )


def _why_rebuild(path: Path, facts: EngineFacts) -> str | None:
    """Return why the engine at `path` cannot be used, or None when it can."""
    if not path.exists():
        return "there was none"
    try:
        sidecar = load_sidecar(path)
    except BundleError as err:
        return f"the sidecar of the one there cannot be read ({err})"
    if differences := sidecar.facts.differences(facts):
        return f"the one there was built for another ({'; '.join(differences)})"
    entry = file_entry(path)
    if (entry.sha256, entry.size_bytes) != (sidecar.engine_sha256, sidecar.engine_size_bytes):
        return "the one there was changed since it was built"
    return None


def _write(path: Path, plan: bytes, facts: EngineFacts, model: Path, seconds: float) -> EngineSidecar:
    """Write plan and sidecar, both or none; the sidecar's hash tells which plan it speaks of, whenever it is killed."""
    sidecar = EngineSidecar(
        facts=facts,
        engine_sha256=hashlib.sha256(plan).hexdigest(),
        engine_size_bytes=len(plan),
        onnx_file=model.name,
        warnings=load_library(facts.flavor).log.warnings(),
        tool=tool_entry(),
        build_seconds=round(seconds, 3),
        shares_profile=True,
    )
    content = (json.dumps(sidecar.to_json(), indent=2) + "\n").encode()
    try:
        write_whole([(path, plan), (sidecar_path(path), content)])
    except OSError as err:
        raise EngineBuildError(f"{path} cannot be written: {err}; the old engine, if any, is unchanged") from err
    return sidecar
