"""`resnet-export sensitivity BUNDLE --calib DIR`: which blocks and layers cost INT8 its accuracy.

The bundle's INT8 file cannot be taken apart: its weights carry channel factors and its biases corrections, so that a
layer of it made float again is not the float model's layer. So the INT8 step is run again from `model.onnx`, as the
bundle was made, and blocks are left in float there. With the bundle's own calibration images that gives the bundle's
own ranges, which is checked; with others the ranking is of the model that these images give, and a warning says so.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from calibration.methods.dialect import Dialect
from calibration.methods.effort import Effort, steps_of
from calibration.methods.method import method_from_name
from calibration.observers import sample_images
from calibration.ranges.calibration_table import CalibrationTable
from exporter.errors import ExportError, OptionError
from exporter.passes.pre_post_options import Finish
from exporter.target import TARGETS, Target
from resnet_export.console.image_options import add_val_options
from resnet_export.console.option_types import positive
from resnet_export.console.put_json import add_json_option, prints_json, put_json
from resnet_export.console.ranking_table import print_ranking
from resnet_export.console.reporter import Reporter
from resnet_export.console.terminal import Terminal
from resnet_export.export_job.context.choose_images import MAX_BAD_FRACTION
from resnet_export.images.class_index import ClassIndex, class_indices
from resnet_export.images.gather import gathered_source, gathered_val
from resnet_export.images.image_set import ImageSource, called_as_given, said_of_no_images, warn_of_files_passed_over
from resnet_export.images.prepared import warn_of_other_scale
from resnet_export.images.stream import stream
from runtimes.bundle.described_file import load_unchanged
from runtimes.bundle.file_names import CALIBRATION_NAME, MODEL_FILES
from runtimes.bundle.manifest import Manifest, class_names, read_labels
from runtimes.counted import counted
from runtimes.errors import BundleError
from runtimes.io.bounded_read import read_json_file
from runtimes.ort.adapter import OrtRuntime
from runtimes.ort.exact_sessions import open_exact

if TYPE_CHECKING:
    from onnx import ModelProto

    from calibration.mixed_precision.sensitivity import Sensitivity
    from calibration.pipeline.quantize_model import CalibratedModel

NUM_CONFIRMED = 3
"""Blocks that are left in float, one more at a time, on validation images."""


@dataclass(frozen=True, slots=True, eq=False)
class Recipe:
    """How the bundle's INT8 file was made, read from its manifest."""

    manifest: Manifest
    model: ModelProto
    target: Target
    num_calib: int
    held_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SensitivityOptions:
    """Whose blocks are ranked, on which images, as for `resnet_export.sensitivity`."""

    bundle: Path
    calib: ImageSource
    num_calib: int | None = None
    num_images: int = 64
    val: ImageSource | None = None
    val_labels: tuple[int, ...] | None = None
    num_val: int | None = None


def run(arguments: argparse.Namespace) -> int:
    """Rank blocks and layers; return 0, or raise what reading or quantizing raises."""
    printed = prints_json(arguments)
    with ExitStack() as stack:
        calib = stack.enter_context(gathered_source(arguments.calib))
        val = gathered_val(arguments.val, arguments.val_label_file, stack)
        options = SensitivityOptions(
            bundle=arguments.bundle,
            calib=calib,
            num_calib=arguments.num_calib,
            num_images=arguments.num_images,
            val=val,
            num_val=arguments.num_val,
        )
        report, ranking = rank_bundle(options, Terminal(quiet=arguments.quiet))
    if arguments.json is not None:
        put_json(report, arguments.json)
    if not arguments.quiet and not printed:
        print_ranking(report, ranking)
    return 0


def rank_bundle(options: SensitivityOptions, reporter: Reporter) -> tuple[dict[str, Any], Sensitivity]:
    """Return which blocks and layers cost a bundle's INT8 file its accuracy, as JSON holds it and as a value.

    Raises:
        BundleError, ExportError: If the bundle is damaged, or has no INT8 file.
        CalibrationError, ImageFolderError: If the images are too few, or cannot be read.
    """
    if reason := next(said_of_no_images(options.val, options.val_labels, options.num_val), None):
        raise OptionError(reason)
    with called_as_given(reporter, options.calib, options.val):
        warn_of_files_passed_over(reporter, options.calib, options.val)
        return _rank_bundle(options, reporter)


def _rank_bundle(options: SensitivityOptions, reporter: Reporter) -> tuple[dict[str, Any], Sensitivity]:
    recipe = _recipe(options.bundle)
    calib = options.calib.paths()
    sample_images.check_enough(len(calib), options.calib.shown, force=None)
    split = sample_images.split_images(
        options.calib.root,
        calib,
        num_calibration=options.num_calib or recipe.num_calib,
        hold_out=recipe.held_out > 0,
        max_held_out=recipe.held_out,
    )
    allowed_bad = int(MAX_BAD_FRACTION * len(calib))
    measured, classes = _validation(options, recipe, split.calibration, reporter)
    calibrated = _calibrate(recipe, split.calibration, allowed_bad, reporter)
    same = _has_bundles_ranges(options.bundle, calibrated, reporter)
    ranking = _rank(recipe, calibrated, split.calibration[-options.num_images :], allowed_bad, reporter)
    worst = worst_in_float(ranking)
    report = {
        "bundle": str(options.bundle),
        "model": recipe.manifest.model["id"],
        "num_calibration_images": calibrated.table.num_images,
        "num_ranking_images": ranking.whole.num_images,
        "same_ranges_as_bundle": same,
        "sensitivity": ranking.to_json(),
        "keep_float": ",".join((*recipe.manifest.options.get("keep_float", ()), worst)) if worst else "",
        "validation": _confirm(recipe, calibrated, ranking, measured, classes=classes, reporter=reporter)
        if measured
        else None,
        "warnings": list(reporter.warnings),
    }
    return report, ranking


def _recipe(bundle: Path) -> Recipe:
    """Read how the bundle was made; refuse one that is damaged, does not say, or has no INT8 file."""
    manifest = load_unchanged(bundle)
    if manifest.quantization is None or MODEL_FILES["int8"] not in manifest.files:
        raise ExportError(f"{bundle} holds no INT8 file; export with --int8 --calib DIR first")
    options = manifest.options
    try:
        budget = any(options.get(name) is not None for name in ("max_top1_drop", "min_agreement"))
        most = sample_images.MAX_HELD_OUT_FOR_BUDGET if budget else sample_images.MAX_HELD_OUT
        held_out = most if options["val"] is None else 0
        _steps(options)
        method_from_name(options["method"]["name"])
        target = TARGETS.named(manifest.target)
        num_calib = int(options["num_calib"])
    except (KeyError, TypeError, ValueError, OverflowError) as err:
        raise BundleError(f"{bundle}: the manifest does not say how INT8 was made ({err!r}); export anew") from err
    return Recipe(manifest, _float_model(bundle, manifest), target, num_calib, held_out)


def _float_model(bundle: Path, manifest: Manifest) -> ModelProto:
    """Return the network as it was calibrated: float images in, its own answers out."""
    import onnx

    from exporter.graph.read_model import read_model
    from exporter.passes.add_pre_post import without_finish

    path = bundle / MODEL_FILES["fp32"]
    try:
        model = read_model(path, external_data=False)  # a bundle's files are whole: the manifest knows no others
        onnx.checker.check_model(model)
        return without_finish(model, _finish(manifest))
    except Exception as err:  # protobuf and the checker raise unrelated types
        raise BundleError(f"{path} cannot be read: {err}; export the bundle anew") from err


def _finish(manifest: Manifest) -> Finish:
    options = manifest.options
    return Finish(manifest.inputs[0].dtype == "uint8", bool(options.get("softmax")), options.get("topk"))


def _validation(
    options: SensitivityOptions, recipe: Recipe, calibration: Sequence[Path], reporter: Reporter
) -> tuple[tuple[Path, ...], ClassIndex | None]:
    """Return the validation images, none of which calibrates, and their classes."""
    if options.val is None:
        return (), None
    apart = sample_images.leave_out_copies(calibration, options.val.paths())
    paths = tuple(sample_images.proportionally_ordered(options.val.root, apart.validation))[: options.num_val]
    if (labels := read_labels(options.bundle, recipe.manifest)) is None:
        raise OptionError(f"{options.bundle} gives features: no classes that --val could judge; leave --val out")
    warn_of_other_scale(options.val, recipe.manifest.preprocessing, reporter)
    names = class_names(options.bundle, recipe.manifest)
    return paths, class_indices(options.val, paths, names, len(labels), options.val_labels)


def _calibrate(recipe: Recipe, paths: Sequence[Path], allowed_bad: int, reporter: Reporter) -> CalibratedModel:
    """Run the INT8 step again, up to the ranges."""
    from calibration.mixed_precision.keep_float import nodes_named
    from calibration.pipeline.quantize_model import scale_and_calibrate, settle_ranges

    options: Mapping[str, Any] = recipe.manifest.options
    calibrated = scale_and_calibrate(
        recipe.model,
        (batch.images for batch in stream("calibrating", paths, recipe.manifest.preprocessing, allowed_bad, reporter)),
        open_runtime=OrtRuntime,
        method=method_from_name(options["method"]["name"]),
        dialect=Dialect(recipe.target.dialect),
        effort=_steps(options),
    )
    kept = nodes_named(recipe.model, options.get("keep_float", ()))
    calibrated = replace(calibrated, keep_float=frozenset(node for nodes in kept.values() for node in nodes))
    return settle_ranges(calibrated, open_exact=open_exact)


def _steps(options: Mapping[str, Any]) -> Effort:
    return steps_of(options["effort"], options.get("zero_points"), dla=bool(options.get("dla")))


def _has_bundles_ranges(bundle: Path, calibrated: CalibratedModel, reporter: Reporter) -> bool:
    """Tell whether these images gave the ranges that the bundle's INT8 file has."""
    path = bundle / CALIBRATION_NAME
    try:
        kept = CalibrationTable.from_json(read_json_file(path))
    except (OSError, ValueError) as err:
        raise BundleError(f"{path} cannot be read ({err}); export the bundle anew") from err
    same = dict(kept.ranges) == dict(calibrated.table.ranges)
    if same:
        reporter.done(f"{counted(calibrated.table.num_images, 'image')} gave the ranges of the bundle's INT8 file")
    else:
        reporter.warn(
            f"{counted(calibrated.table.num_images, 'image')} of --calib gave other ranges than the bundle's "
            f"{kept.num_images}; the ranking is of the INT8 model that these images give"
        )
    return same


def _rank(
    recipe: Recipe, calibrated: CalibratedModel, paths: Sequence[Path], allowed_bad: int, reporter: Reporter
) -> Sensitivity:
    """Rank on the last calibration images: not on the first, whose means refinement has corrected."""
    from resnet_export.export_job.accuracy_budget import rank_images

    batches = stream("reading images", paths, recipe.manifest.preprocessing, allowed_bad, reporter)
    ranking = rank_images(calibrated, batches, reporter)
    reporter.done(
        f"{counted(len(ranking.blocks), 'block')} and {counted(len(ranking.layers), 'layer')} ranked on "
        f"{counted(ranking.whole.num_images, 'calibration image')}; these figures compare blocks, they are no accuracy"
    )
    return ranking


def _confirm(
    recipe: Recipe,
    calibrated: CalibratedModel,
    ranking: Sensitivity,
    paths: tuple[Path, ...],
    *,
    classes: ClassIndex | None,
    reporter: Reporter,
) -> list[dict[str, Any]]:
    """Leave the worst blocks in float, one more at a time, and measure on validation images."""
    from calibration.mixed_precision.accuracy_budget import budget_figures
    from calibration.mixed_precision.sensitivity import float_share
    from calibration.pipeline.quantize_model import insert_and_refine
    from resnet_export.export_job.accuracy_budget import tally_images

    rows = []
    for count in range(min(NUM_CONFIRMED, len(ranking.blocks) - 1) + 1):
        units = [cost.unit for cost in ranking.blocks[:count]]
        nodes = frozenset(node for unit in units for node in unit.nodes)
        result = insert_and_refine(calibrated, open_exact=open_exact, keep_float=nodes, round_weights=False)
        allowed_bad = int(MAX_BAD_FRACTION * len(paths))
        measured = tally_images(
            recipe.model,
            result.quantized.model,
            stream("validating", paths, recipe.manifest.preprocessing, allowed_bad, reporter),
            classes=classes,
            exact_qdq=recipe.target.exact_int8_simulation,
        )
        kept = {"kept_in_float": [unit.name for unit in units], "share_of_macs": float_share(calibrated, nodes)}
        rows.append({**kept, **budget_figures(measured)})
    return rows


def worst_in_float(ranking: Sensitivity) -> str:
    """Return what to give `--keep-float`: the worst blocks that add noise, `NUM_CONFIRMED` at most; else nothing."""
    worst = [cost.unit for cost in ranking.blocks[:NUM_CONFIRMED] if cost.noise > 0]
    return ",".join(unit.name for unit in worst[: max(0, len(ranking.blocks) - 1)])


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes to its parser."""
    parser.description = "Rank the blocks and layers of a bundle by what they cost INT8."
    parser.epilog = (
        "To leave the worst in float until INT8 is accurate enough: resnet-export MODEL --int8 ... --max-top1-drop"
        " PP or --min-agreement SHARE."
    )
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that resnet-export wrote, with INT8")
    parser.add_argument(
        "--calib",
        action="append",
        required=True,
        metavar="DIR|...",
        help="calibration images, best the bundle's own; a folder, or whatever --calib of the export takes",
    )
    parser.add_argument(
        "--num-calib", type=positive, metavar="N", help="images that calibrate (default: as for the bundle)"
    )
    parser.add_argument(
        "--num-images", type=positive, default=64, metavar="N", help="of these, images that rank (default 64)"
    )
    add_val_options(
        parser.add_argument_group("validation"),
        "labelled images: what leaving the three worst blocks in float wins; a folder, or as --calib",
    )
    add_json_option(parser, "the ranking")
