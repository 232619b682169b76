"""The text of an nvinfer configuration: `[property]`, with what it does not reproduce as comments.

Source: https://docs.nvidia.com/metropolis/deepstream/dev-guide/text/DS_plugin_gst-nvinfer.html (keys and values);
NVIDIA DeepStream, src/gst-plugins/gst-nvinfer/gstnvinfer_property_parser.cpp and
src/utils/nvdsinfer/nvdsinfer_model_builder.cpp (what nvinfer does with them).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from exporter.deploy.nvinfer_normalization import NvinferNormalization
from runtimes.argument_kinds import Count
from runtimes.bundle.file_names import LABELS_NAME
from runtimes.bundle.precision import is_int8
from runtimes.preprocessing.resize import resized_size
from runtimes.preprocessing.transform import Interpolation, Preprocessing

HEADER = "# Written by resnet-export deepstream; a folder with a configuration that begins so is replaced by --force."

CONFIG, LABELS, CALIBRATION = "config_infer.txt", LABELS_NAME, "not-read.calib"

# NvDsInferNetworkMode: 0 FP32, 1 INT8, 2 FP16.
_NETWORK_MODE: Mapping[str, int] = {"fp32": 0, "int8": 1, "int8-fp16": 1, "fp16": 2}
_MODE_WORD: Mapping[int, str] = {0: "fp32", 1: "int8", 2: "fp16"}

_CLASSIFIER, _OTHER = 1, 100  # NvDsInferNetworkType

# NvBufSurfTransform_Inter on a GPU: 0 nearest, 1 bilinear, 2 cubic, 3 super sampling, 4 Lanczos.
_SCALING_FILTER: Mapping[Interpolation, int] = {
    Interpolation.NEAREST: 0,
    Interpolation.BILINEAR: 1,
    Interpolation.HAMMING: 1,
    Interpolation.BICUBIC: 2,
    Interpolation.BOX: 3,
    Interpolation.LANCZOS: 4,
}


@dataclass(frozen=True, slots=True)
class NvinferSettings:
    """How nvinfer runs the model.

    Attributes:
        batch: `batch-size`: frames at a time, as many as there are sources.
        threshold: Least probability of a class, 0-1.
        unique_id: `gie-unique-id`.
        operate_on: `gie-unique-id` of the detector whose objects are classified, or None for whole frames.
        strongly_typed: Whether the types in the file decide (`strongly-typed`), which new DeepStream versions know.
        frame: (width, height) of the camera's frames, for the advice on cropping.
    """

    batch: Count = 1
    threshold: float = 0.0
    unique_id: Count = 1
    operate_on: Count | None = None
    strongly_typed: bool = False
    frame: tuple[int, int] = (1920, 1080)

    def __post_init__(self) -> None:
        """Refuse what is no probability."""
        if not 0 <= self.threshold < 1:
            raise ValueError(f"threshold: got {self.threshold}, expected a probability from 0 to below 1")


@dataclass(frozen=True, slots=True)
class NvinferModel:
    """What the configuration says of the model."""

    file: str
    precision: str
    outputs: tuple[str, ...]
    is_classifier: bool
    has_labels: bool
    normalization: NvinferNormalization
    notes: tuple[str, ...]


def config_text(model: NvinferModel, preprocessing: Preprocessing, settings: NvinferSettings) -> str:
    """Return the content of the configuration file."""
    height, width = preprocessing.input_size
    mode = 0 if settings.strongly_typed else _NETWORK_MODE[model.precision]
    keys: dict[str, str | int | float] = {
        "gie-unique-id": settings.unique_id,
        "process-mode": 1 if settings.operate_on is None else 2,
    }
    if settings.operate_on is not None:
        keys["operate-on-gie-id"] = settings.operate_on
    keys |= {
        "onnx-file": model.file,
        "model-engine-file": f"{model.file}_b{settings.batch}_gpu0_{_MODE_WORD[mode]}.engine",
        "network-mode": mode,
    }
    if settings.strongly_typed:
        keys["strongly-typed"] = 1
    elif is_int8(model.precision):
        keys["int8-calib-file"] = CALIBRATION
    keys |= {
        "batch-size": settings.batch,
        "infer-dims": f"3;{height};{width}",
        "network-input-order": 0,
        "model-color-format": 0,
        "net-scale-factor": _number(model.normalization.scale_factor),
        "offsets": ";".join(_number(value) for value in model.normalization.offsets),
        "maintain-aspect-ratio": 0,
        "scaling-filter": _SCALING_FILTER[preprocessing.interpolation],
        "network-type": _CLASSIFIER if model.is_classifier else _OTHER,
        "output-blob-names": ";".join(model.outputs),
    }
    if model.is_classifier:
        keys["classifier-threshold"] = settings.threshold
    else:
        keys["output-tensor-meta"] = 1
    if model.has_labels:
        keys["labelfile-path"] = LABELS
    comments = [*model.notes, *resize_notes(preprocessing, settings.frame), *precision_notes(model, settings)]
    lines = [HEADER, "#", *(f"# {line}".rstrip() for line in comments), "", "[property]"]
    return "\n".join([*lines, *(f"{key}={value}" for key, value in keys.items())]) + "\n"


def _number(value: float) -> str:
    """Return a float32 in the fewest digits that give it back (nvinfer reads a double and casts)."""
    return f"{value:.9g}"


def resize_notes(preprocessing: Preprocessing, frame: tuple[int, int]) -> tuple[str, ...]:
    """Return, in lines, what of resize and crop nvinfer does not do, and what to do about it."""
    height, width = preprocessing.input_size
    how = f"{preprocessing.interpolation.value}, antialiased"
    common = f"nvinfer stretches the whole frame (or object) to {width} x {height}"
    if isinstance(preprocessing.resize, tuple) and preprocessing.crop in (None, preprocessing.resize):
        return (
            f"Resize: {common}, as the model was trained to see it.",
            f"Its filter is not Pillow's ({how}), so that levels differ; how much is not measured.",
        )
    left, top, crop_width, crop_height = crop_of_frame(preprocessing, frame)
    lines = (
        f"Resize and crop are NOT reproduced: {common}. The model was trained on",
        f"{_words(preprocessing)} ({how}).",
    )
    if left < 0 or top < 0:
        return (
            *lines,
            f"Of a frame of {frame[0]} x {frame[1]} the model saw all, with a border around it, which no crop gives;",
            "maintain-aspect-ratio=1 with symmetric-padding=1 is near it.",
        )
    return (
        *lines,
        "To show the model what it saw in training, crop upstream of nvstreammux. For frames of "
        f"{frame[0]} x {frame[1]}:",
        f"    ... ! nvvideoconvert src-crop={left}:{top}:{crop_width}:{crop_height} ! "
        f"video/x-raw(memory:NVMM),width={crop_width},height={crop_height} ! ...",
        "nvinfer's filter is not Pillow's, so that levels still differ; how much is not measured.",
    )


def crop_of_frame(preprocessing: Preprocessing, frame: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return (left, top, width, height) of what the model sees of a (width, height) frame, in pixels, even numbers.

    NV12 has one color for 2 x 2 pixels, so that odd numbers would move colors against brightness.
    """
    resize = preprocessing.resize
    resized = frame if resize is None else resized_size(resize, frame)
    crop_height, crop_width = preprocessing.input_size
    width = _even(frame[0] * crop_width / resized[0])
    height = _even(frame[1] * crop_height / resized[1])
    return _even((frame[0] - width) / 2), _even((frame[1] - height) / 2), width, height


def _even(value: float) -> int:
    return 2 * round(value / 2)


def _words(preprocessing: Preprocessing) -> str:
    resize = preprocessing.resize
    if resize is None:
        first = "pictures without a resize"
    elif isinstance(resize, int):
        first = f"pictures resized to a shorter side of {resize}"
    elif isinstance(resize, tuple):
        first = f"pictures resized to {resize[1]} x {resize[0]}"
    else:
        first = f"pictures resized {'into' if resize.inside else 'to cover'} {resize.width} x {resize.height}"
    height, width = preprocessing.input_size
    return f"{first}, center crop {width} x {height}"


def precision_notes(model: NvinferModel, settings: NvinferSettings) -> Sequence[str]:
    """Return, in lines, what the precision needs of nvinfer."""
    if settings.strongly_typed:
        return (
            "Precision: strongly-typed=1, the types in the file decide, so network-mode stays 0. A DeepStream that",
            "says 'Unknown or legacy key' needs the form without --strongly-typed.",
        )
    if is_int8(model.precision):
        return (
            "Precision: INT8 by the scales in the file (Q/DQ). nvinfer sets TensorRT's INT8 flag only where a",
            f"calibration file is given, so {CALIBRATION} is named; TensorRT does not read it for such a file.",
            "TensorRT 11 has no such flag: export this configuration with --strongly-typed there.",
        )
    return ()
