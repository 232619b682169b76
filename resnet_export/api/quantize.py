"""`resnet_export.quantize`: a float ONNX model and images to an INT8 model, in memory."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union

import numpy as np
from numpy.typing import NDArray

from calibration.errors import PlacementError
from calibration.methods.dialect import Dialect
from calibration.methods.effort import DEFAULT_EFFORT, steps_of
from calibration.methods.method import Method
from exporter.target import Target
from resnet_export.api.choices import method_of, target_of
from resnet_export.api.images import Images, image_source
from resnet_export.api.preprocessing import PreprocessingLike, preprocessing_options
from resnet_export.console.reporter import Listener, Reporter
from resnet_export.images.image_set import called_as_given, warn_of_files_passed_over
from resnet_export.images.spill import check_number, picture_array
from resnet_export.images.stream import stream
from resnet_export.images.temporary_folder import TemporaryFolder
from runtimes.argument_kinds import StrPath, checked_kinds
from runtimes.preprocessing.transform import Preprocessing as Resolved

if TYPE_CHECKING:
    from onnx import ModelProto

    from calibration.pipeline.quantize_model import QuantizationResult
    from exporter.tracing.export import ExportedModel

FloatModel = Union["ModelProto", "ExportedModel", StrPath]


@checked_kinds
def quantize(
    model: FloatModel,
    images: Images,
    *,
    preprocessing: PreprocessingLike = None,
    method: str | Method = "mse",
    effort: int = DEFAULT_EFFORT,
    zero_points: Literal["none", "biases", "pads"] | None = None,
    target: str | Target = "tensorrt",
    keep_float: Sequence[str] = (),
    on_event: Listener | None = None,
) -> QuantizationResult:
    """Quantize a float ONNX model to INT8 with Q/DQ, on ONNX Runtime's CPU provider.

    Args:
        model: What `exporter.export_resnet` returns, an `onnx.ModelProto`, or the path of an `.onnx` file: float32,
            BatchNorm folded, one input. Unchanged.
        images: Prepared inputs float32 [N, C, H, W], one array or an iterable of batches; or, with `preprocessing`, a
            folder, a list of files, or pictures uint8 [H, W, 3]. All are used: limit an iterable without end by
            `itertools.islice`; more than 100,000 of one that does not say how many it has are refused.
        preprocessing: How pictures are prepared; an exported model brings its own.
        method: "mse", "max", "percentile", "entropy" or "auto", or one of `calibration`'s `Method` values.
        effort: 0 ranges only, 1 default, 2 most accurate, minutes.
        zero_points: What takes those of activations in a file for TensorRT: "none" (effort 0), "biases" where no layer
            pads (effort 1), "pads": biases everywhere, and a layer that pads reads a Pad, which costs time when the
            network runs (effort 2). None leaves it to `effort`.
        target: Decides the dialect of INT8: "tensorrt", "jetpack6", ... or "onnxruntime".
        keep_float: What stays in float: names of nodes or of PyTorch's modules, such as "layer4.1.conv2", "layer4.1".
        on_event: Called with every move of progress; None is silent.

    Returns:
        `result.quantized.model` is the INT8 `ModelProto`, `result.table` its ranges.

    Raises:
        CalibrationError: If there is no image, or nothing in the model can be quantized.
        ExportError: If a model is no float32 ONNX, or nothing tells how pictures are prepared.
        TypeError, ValueError: An argument is of no use; the message says what was expected.
    """
    from calibration.mixed_precision.keep_float import nodes_named
    from calibration.pipeline.quantize_model import quantize as quantize_model
    from calibration.placement.place import place
    from runtimes.ort.adapter import OrtRuntime
    from runtimes.ort.exact_sessions import open_exact

    float_model, known = _float_model(model)
    reporter = Reporter(on_event)
    where = target_of(target)
    if zero_points is not None and where.dialect != "tensorrt":
        raise ValueError(f"zero_points is for TensorRT's files; target {where.name!r} has zero points of its own")
    kept = {node for nodes in nodes_named(float_model, keep_float).values() for node in nodes}
    if kept and not place(float_model, Dialect(where.dialect), kept).weights:
        raise PlacementError(f"keep_float {','.join(keep_float)}: no layer is left for INT8; name fewer")
    with TemporaryFolder() as spilled:
        return quantize_model(
            float_model,
            _batches(images, preprocessing, known, spilled, reporter),
            open_runtime=OrtRuntime,
            open_exact=open_exact,
            method=method_of(method),
            dialect=Dialect(where.dialect),
            effort=steps_of(effort, zero_points),
            keep_float=kept,
            track_layers=partial(reporter.track, "refining"),
        )


def _float_model(model: FloatModel) -> tuple[ModelProto, PreprocessingLike]:
    """Return the graph, and how its images are prepared where it says."""
    from exporter.graph.onnx_file import check_nodes, read_onnx
    from exporter.graph.onnx_graph import copy_model, name_nodes

    onnx_model: Any = getattr(model, "onnx", model)
    known: PreprocessingLike = getattr(model, "preprocessing", None)
    if isinstance(onnx_model, (str, os.PathLike)):
        return read_onnx(Path(onnx_model)).model, known
    if not hasattr(onnx_model, "graph"):
        raise TypeError(
            f"model: got {type(model).__name__}, expected an onnx.ModelProto, what export_resnet returns, or the path "
            "of an .onnx file"
        )
    named = copy_model(onnx_model)
    name_nodes(named)  # as `read_onnx` does; a model in memory need not have names
    check_nodes(named, "model")
    return named, known


def _prepared(arrays: Iterable[Any], given: Images) -> Iterator[NDArray[np.float32]]:
    """Yield [n, C, H, W] of arrays that are prepared, with or without an axis of images."""
    count = 0
    for place, one in enumerate(arrays):
        array = picture_array(one, f"images[{place}]")
        batch = array if array.ndim == 4 else array[np.newaxis]
        count += len(batch)
        check_number(count, given, "images")
        yield batch


def _batches(
    images: Images, given: PreprocessingLike, known: PreprocessingLike, folder: TemporaryFolder, reporter: Reporter
) -> Iterator[NDArray[np.float32]]:
    """Yield prepared inputs, float32 [n, C, H, W]."""
    if not isinstance(images, (str, os.PathLike)):
        if not hasattr(images, "__iter__"):
            raise TypeError(f"images: got {type(images).__name__}, expected a folder, a list of files, or arrays")
        several = iter([images] if getattr(images, "ndim", 0) == 4 else images)
        first = next(several, None)
        again = chain([] if first is None else [first], several)
        is_file = first is None or isinstance(first, (str, os.PathLike))
        if not is_file and picture_array(first, "images[0]").dtype == np.float32:
            yield from _prepared(again, images)
            return
        if not isinstance(images, Sequence) and not hasattr(images, "__dlpack__"):
            images = again
        if is_file:
            images = list(images)
    resolved = known if given is None else None
    if not isinstance(resolved, Resolved):
        resolved = preprocessing_options(given).complete("nothing tells how pictures are prepared for this model")
    source = image_source(images, "images", folder)
    with called_as_given(reporter, source):
        warn_of_files_passed_over(reporter, source)
        for batch in stream("calibrating", source.paths(), resolved, 0, reporter):
            yield batch.images
