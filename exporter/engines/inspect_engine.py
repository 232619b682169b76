"""Ask TensorRT what an engine consists of. The engine is loaded for that, so a GPU that can run it is needed."""

from __future__ import annotations

from exporter.errors import EngineBuildError
from runtimes.trt.library import TensorRtLibrary


def inspect_engine(library: TensorRtLibrary, plan: bytes, *, dla_core: int | None = None) -> str:
    """Return the engine inspector's JSON; `runtimes.trt.engine_layers` reads it.

    Args:
        library: The library that built the engine.
        plan: The engine.
        dla_core: The DLA core that it was built for, if any.

    Raises:
        EngineBuildError: If the engine does not load here, in TensorRT's words.
    """
    trt = library.module
    library.log.clear()
    try:
        runtime = trt.Runtime(library.logger)
    except TypeError as err:  # pybind11's way to say that the factory returned nothing
        raise EngineBuildError(f"{library.flavor} does not start: {library.log.last_words()}") from err
    if hasattr(
        runtime, "engine_host_code_allowed"
    ):  # a version-compatible plan holds its own runtime; it was built here
        runtime.engine_host_code_allowed = True
    if dla_core is not None:
        runtime.DLA_core = dla_core
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineBuildError(f"{library.flavor} does not load the engine: {library.log.last_words()}")
    return str(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))
