"""INT8 beside FP32 over a stream of images: every image with its own label, on however many cores."""

from pathlib import Path

import numpy as np

from calibration import quantize
from resnet_export.export_job.accuracy_budget import tally_images
from resnet_export.images.class_index import ClassIndex
from runtimes.metrics.parity import compare
from runtimes.ort.adapter import OrtRuntime
from runtimes.ort.exact_sessions import open_exact
from runtimes.preprocessing.image_batches import Batch


def test_the_figures_are_those_of_one_batch_after_the_other(small_network, monkeypatch):
    float_model, images = small_network.model, small_network.held_out[:24]
    calibration = [small_network.calibration[:32]]
    int8 = quantize(float_model, calibration, open_runtime=OrtRuntime, open_exact=open_exact).quantized.model
    paths = [Path(f"{place}.png") for place in range(len(images))]
    labels = [place % 10 for place in range(len(images))]
    cuts = [slice(first, first + 5) for first in range(0, len(images), 5)]  # the last has four
    classes = ClassIndex(dict(zip(paths, labels, strict=True)), "by hand")
    with OrtRuntime(float_model) as trusted, OrtRuntime(int8, exact_qdq=True) as tested:
        expected = compare(trusted, tested, [images[cut] for cut in cuts], labels=np.array(labels))
    for num_cores in (1, 3):
        monkeypatch.setattr("runtimes.side_by_side.usable_cpus", lambda num_cores=num_cores: num_cores)
        batches = (Batch(images[cut], tuple(paths[cut])) for cut in cuts)
        assert tally_images(float_model, int8, batches, classes=classes, exact_qdq=True) == expected
