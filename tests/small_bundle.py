"""A bundle of small networks, written in a moment: the same weights in FP32, FP16 and INT8."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from graph_builder import GraphBuilder
from onnx import ModelProto

from calibration import calibrate, insert_qdq
from exporter.passes.add_pre_post import finish_graph, metadata_of
from exporter.passes.float16 import float16_from_float32
from exporter.passes.pre_post_options import Finish
from runtimes.bundle.file_names import MANIFEST_NAME, MODEL_FILES
from runtimes.bundle.manifest import DEFAULT_BATCH, Manifest, TensorEntry, file_entry
from runtimes.metrics.answer_kind import KEY, AnswerKind
from runtimes.ort.adapter import OrtRuntime
from runtimes.preprocessing.transform import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing

SIZE, CLASSES = 16, 5
PLAIN = Finish()
LABELS = ("ant", "bee", "cat", "dog", "elk")
PREPROCESSING = Preprocessing(20, (SIZE, SIZE), Interpolation.BILINEAR, IMAGENET_MEAN, IMAGENET_STD)


def small_network(num_classes: int = CLASSES) -> ModelProto:
    """Conv, ReLU, pool, fully connected; what it answers depends on the picture."""
    made = GraphBuilder(channels=3, size=SIZE)
    made.gemm("logits", made.node("Relu", "relu", made.conv("conv", "input", 16)), num_classes, transB=1)
    return made.model("logits", opset=20)


def small_models() -> dict[str, ModelProto]:
    """Precision to model."""
    model = small_network()
    images = np.random.default_rng(0).normal(size=(32, 3, SIZE, SIZE)).astype(np.float32)
    table = calibrate(model, np.array_split(images, 4), open_runtime=OrtRuntime)
    return {"fp32": model, "fp16": float16_from_float32(model).model, "int8": insert_qdq(model, table).model}


def write_bundle(
    folder: Path,
    models: Mapping[str, ModelProto],
    *,
    finish: Finish = PLAIN,
    target: str = "tensorrt",
    labels: tuple[str, ...] | None = LABELS,
    answers: AnswerKind | None = None,
    num_classes: int = CLASSES,
) -> Path:
    """Write what `resnet-export` would write of these models, as far as a runtime reads it."""
    folder.mkdir(parents=True, exist_ok=True)
    written = AnswerKind.PROBABILITIES if answers is not None and finish.softmax else answers
    metadata = metadata_of(PREPROCESSING, model_id="small", num_classes=num_classes, labels=labels, answers=written)
    finished = {
        MODEL_FILES[precision]: finish_graph(model, finish, preprocessing=PREPROCESSING, metadata=metadata)
        for precision, model in models.items()
    }
    for name, model in finished.items():
        (folder / name).write_bytes(model.SerializeToString())
    if labels is not None:
        (folder / "labels.txt").write_text("\n".join(labels) + "\n", encoding="utf-8")
    with OrtRuntime(next(iter(finished.values()))) as runtime:
        inputs, outputs = (
            tuple(
                TensorEntry(name, spec.dtype, tuple("batch" if size is None else size for size in spec.shape))
                for name, spec in specs.items()
            )
            for specs in (runtime.input_specs, runtime.output_specs)
        )
    manifest = Manifest(
        model={"id": "small", "num_classes": num_classes} | ({} if answers is None else {KEY: answers.value}),
        preprocessing=PREPROCESSING,
        inputs=inputs,
        outputs=outputs,
        batch=DEFAULT_BATCH,
        target=target,
        opset=20,
        ir_version=9,
        tool={"name": "resnet-export", "version": "0"},
        libraries={},
        options={"softmax": finish.softmax, "topk": finish.topk},
        folding={},
        quantization=None,
        parity={},
        files={path.name: file_entry(path) for path in sorted(folder.iterdir()) if path.name != MANIFEST_NAME},
    )
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest.to_json()), encoding="utf-8")
    return folder
