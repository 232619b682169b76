"""Ask TensorRT what an engine consists of. The engine is loaded for that, so a GPU that can run it is needed."""

from __future__ import annotations

from exporter.errors import EngineBuildError
from runtimes.errors import ProviderUnavailableError
from runtimes.trt.tensorrt_library import TensorRtLibrary, start_runtime


def inspect_engine(library: TensorRtLibrary, plan: bytes, *, no_gpu: str, dla_core: int | None = None) -> str:
    """Return the engine inspector's JSON; `runtimes.trt.engine_layers` reads it.

    Args:
        library: The library that built the engine.
        plan: The engine.
        no_gpu: What the driver answered: why there is no usable GPU, or "" where there is one.
        dla_core: The DLA core that it was built for, if any.

    Raises:
        EngineBuildError: If the engine does not load here, in TensorRT's words.
    """
    library.log.clear()
    try:
        runtime = start_runtime(library, no_gpu=no_gpu)
    except ProviderUnavailableError as err:
        raise EngineBuildError(str(err)) from err
    if hasattr(runtime, "engine_host_code_allowed"):  # a version-compatible plan holds a runtime; it was built here
        runtime.engine_host_code_allowed = True
    if dla_core is not None:
        runtime.DLA_core = dla_core
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise EngineBuildError(f"{library.flavor} does not load the engine: {library.log.last_words()}")
    inspector = engine.create_engine_inspector()
    return str(inspector.get_engine_information(library.module.LayerInformationFormat.JSON))
