"""Build for the DLA of an Orin or Xavier with TensorRT 8.6 to 10.7; see `exporter.engines.build`.

A DLA computes in FP16, or in INT8 by implicit quantization: a float network beside a scale for every tensor, which
TensorRT reads from a calibration cache. So the network is weakly typed there, whatever the version offers, and the
calibrator is one that has a cache and no images.

Source: NVIDIA TensorRT developer guide, Working with DLA; trtexec's handling of --useDLACore (sampleEngines.cpp 10.3).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exporter.engines.network_products import layers_of
from exporter.errors import EngineBuildError
from runtimes.bundle.manifest import BatchRange
from runtimes.trt.calibration_cache import cache_for_version
from runtimes.trt.tensorrt_library import TensorRtLibrary, TensorRtLog

_WITHOUT_CALIBRATORS = (
    ": TensorRT 11 has no calibrators, and takes for the DLA of AGX Orin (JetPack 7.2.2, TensorRT 11.4.1 and newer) "
    "typed networks only, which this bundle's DLA files are not"
)
"""Source: NVIDIA TensorRT documentation 11.4.1, Strongly Typed Networks for DLA and Working with DLA; the bindings of
11.4.0, which have neither IInt8EntropyCalibrator2 nor BuilderFlag.INT8 and FP16, but num_DLA_cores and DLA_core."""

MAX_BATCH = 4096
"""Source: NVIDIA TensorRT documentation, DLA supported layers and restrictions, general."""


@dataclass(frozen=True, slots=True)
class DlaPlacement:
    """Where TensorRT says that each layer of the network can run: names, in order."""

    on_dla: tuple[str, ...]
    on_gpu: tuple[str, ...]


def check_batch(batch: BatchRange) -> None:
    """Raise unless there is one batch size, and a DLA takes it.

    Raises:
        EngineBuildError: With what to type.
    """
    if not batch.min == batch.opt == batch.max:
        raise EngineBuildError(
            f"--dla: got batch sizes {batch.min},{batch.opt},{batch.max}, expected one, for which the DLA's program is "
            f"made; give --batch {batch.opt}"
        )
    if batch.max > MAX_BATCH:
        raise EngineBuildError(f"--dla: got batch {batch.max}, a DLA takes at most {MAX_BATCH}; give a smaller --batch")


def check_offered(library: TensorRtLibrary, builder: Any, core: int) -> None:
    """Raise unless this library builds for a DLA in the way described above, and this machine has that core.

    Raises:
        EngineBuildError: Saying which of the two is missing.
    """
    trt = library.module
    parts = (trt, "IInt8EntropyCalibrator2"), (trt, "DeviceType"), (trt.BuilderFlag, "INT8"), (trt.BuilderFlag, "FP16")
    if not all(hasattr(owner, name) for owner, name in parts):
        raise EngineBuildError(
            f"{library.flavor} {library.version} does not build for a DLA from float files and scales, TensorRT 8.5 "
            f"to 10.7 do (JetPack 5 and 6){_WITHOUT_CALIBRATORS if library.flavor == 'tensorrt' else ''}; build "
            "without --dla"
        )
    cores = int(getattr(builder, "num_DLA_cores", 0))
    if cores < 1:
        raise EngineBuildError(
            f"no DLA here: {library.flavor} {library.version} finds none. Orin NX, AGX Orin and Xavier have one, with "
            "TensorRT up to 10.7; Orin Nano, Thor and graphics cards have none; build without --dla"
        )
    if not 0 <= core < cores:
        raise EngineBuildError(f"--dla {core}: this machine has DLA cores 0 to {cores - 1}")


def choose_dla(library: TensorRtLibrary, config: Any, core: int, *, gpu_fallback: bool) -> None:
    """Make the DLA the place of every layer, in FP16 where INT8 is not set or has no scale."""
    trt = library.module
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.FP16)
    if gpu_fallback:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)


def attach_scales(library: TensorRtLibrary, config: Any, scales: Path, profile: Any) -> Any:
    """Set INT8 and give TensorRT the scales; return the calibrator, which must outlive the build.

    Raises:
        EngineBuildError: If the file is missing or no calibration cache.
    """
    try:
        content = cache_for_version(scales.read_text(encoding="utf-8"), library.version).encode()
    except (OSError, ValueError) as err:
        raise EngineBuildError(f"{scales} cannot be read as a calibration cache: {err}; export again") from err

    calibrator = _cache_only(library.module, library.log, content, scales.name)
    config.set_flag(library.module.BuilderFlag.INT8)
    config.int8_calibrator = calibrator
    if profile is not None:
        config.set_calibration_profile(profile)
    return calibrator


def _cache_only(trt: Any, log: TensorRtLog, content: bytes, file: str) -> Any:
    class CacheOnly(trt.IInt8EntropyCalibrator2):  # type: ignore[misc]
        """Has a cache and no images: were TensorRT not to take the cache, the build would fail, not calibrate."""

        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:
            log.add(is_error=True, text=f"TensorRT asked for images: it did not take the scales of {file}")

        def read_calibration_cache(self) -> bytes:
            return content

        def write_calibration_cache(self, cache: bytes) -> None:
            """Keep nothing: the scales are the bundle's."""

    return CacheOnly()


def check_placement(library: TensorRtLibrary, network: Any, config: Any, *, gpu_fallback: bool) -> DlaPlacement:
    """Ask TensorRT where each layer can run.

    Constants are left out: they become weights of the layer that reads them.

    Raises:
        EngineBuildError: If a layer cannot run on the DLA and the GPU was not allowed; naming all of them.
    """
    computed = [layer for layer in layers_of(network) if layer.type != library.module.LayerType.CONSTANT]
    placed = [(str(layer.name), bool(config.can_run_on_DLA(layer))) for layer in computed]
    placement = DlaPlacement(
        tuple(name for name, on_dla in placed if on_dla), tuple(name for name, on_dla in placed if not on_dla)
    )
    if placement.on_gpu and not gpu_fallback:
        raise EngineBuildError(
            f"{len(placement.on_gpu)} of {len(placed)} layers cannot run on the DLA: {', '.join(placement.on_gpu)}; "
            "--gpu-fallback lets them run on the GPU"
        )
    return placement
