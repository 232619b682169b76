"""An existing `.onnx` file as a model source. Its module runs the file itself: the reference of its own export."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto
from torch import Tensor, nn

from exporter.errors import OnnxFileError, PreprocessingError
from exporter.graph.onnx_file import OnnxSource, read_onnx
from exporter.models.loaded_model import DEFAULT_WEIGHTS, LoadedModel, ModelRequest, told_features
from exporter.preprocessing.options import unknown_channels, wrong_channels
from runtimes.errors import RuntimeAdapterError
from runtimes.inference.fixed_batch import AnyBatch
from runtimes.ort.adapter import OrtRuntime
from runtimes.preprocessing.resize import KeepRatio, Resize
from runtimes.preprocessing.transform import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing
from runtimes.protocol import Runtime, outputs_of

RESIZE_SHARE = 256 / 224
"""Shorter side after resizing over the crop. Source: torchvision.transforms.ImageClassification, defaults."""

REFERENCE_NAME = "the original file"


@dataclass(frozen=True, slots=True, eq=False)
class LoadedOnnx(LoadedModel):
    """A file as MODEL."""

    file: OnnxSource | None = None


def load(request: ModelRequest) -> LoadedModel:
    """Read the file; see `models.load_model.load_model`. Preprocessing is ImageNet's unless options say otherwise.

    Raises:
        OnnxFileError: If the file is not fit (see `read_onnx`), ONNX Runtime does not load it, no size of images is
            known, or an option does not apply.
    """
    source = read_onnx(Path(request.reference.name), request.outputs)
    if request.weights != DEFAULT_WEIGHTS:
        raise OnnxFileError(f"{source.path} holds its weights; leave --weights {request.weights} out")
    if request.num_classes not in (None, source.num_classes):
        raise OnnxFileError(
            f"{source.path} has {source.num_classes} classes; --num-classes cannot make {request.num_classes}"
        )
    preprocessing, told = _preprocessing(source, request)
    told_as_features = source.is_features and request.num_classes != source.num_classes
    told_layout = "its input is read as [N, H, W, C]: the bundle takes NCHW, and a Transpose that made it so falls away"
    layout = (told_layout,) if source.is_nhwc else ()
    return LoadedOnnx(
        module=_reference(source),
        model_id=request.reference.model_id,
        source="onnx",
        weights=f"{source.path.name} (opset {source.opset})",
        weights_sha256=source.sha256,
        preprocessing=preprocessing,
        preprocessing_source=told,
        num_classes=source.num_classes,
        labels=_own_labels(source),
        notes=layout,
        reference_name=REFERENCE_NAME,
        outputs=source.output_names,
        gives_logits=source.gives_logits or (source.is_features and not told_as_features),
        warnings=(told_features(source.num_classes, "as its graph ends"),) if told_as_features else (),
        file=source,
    )


def _reference(source: OnnxSource) -> OnnxReference:
    try:
        return OnnxReference(source.model, batch=source.batch, is_nhwc=source.is_nhwc)
    except RuntimeAdapterError as err:
        raise OnnxFileError(f"{source.path}: {err}; it is the reference of its own export: export it anew") from err


def _preprocessing(source: OnnxSource, request: ModelRequest) -> tuple[Preprocessing, str]:
    """Return how images are prepared: ImageNet's way at the file's size, as far as options do not say it."""
    options = request.preprocessing
    asked = (options.input_size, options.input_size) if isinstance(options.input_size, int) else options.input_size
    if asked is None and source.input_size is None and isinstance(options.resize, tuple):
        asked = options.resize
    size = source.input_size or asked
    if size is None:
        raise OnnxFileError(f"{source.path}: the image size is open in the file; give --input-size N or HxW")
    if asked is not None and size != asked:
        given = "x".join(map(str, asked)) if asked[0] != asked[1] else str(asked[0])
        raise OnnxFileError(f"{source.path} takes images of {size[0]}x{size[1]} only; leave --input-size {given} out")
    if isinstance(options.resize, tuple) and asked is None and options.resize != size:
        taken, given = ("x".join(map(str, one)) for one in (size, options.resize))
        raise OnnxFileError(
            f"{source.path} takes images of {taken} only, and --resize {given} alone gives others; say --resize "
            f"{taken}, or add --input-size {taken}, to which the resized picture is cropped"
        )
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    if options.channels is not None and options.channels != source.channels:
        raise PreprocessingError(wrong_channels(str(source.path), source.channels, options.channels))
    if source.channels != len(mean):
        if options.mean is None or options.std is None:
            raise PreprocessingError(unknown_channels(str(source.path), source.channels))
        mean, std = options.mean, options.std
    resize = round(min(size) * RESIZE_SHARE)
    if (own := _own_preprocessing(source)) is not None and own.input_shape == (source.channels, *size):
        return own, "the file's own metadata"
    cover: Resize = resize
    if size[0] != size[1]:
        cover = KeepRatio(round(size[0] * RESIZE_SHARE), round(size[1] * RESIZE_SHARE), inside=False)
    return Preprocessing(cover, size, Interpolation.BILINEAR, mean, std), "ImageNet's, assumed: the file does not say"


def _own_preprocessing(source: OnnxSource) -> Preprocessing | None:
    """Return what a file of this project says about its pictures, None where it says nothing that can be followed."""
    try:
        return Preprocessing.from_json(json.loads(source.metadata["preprocessing"]))
    except (KeyError, ValueError, TypeError, RecursionError):
        return None


def _own_labels(source: OnnxSource) -> tuple[str, ...] | None:
    try:
        labels = json.loads(source.metadata["labels"])
    except (KeyError, ValueError, RecursionError):
        return None
    fits = isinstance(labels, list) and len(labels) == source.num_classes and source.gives_logits
    return tuple(map(str, labels)) if fits else None


class OnnxReference(nn.Module):
    """Runs an ONNX classifier in ONNX Runtime, on the CPU, as the file was written.

    Args:
        model: One float32 input, an image, and its outputs.
        batch: The batch size that the file is fixed to, or None. Images then go through so many at a time, the last
            one repeated to fill up.
        is_nhwc: Whether the file takes [N, H, W, C].

    Raises:
        RuntimeAdapterError: If ONNX Runtime does not load the file.
    """

    def __init__(self, model: ModelProto, *, batch: int | None, is_nhwc: bool = False) -> None:
        super().__init__()
        runtime = OrtRuntime(model)
        self._runtime: Runtime = runtime if batch is None else AnyBatch(runtime, batch)
        self._is_nhwc = is_nhwc
        self.eval()

    def forward(self, images: Tensor) -> Any:
        """Return the file's output for images [N, C, H, W], a tuple where there are several."""
        array = images.permute(0, 2, 3, 1) if self._is_nhwc else images
        outputs = outputs_of(self._runtime, array.cpu().contiguous().numpy())
        tensors = tuple(map(torch.from_numpy, outputs.values()))
        return tensors if len(tensors) > 1 else tensors[0]
