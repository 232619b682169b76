"""Which of the images a model is refined on, and from which layer on.

What a layer reads depends on the image far more than on the place in it, so images are what counts. But the first
layers' tensors are large. So as many images begin as fit into memory there, and others join where the tensors have
become smaller (`refinement.layerwise_walk`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.errors import CalibrationError
from calibration.observers.tensor_bytes import live_bytes_of_nodes, multiply_adds
from exporter.graph.weighted_ops import WEIGHTED_OPS

MAX_LIVE_BYTES = 160 * 2**20
"""Float32 activations alive at a time in the images that a model is walked with: of a ResNet-50 at 224 x 224, 17 images
in the first layers and 32 in the last, everywhere 64 at 96 x 96. The walks keep less than three quarters of it, levels
and half precision. With 200 MB EfficientNet-Lite0, -Lite1 and a thin ResNet-50 are no nearer; with 320 MB a ResNet-50
takes an eighth more time and memory than with 200."""

MIN_SAMPLE = 8
"""Images that take part from the first layer on, whatever their size."""

MAX_SAMPLE = 64
"""Images that take part in the end. What 96 or 128 gain or lose is within what the order of the images does."""

MAX_MACS = 131 * 10**9
"""Multiply-accumulates of all images together, down to `LARGE_SAMPLE` of them: 64 images of a ResNet-18 at 224 x 224,
32 of a ResNet-50."""

LARGE_SAMPLE = 32
"""Images that take part in the end where one takes long. Half of the images takes half of the walks' time. At 224 x 224
three orders of the images of a thin ResNet-50 and two of MobileNetV2 are as near with 32 as with 64, of
EfficientNet-Lite0 up to 0.5 dB farther; a ResNet-18 at 96 x 96, where an image has few positions, up to 1.2 dB. Those
four are quick, and get 64."""

BATCH = 8
"""Images at a time."""

Images = NDArray[np.float32]


def images_per_layer(model: ModelProto) -> dict[str, int]:
    """Return the name of each weighted layer, in graph order, to how many images take part from there on; ascending.

    Args:
        model: The float32 model. Where the size of a tensor is not known, as in windowed attention, the least number.
    """
    places = [place for place, node in enumerate(model.graph.node) if node.op_type in WEIGHTED_OPS]
    names = [model.graph.node[place].name for place in places]
    try:
        live_bytes = live_bytes_of_nodes(model)
    except CalibrationError:
        return dict.fromkeys(names, MIN_SAMPLE)
    behind = list(accumulate(reversed(live_bytes), max))[::-1]
    # Whoever takes part in a layer runs from the layer before it on.
    starts = [0, *places[:-1]]
    counts = (MAX_LIVE_BYTES // behind[start] for start in starts)
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = [model.graph.node[place] for place in places]
    most = _most_images(model, {node.name for node in nodes if node.input[1] in constants})
    return {name: min(most, max(MIN_SAMPLE, count)) for name, count in zip(names, counts, strict=True)}


def _most_images(model: ModelProto, layers: Collection[str]) -> int:
    """Return how many images take part in the end, by what `layers` compute for one."""
    return min(MAX_SAMPLE, max(LARGE_SAMPLE, MAX_MACS // max(1, sum(multiply_adds(model, layers).values()))))


def take_images(batches: Iterable[Images], count: int) -> tuple[list[Images], Iterator[Images]]:
    """Take the first `count` images, `BATCH` at a time, fewer where there are no more; return them and what is left."""
    stream = iter(batches)
    taken: list[Images] = []
    missing = count
    while missing and (batch := next(stream, None)) is not None:
        kept, left = batch[:missing], batch[missing:]
        taken += [kept[first : first + BATCH] for first in range(0, len(kept), BATCH)]
        missing -= len(kept)
        if len(left):
            return taken, _before(left, stream)
    return taken, stream


def _before(batch: Images, stream: Iterator[Images]) -> Iterator[Images]:
    yield batch
    yield from stream
