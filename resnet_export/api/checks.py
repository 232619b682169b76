"""`resnet_export.sensitivity`, `bench` and `doctor`: what files and machines are like."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_export.api.choices import class_numbers
from resnet_export.api.images import Images, image_source
from resnet_export.bench_job.command import BenchOptions, time_models
from resnet_export.bench_job.stages import BenchRow
from resnet_export.commands.sensitivity import SensitivityOptions, rank_bundle
from resnet_export.console.reporter import Listener, Reporter
from resnet_export.images.temporary_folder import TemporaryFolder
from runtimes.argument_kinds import Count, StrPath, checked_kinds

if TYPE_CHECKING:
    from calibration.mixed_precision.sensitivity import Sensitivity


@dataclass(frozen=True, slots=True, eq=False)
class SensitivityReport:
    """Which blocks and layers cost INT8 its accuracy.

    Attributes:
        ranking: Blocks and layers, the costliest first.
        content: Everything, as the command's `--json` prints it.
    """

    ranking: Sensitivity
    content: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class BenchReport:
    """How fast models are here.

    Attributes:
        rows: One per model and batch size.
        content: Everything, as the command's `--json` prints it.
    """

    rows: tuple[BenchRow, ...]
    content: Mapping[str, Any] = field(repr=False)


@checked_kinds
def sensitivity(
    bundle: StrPath,
    calib: Images,
    *,
    num_calib: Count | None = None,
    num_images: Count | None = None,
    val: Images | None = None,
    val_labels: Sequence[int] | None = None,
    num_val: Count | None = None,
    on_event: Listener | None = None,
) -> SensitivityReport:
    """Rank the blocks and layers of a bundle's INT8 file by what they cost.

    Args:
        bundle: A bundle folder with an INT8 file.
        calib: Images, best those that calibrated it, as `export` takes them.
        num_calib: Images that calibrate, at most; as at export by default.
        num_images: Images that rank.
        val: Labelled images: what leaving the worst blocks in float gains there.
        val_labels: Class index of each image of `val`; folders of classes need none.
        num_val: How many of them are used, at most.
        on_event: Called with every step, warning and move of progress; None is silent.

    Raises:
        BundleError, ExportError: If the bundle is damaged, or has no INT8 file.
        CalibrationError, ImageFolderError: If the images are too few, or cannot be read.
        TypeError, ValueError: An argument is of no use; the message says what was expected.
    """
    asked: dict[str, Any] = {} if num_images is None else {"num_images": num_images}
    with TemporaryFolder() as spilled:
        options = SensitivityOptions(
            bundle=Path(bundle),
            calib=image_source(calib, "calib", spilled),
            num_calib=num_calib,
            val=None if val is None else image_source(val, "val", spilled),
            val_labels=class_numbers(val_labels),
            num_val=num_val,
            **asked,
        )
        content, ranking = rank_bundle(options, Reporter(on_event))
    return SensitivityReport(ranking, content)


@checked_kinds
def bench(
    *models: StrPath,
    batch: int | Sequence[int] = (1,),
    provider: str = "auto",
    precision: Sequence[str] = (),
    threads: Count | None = None,
    backend: str = "pillow",
    images: StrPath | None = None,
    rounds: Count | None = None,
    seconds: float = 0.5,
    on_event: Listener | None = None,
) -> BenchReport:
    """Time preparation, run and answer of bundles, ONNX files and engines here; several take turns.

    Args:
        models: Bundles, ONNX files or engines; the others are compared with the first.
        batch: Batch size, or several.
        provider: What runs it, as for `load`.
        precision: Files of each bundle; the one that `load` picks by default.
        threads: Threads of one operator on the CPU.
        backend: "pillow" or "opencv", of the preparation.
        images: Folder of pictures to prepare; four photographs by default.
        rounds: Turns of each.
        seconds: Length of one turn.
        on_event: Called with every step and warning; None is silent.

    Raises:
        RuntimeAdapterError: If a model does not open.
        TypeError, ValueError: If no model is given, or an argument is of no use; the message says what was expected.
    """
    if not models:
        raise ValueError("models: got none, expected at least one bundle, ONNX file or engine")
    sizes = (batch,) if isinstance(batch, int) else tuple(batch)
    if not sizes or not all(isinstance(size, int) and size >= 1 for size in sizes):
        raise ValueError(f"batch: got {batch!r}, expected sizes, whole numbers >= 1")
    if not 0 < seconds < math.inf:
        raise ValueError(f"seconds: got {seconds!r}, expected a number above 0")
    asked: dict[str, Any] = {} if rounds is None else {"rounds": rounds}
    options = BenchOptions(
        models=tuple(Path(model) for model in models),
        batch=sizes,
        provider=provider,
        precision=tuple(precision),
        threads=threads,
        backend=backend,
        images=None if images is None else Path(images),
        seconds=seconds,
        **asked,
    )
    content, rows = time_models(options, Reporter(on_event))
    return BenchReport(tuple(rows), content)


def doctor() -> dict[str, Any]:
    """Return what this machine has, what is in conflict, and what can be done here, as `doctor --json` prints it."""
    from resnet_export.doctor_job.command import report
    from resnet_export.doctor_job.facts import gather_facts

    return report(gather_facts())
