"""The layout of Hugging Face's hub and onnx-community: what transformers, transformers.js and optimum read.

The model's input is renamed to `pixel_values`, which these libraries feed. `BitImageProcessor` resizes and crops as
torchvision does with pictures of Pillow's, if it is asked for its Pillow backend; that, and what it does otherwise in
the default one, stands in the package's README.md, because its configuration has no place for it.

Source: transformers 4.57 and 5.24, models/bit and image_transforms.py (`center_crop`), measured over resizes, crops and
interpolations; optimum-onnx 0.1, onnxruntime/modeling.py; transformers.js 3, utils/dtypes.js (file suffixes).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from exporter.bundle.write_folder import write_json
from exporter.errors import ExportError
from exporter.graph.onnx_graph import read_instead
from runtimes.bundle.file_names import MODEL_FILES
from runtimes.bundle.manifest import Manifest, read_labels
from runtimes.inference.classification import ONE_NUMBER_TOLD
from runtimes.preprocessing.transform import Interpolation

if TYPE_CHECKING:
    from onnx import ModelProto

    from runtimes.preprocessing.transform import Preprocessing

INPUT = "pixel_values"
FILES = {"fp32": "model.onnx", "fp16": "model_fp16.onnx", "int8": "model_int8.onnx"}
"""Precision to the name by which transformers.js asks for it; INT8 with FP16 has none there."""

CARD = """---
pipeline_tag: image-classification
library_name: onnx
tags:
- onnx
- onnxruntime
---

# {name}

{files}

```python
import onnxruntime
from PIL import Image
from transformers import AutoConfig, AutoImageProcessor

folder = "."
config = AutoConfig.from_pretrained(folder)
processor = AutoImageProcessor.from_pretrained(folder, backend="pil")  # transformers 4: use_fast=False
session = onnxruntime.InferenceSession(f"{{folder}}/onnx/{first}", providers=["CPUExecutionProvider"])

pixels = processor(Image.open("picture.jpg"), return_tensors="np")
(logits,) = session.run(["{output}"], dict(pixels))
print(config.id2label[int(logits[0].argmax())])
```

Pixels: {pixels}

Our own manifest, labels and golden answers are in `resnet_export/`.
"""
"""README.md, which a hub shows as the model's card."""

_NOT_IN_TORCHVISION = frozenset({Interpolation.BOX, Interpolation.HAMMING})


def write_huggingface(bundles: Sequence[tuple[Path, Manifest]], folder: Path) -> dict[str, str]:
    """Write `config.json`, `preprocessor_config.json` and `onnx/`.

    Raises:
        ExportError: If the model takes no float32 RGB pictures or gives no logits.
    """
    import onnx

    ((bundle, manifest),) = bundles
    _check_fits(bundle, manifest)
    written = {"config.json": "classes", "preprocessor_config.json": "how pictures are prepared"}
    write_json(folder / "config.json", model_config(bundle, manifest))
    write_json(folder / "preprocessor_config.json", processor_config(manifest.preprocessing))
    (folder / "onnx").mkdir()
    for precision, name in FILES.items():
        if MODEL_FILES[precision] in manifest.files:
            model = with_input_called(onnx.load(bundle / MODEL_FILES[precision]), INPUT)
            onnx.save_model(model, folder / "onnx" / name)
            written[f"onnx/{name}"] = precision
    (folder / "README.md").write_text(model_card(manifest), encoding="utf-8")
    return {**written, "README.md": "the model's card: how it is run, and what to know about pixels"}


def model_card(manifest: Manifest) -> str:
    """Return what `README.md` holds."""
    names = [name for precision, name in FILES.items() if MODEL_FILES[precision] in manifest.files]
    return CARD.format(
        name=manifest.model.get("id", "model"),
        files="\n".join(f"- `onnx/{name}`" for name in names),
        first=names[0],
        output=manifest.outputs[0].name,
        pixels=" ".join(pixel_notes(manifest.preprocessing)),
    )


def pixel_notes(told: Preprocessing) -> list[str]:
    """Return how transformers' pixels can differ from the training's, in sentences."""
    notes = ["The Pillow backend gives the training's pixels."]
    if told.resize is not None and told.interpolation in _NOT_IN_TORCHVISION:
        notes.append(f"torchvision's, the default of transformers 5, does not resize by {told.interpolation.value}.")
    elif told.resize is not None:
        notes.append("torchvision's, the default of transformers 5, is a gray level off, and more where it enlarges.")
    if told.crop is not None:
        notes.append("Where 3, 7, 11, ... pixels are cut off a side, either crop begins a pixel before the training's.")
    return notes


def model_config(bundle: Path, manifest: Manifest) -> dict[str, Any]:
    """Return what `config.json` holds."""
    num_classes = int(manifest.outputs[0].shape[1])
    labels = read_labels(bundle, manifest) or [f"LABEL_{index}" for index in range(num_classes)]
    return {
        "architectures": ["ResNetForImageClassification"],
        "model_type": "resnet",
        "num_labels": num_classes,
        "id2label": {str(index): label for index, label in enumerate(labels)},
        "label2id": {label: index for index, label in enumerate(labels)},
        "resnet_export_model": str(manifest.model.get("id", "")),
    }


def processor_config(told: Preprocessing) -> dict[str, Any]:
    """Return what `preprocessor_config.json` holds."""
    size = {"shortest_edge": told.resize}
    if isinstance(told.resize, tuple):
        size = dict(zip(("height", "width"), told.resize, strict=True))
    height, width = told.input_size
    return {
        "image_processor_type": "BitImageProcessor",
        "do_convert_rgb": True,
        "do_resize": told.resize is not None,
        **({} if told.resize is None else {"size": size}),
        "resample": Image.Resampling[told.interpolation.name].value,
        "do_center_crop": told.crop is not None,
        "crop_size": {"height": height, "width": width},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(told.mean),
        "image_std": list(told.std),
    }


def with_input_called(model: ModelProto, name: str) -> ModelProto:
    """Return the model with its one input called `name`; the given one is changed."""
    graph = model.graph
    old = graph.input[0].name
    if any(name in (*node.input, *node.output) for node in graph.node):
        raise ExportError(f"a tensor of the model is called {name} already; the input {old} cannot be")
    graph.input[0].name = name
    read_instead(graph, old, name)
    return model


def _check_fits(bundle: Path, manifest: Manifest) -> None:
    told = manifest.preprocessing
    if manifest.inputs[0].dtype != "float32" or len(told.mean) != 3:
        raise ExportError(
            f"{bundle}: takes {manifest.inputs[0].dtype} of {len(told.mean)} channels; transformers feeds float32 of 3"
        )
    if told.resize is not None and not isinstance(told.resize, (int, tuple)):
        raise ExportError(f"{bundle}: its pictures are resized by {told.resize}, which BitImageProcessor does not know")
    shape = manifest.outputs[0].shape
    if len(manifest.outputs) != 1 or len(shape) != 2 or manifest.options.get("softmax"):
        raise ExportError(
            f"{bundle}: gives {', '.join(entry.name for entry in manifest.outputs)}; transformers reads logits "
            "[N, classes]; export without --softmax, --topk and --features"
        )
    if manifest.gives_one_number:
        raise ExportError(f"{bundle}: {ONE_NUMBER_TOLD}; transformers would take it for the logit of one class")
    if manifest.answers is not None and not manifest.answers.needs_softmax:
        raise ExportError(
            f"{bundle}: gives {manifest.answers.value}, as its network ends; transformers reads logits [N, classes] "
            "and applies Softmax itself; export a network that ends in its last layer"
        )
