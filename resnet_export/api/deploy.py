"""`resnet_export.build`, `classify`, `triton` and `deepstream`: from a bundle to where it runs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporter.engines.build_options import BuildOptions
from exporter.engines.bundle_engine import EngineOutcome
from resnet_export.api.export import batch_range
from resnet_export.build_job.build_step import EngineRequest, check_min_int8, have_engine
from resnet_export.build_job.command import lowest_precision
from resnet_export.commands.classify import ClassifyOptions, classify_folder
from resnet_export.console.reporter import Listener, Reporter
from runtimes.argument_kinds import Count, StrPath, checked_kinds
from runtimes.batch_inference.run import RunReport
from runtimes.bundle.manifest import BatchRange, load_manifest

if TYPE_CHECKING:
    from exporter.deploy.deepstream import DeepStreamReport
    from exporter.deploy.triton import TritonPlan


@checked_kinds
def build(
    bundle: StrPath,
    *,
    precision: str | None = None,
    rtx: bool = False,
    batch: int | tuple[int, int, int] | BatchRange | None = None,
    output: StrPath | None = None,
    timing_cache: StrPath | bool = True,
    min_int8_layers: float | None = None,
    public_key: StrPath | None = None,
    on_event: Listener | None = None,
    **options: Any,
) -> EngineOutcome:
    """Build the TensorRT engine of a bundle, or reuse the one there when nothing changed.

    Args:
        bundle: A bundle folder; its files must be unchanged.
        precision: "fp32", "fp16", "int8" or "int8-fp16"; the lowest that the bundle holds by default.
        rtx: TensorRT-RTX, which builds without a GPU.
        batch: Batch sizes: one, or (min, opt, max); the bundle's by default.
        output: The engine's file; beside the ONNX file by default.
        timing_cache: False for none, or a file; by default one per TensorRT version and GPU in the user's cache.
        min_int8_layers: Share of convolutions and matrix products that must read INT8, 0 to 1.
        public_key: The bundle must be signed by its owner.
        on_event: Called with every step, warning and move of progress; None is silent.
        options: Fields of `exporter.engines.build_options.BuildOptions`, such as `opt_level=5`.

    Raises:
        EngineBuildError: TensorRT did not parse or build the model.
        EngineCheckError: Fewer layers read INT8 than asked for.
        BundleError, MissingDependencyError, ProviderUnavailableError: As their messages say.
        TypeError, ValueError: An option is unknown or of no use.
    """
    folder = Path(bundle)
    manifest = load_manifest(folder, public_key=None if public_key is None else Path(public_key))
    sizes = manifest.batch if batch is None else batch_range(batch)
    request = EngineRequest(
        folder,
        lowest_precision(folder, manifest) if precision is None else precision,
        "rtx" if rtx else "tensorrt",
        checked_kinds(BuildOptions)(batch=sizes, **options),
        None if output is None else Path(output),
        timing_cache if isinstance(timing_cache, bool) else Path(timing_cache),
    )
    outcome = have_engine(request, Reporter(on_event))
    if min_int8_layers is not None:
        check_min_int8(outcome, min_int8_layers)
    return outcome


@checked_kinds
def classify(
    bundle: StrPath,
    input: StrPath | Sequence[StrPath],
    output: StrPath,
    *,
    provider: str = "auto",
    precision: str | None = None,
    backend: str = "pillow",
    draft: bool = False,
    top_k: Count = 5,
    batch: Count = 32,
    workers: Count | None = None,
    ray: str | None = None,
    resume: bool = False,
    force: bool = False,
    on_event: Listener | None = None,
) -> RunReport:
    """Classify many images with a bundle's model; one row for each, in the order of the input.

    Args:
        bundle: A bundle folder.
        input: A folder, searched recursively, an image, or a file with one path a line; or several of these.
        output: Results `.parquet`, `.csv` or `.jsonl`.
        provider: What runs it, as for `load`.
        precision: Which file of the bundle; as fits the provider by default.
        backend: "pillow" or "opencv".
        draft: Decode huge JPEGs at a reduced size, a little differently.
        top_k: Classes in a row.
        batch: Images in a batch.
        workers: Decoding threads; on Ray tasks at a time.
        ray: Run on Ray: a cluster's address, or "local".
        resume: Go on with an interrupted run.
        force: Begin anew and replace the output.
        on_event: Called with every step, warning and move of progress; None is silent.

    Raises:
        RuntimeAdapterError: If the bundle does not open, there are no images, or the output exists.
    """
    options = ClassifyOptions(
        bundle=Path(bundle),
        input=tuple(map(Path, [input] if isinstance(input, (str, os.PathLike)) else input)),
        output=Path(output),
        provider=provider,
        precision=precision,
        backend=backend,
        draft=draft,
        top_k=top_k,
        batch=batch,
        workers=workers,
        ray=ray,
        resume=resume,
        force=force,
    )
    return classify_folder(options, Reporter(on_event))


@checked_kinds
def triton(
    bundle: StrPath,
    output: StrPath,
    *,
    precisions: Sequence[str] | None = None,
    name: str | None = None,
    force: bool = False,
    **serving: Any,
) -> TritonPlan:
    """Write a bundle's models into a Triton model repository.

    Args:
        bundle: A bundle folder.
        output: The repository; made when missing, other models in it are left alone.
        precisions: Which files; all by default.
        name: Name of the models; the bundle's model by default.
        force: Replace models that this wrote before.
        serving: Fields of `exporter.deploy.triton_config.Serving`, such as `max_batch=32`.

    Raises:
        ExportError, BundleError: If the bundle is damaged, or the repository cannot be written.
        TypeError, ValueError: An option is unknown or of no use.
    """
    from exporter.deploy.triton import write_triton_repository
    from exporter.deploy.triton_config import Serving

    chosen = checked_kinds(Serving)(**serving)
    return write_triton_repository(
        Path(bundle), Path(output), precisions=precisions, name=name, serving=chosen, force=force
    )


@checked_kinds
def deepstream(
    bundle: StrPath,
    output: StrPath,
    *,
    precision: str | None = None,
    single_scale: bool = False,
    force: bool = False,
    **settings: Any,
) -> DeepStreamReport:
    """Write a bundle as a folder for DeepStream's nvinfer.

    Args:
        bundle: A bundle folder.
        output: The folder.
        precision: Which file; the lowest by default.
        single_scale: Let nvinfer normalize with one net-scale-factor, a little differently.
        force: Replace a folder that this wrote before.
        settings: Fields of `exporter.deploy.nvinfer_config.NvinferSettings`, such as `batch=4`.

    Raises:
        ExportError, BundleError: If the bundle is damaged, or nvinfer cannot prepare its images.
        TypeError, ValueError: An option is unknown or of no use.
    """
    from exporter.deploy.deepstream import write_deepstream
    from exporter.deploy.nvinfer_config import NvinferSettings
    from runtimes.ort.exact_sessions import open_exact

    return write_deepstream(
        Path(bundle),
        Path(output),
        precision=precision,
        settings=checked_kinds(NvinferSettings)(**settings),
        single_scale=single_scale,
        open_runtime=open_exact,
        force=force,
    )
