"""An existing `.onnx` file as a model source. Its module runs the file itself: the reference of its own export."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor, nn

from exporter.errors import OnnxFileError
from exporter.models.loaded_model import DEFAULT_WEIGHTS, LoadedModel, ModelRequest
from exporter.models.onnx_file import OnnxSource, read_onnx
from runtimes.ort.adapter import OrtRuntime
from runtimes.preprocessing.transform import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing
from runtimes.protocol import Array

RESIZE_SHARE = 256 / 224
"""Shorter side after resizing over the crop. Source: torchvision.transforms.ImageClassification, defaults."""

REFERENCE_NAME = "the original file"


@dataclass(frozen=True, slots=True, eq=False)
class LoadedOnnx(LoadedModel):
    """A file as MODEL.

    Attributes:
        file: What was read, None never.
    """

    file: OnnxSource | None = None


def load(request: ModelRequest) -> LoadedModel:
    """Read the file; see `models.load_model.load_model`. Preprocessing is ImageNet's unless options say otherwise.

    Raises:
        OnnxFileError: If the file is not fit (see `read_onnx`), no image size is known, or an option does not apply.
        RuntimeAdapterError: If ONNX Runtime does not load the file.
    """
    source = read_onnx(Path(request.reference.name))
    if request.weights != DEFAULT_WEIGHTS:
        raise OnnxFileError(f"{source.path} holds its weights; leave --weights {request.weights} out")
    if request.num_classes not in (None, source.num_classes):
        raise OnnxFileError(
            f"{source.path} has {source.num_classes} classes; --num-classes cannot make {request.num_classes}"
        )
    side = request.preprocessing.input_size
    size = source.input_size or (None if side is None else (side, side))
    if size is None:
        raise OnnxFileError(f"{source.path}: the image size is open in the file; give --input-size N")
    if side is not None and size != (side, side):
        raise OnnxFileError(f"{source.path} takes images of {size[0]}x{size[1]} only; leave --input-size {side} out")
    resize = round(min(size) * RESIZE_SHARE)
    return LoadedOnnx(
        module=OnnxReference(source.model, batch=source.batch),
        model_id=request.reference.model_id,
        source="onnx",
        weights=f"{source.path.name} (opset {source.opset})",
        weights_sha256=source.sha256,
        preprocessing=Preprocessing(resize, size, Interpolation.BILINEAR, IMAGENET_MEAN, IMAGENET_STD),
        preprocessing_source="ImageNet's, assumed: the file does not say",
        num_classes=source.num_classes,
        labels=None,
        reference_name=REFERENCE_NAME,
        outputs=(source.output_name,),
        file=source,
    )


class OnnxReference(nn.Module):
    """Runs an ONNX classifier in ONNX Runtime, on the CPU, as the file was written.

    Args:
        model: One float32 input [N, 3, H, W], one output.
        batch: The batch size that the file is fixed to, or None. Images then go through so many at a time, the last
            ones repeated to fill up.

    Raises:
        RuntimeAdapterError: If ONNX Runtime does not load the file.
    """

    def __init__(self, model: ModelProto, *, batch: int | None) -> None:
        super().__init__()
        self._runtime = OrtRuntime(model)
        self._batch = batch
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the file's first output, float32 [N, classes]."""
        array = images.cpu().numpy()
        step = len(array) if self._batch is None else self._batch
        parts = [self._run(array[first : first + step], step) for first in range(0, len(array), step)]
        return torch.from_numpy(np.concatenate(parts))

    def _run(self, images: Array, size: int) -> Array:
        (name,) = self._runtime.input_specs
        (output,) = self._runtime.output_specs
        filled = np.resize(images, (size, *images.shape[1:]))
        return self._runtime.run({name: np.ascontiguousarray(filled)})[output][: len(images)]
