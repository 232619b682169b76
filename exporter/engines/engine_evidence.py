"""What an engine computes and how long it takes, asked where it was built and kept beside it.

TensorRT's inspector tells the layers on a GPU; elsewhere the list that TensorRT-RTX's builder logged is taken. Whatever
becomes of these files, the engine is good.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from exporter.errors import EngineBuildError
from runtimes.errors import RuntimeAdapterError
from runtimes.io.atomic_write import write_whole
from runtimes.machine.this_machine import machine_facts
from runtimes.trt import engine_layers
from runtimes.trt.build_log import layers_from_log
from runtimes.trt.engine_sidecar import EngineFacts
from runtimes.trt.layer_times import EngineTimes, times_from_json
from runtimes.trt.tensorrt_library import TensorRtLibrary, allow_host_code, load_library, start_runtime

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EngineEvidence:
    """What is known of an engine beside its sidecar: its layers and how long each takes, or why that is not known."""

    layers: engine_layers.EngineLayers | None = None
    why_no_layers: str = ""
    times: EngineTimes | None = None
    why_no_times: str = ""


def gather_evidence(
    path: Path, plan: bytes, facts: EngineFacts, products: engine_layers.NetworkProducts | None, layer_list: str
) -> EngineEvidence:
    """Ask the engine just built, and keep what it says beside it."""
    layers, why_no_layers = _told_layers(path, plan, facts, products, layer_list)
    on_gpu = layers is not None and layers.source == engine_layers.INSPECTOR
    needs_gpu = "an engine runs on a GPU only, and here is none"
    times, why_no_times = _timed_layers(path, facts) if on_gpu else (None, why_no_layers or needs_gpu)
    return EngineEvidence(layers, why_no_layers, times, why_no_times)


def saved_evidence(path: Path) -> EngineEvidence:
    """Return what was kept beside an engine when it was built."""
    not_counted = "they were not counted when it was built (an engine tells its layers on a GPU only)"
    not_timed = "they were not timed when it was built (an engine runs on a GPU only)"
    return EngineEvidence(
        *_saved(layers_path(path), engine_layers.layers_from_inspector, not_counted),
        *_saved(times_path(path), times_from_json, not_timed),
    )


def layers_path(plan: Path) -> Path:
    """Return where TensorRT's account of an engine's layers is kept: `<engine>.layers.json`."""
    return plan.with_name(f"{plan.name}.layers.json")


def _told_layers(
    path: Path, plan: bytes, facts: EngineFacts, products: engine_layers.NetworkProducts | None, layer_list: str
) -> tuple[engine_layers.EngineLayers | None, str]:
    """Return the layers of the engine just built, and keep them."""
    layers_path(path).unlink(missing_ok=True)
    entries, source, why_not = _inspected(plan, facts)
    if entries is None and layer_list:
        try:
            entries, source = layers_from_log(layer_list), engine_layers.BUILD_LOG
        except ValueError as err:
            why_not = f"{why_not}; {err}"
    if entries is None:
        return None, why_not
    text = json.dumps(engine_layers.layers_to_json(entries, source=source, products=products))
    try:
        layers = engine_layers.layers_from_inspector(text)
        write_whole([(layers_path(path), text.encode())])
    except (RuntimeAdapterError, OSError) as err:
        return None, str(err)
    return layers, ""


def _inspected(plan: bytes, facts: EngineFacts) -> tuple[list[Any] | None, str, str]:
    """Return what the inspector lists, `INSPECTOR`, and why it does not."""
    if machine_facts().gpu is None:
        return None, engine_layers.INSPECTOR, "an engine tells its layers on a GPU only, and here is none"
    try:
        text = _inspector_text(load_library(facts.flavor), plan, facts.flags.get("dla_core"))
        engine_layers.layers_from_inspector(text)  # raises where it names layers and says no more
        return json.loads(text)["Layers"], engine_layers.INSPECTOR, ""
    except (EngineBuildError, RuntimeAdapterError) as err:
        return None, engine_layers.INSPECTOR, str(err)


def times_path(plan: Path) -> Path:
    """Return where the times of an engine's layers are kept: `<engine>.times.json`."""
    return plan.with_name(f"{plan.name}.times.json")


def _timed_layers(path: Path, facts: EngineFacts) -> tuple[EngineTimes | None, str]:
    """Run the engine just built at its best batch and keep its layers' times; it is good whatever becomes of that."""
    from runtimes.trt.adapter import TrtRuntime

    times_path(path).unlink(missing_ok=True)
    try:
        with TrtRuntime(path, max_contexts=1) as opened:
            times = opened.layer_times(batch=facts.batch.opt)
        write_whole([(times_path(path), (json.dumps(times.to_json(), indent=2) + "\n").encode())])
    except (RuntimeAdapterError, OSError) as err:
        return None, str(err)
    return times, ""


def _saved(path: Path, read: Callable[[str], T], why_absent: str) -> tuple[T | None, str]:
    """Return what `read` makes of the file's text, or why there is nothing."""
    try:
        return read(path.read_text(encoding="utf-8")), ""
    except FileNotFoundError:
        return None, why_absent
    except (OSError, UnicodeDecodeError, RuntimeAdapterError) as err:
        return None, f"not kept from its build ({err})"


def _inspector_text(library: TensorRtLibrary, plan: bytes, dla_core: int | None) -> str:
    """Return the engine inspector's JSON, or raise EngineBuildError in TensorRT's words where it does not load here."""
    library.log.clear()
    runtime = start_runtime(library)
    allow_host_code(runtime)  # it was built here
    if dla_core is not None:
        runtime.DLA_core = dla_core
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineBuildError(f"{library.flavor} does not load the engine: {library.log.last_words()}")
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(library.module.LayerInformationFormat.JSON))
