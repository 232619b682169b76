"""Find weights and activations that are hard to hold in 8 or 16 bits, before anything is deployed.

From the folded weights alone, before an image is read:

    weight outlier       largest |w| of a channel over its root mean square: one weight sets the channel's step
    channel outlier      largest |w| of a channel over the median channel's: no loss in the weights, which have a step
                         per channel, but the channel's output is as large, and activations have one step per tensor
    dead channel         all weights 0
    FP16 range           weights above 65504, channels below 2**-14, the least normal float16

After calibration, of every quantized activation:

    activation outlier   largest |x| over its typical large value (99th percentile of what is not 0)
    narrow channels      steps that the lower quartile of the channels gets of the tensor's 127
    dead channel         never above 0 on any image
    FP16 range           largest |x| above 65504, or within a factor of 2 of it

Weights after folding are what counts: BatchNorm hides outliers until it is folded. timm's resnet50 `a1_in1k` falls from
80 % to 4 % top-1 this way in plain INT8 (huggingface/pytorch-image-models and NVIDIA trackers report it).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from calibration.methods.quantize_weight import MIN_SCALE, QMAX
from calibration.observers.activation_summary import ActivationSummary
from calibration.placement.for_tensorrt import place_qdq
from calibration.ranges.calibration_table import CalibrationTable
from exporter.graph.onnx_graph import array_from_initializer, index_graph
from exporter.passes.float16 import FLOAT16_MAX, FLOAT16_MIN_NORMAL
from runtimes.first_few import first_few
from runtimes.io.json_fields import JsonFields

MAX_WEIGHT_OUTLIER = 20.0
"""Largest |w| over rms of a channel: at 20 the rms is 6 of 127 steps and the channel keeps 53 - 20 log10(20) = 27 dB
(rounding noise is step**2 / 12). Normally distributed weights have 3 to 5."""

MAX_CHANNEL_OUTLIER = 32.0
"""Largest |w| of a channel over the median channel's: a factor of 32 costs the median channel 5 of 7 bits where both
channels share a step, as their outputs do."""

MAX_ACTIVATION_OUTLIER = 10.0
"""Largest |x| over the typical large value. Exponential tails have ln(1e7) / ln(100) = 3.5 over ten million values."""

MIN_STEPS = 8.0
"""Steps below which a channel, or the typical large value, has 3 bits or less: its SQNR is about 20 log10(8 * sqrt(12)
/ 4) = 17 dB, with a rms of a quarter of the largest value. The quarter of the channels with least had 18 or more in a
ResNet-18 and a ResNet-20 as trained (measured)."""


class FindingKind(Enum):
    """Kind of finding; the value is its wording."""

    WEIGHT_OUTLIER = "one weight sets the step of a channel"
    CHANNEL_OUTLIER = "weight channel far above the median channel"
    DEAD_WEIGHTS = "channels with no weights"
    WEIGHT_ABOVE_FLOAT16 = "weights beyond FP16"
    WEIGHT_BELOW_FLOAT16 = "channels below FP16's normal range"
    ACTIVATION_OUTLIER = "activation outliers"
    NARROW_CHANNELS = "channels with few INT8 steps"
    DEAD_ACTIVATIONS = "channels that never fire"
    ACTIVATION_BEYOND_FLOAT16 = "activations beyond FP16"


class Severity(Enum):
    """Whether accuracy is at stake."""

    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class TensorFinding(JsonFields):
    """One thing that was found.

    Attributes:
        module: Name of the PyTorch module that holds the weight or made the activation; the model's input is its own.
        figure: What was measured, in the unit of `limit`.
        limit: Where the finding begins.
        consequence: What will happen.
    """

    kind: FindingKind
    severity: Severity
    tensor: str
    module: str
    figure: float
    limit: float
    consequence: str

    @property
    def excess(self) -> float:
        """How far beyond its limit the figure is, as a factor of at least 1."""
        if self.figure <= 0 or self.limit <= 0:
            return 1.0
        return max(self.figure / self.limit, self.limit / self.figure)


def lint_weights(model: ModelProto) -> tuple[TensorFinding, ...]:
    """Return what is to be found in the weights that will be quantized."""
    index = index_graph(model.graph)
    found: list[TensorFinding] = []
    for weight in place_qdq(model).weights:
        array = array_from_initializer(index.initializer[weight.name])
        channels = np.moveaxis(array, weight.axis, 0).reshape(array.shape[weight.axis], -1).astype(np.float64)
        module = next(use.node.name for use in index.uses[weight.name])
        found.extend(_weight_findings(weight.name, module, channels))
    return tuple(found)


def lint_activations(model: ModelProto, table: CalibrationTable) -> tuple[TensorFinding, ...]:
    """Return what is to be found in the activations to be quantized; nothing where the table has not seen them."""
    if table.observed is None:
        return ()
    index = index_graph(model.graph)
    found: list[TensorFinding] = []
    for tensor, seen in table.observed.activations.items():
        if tensor in table.ranges:
            kept = table.ranges[tensor]
            producer = index.producer.get(tensor)
            maker = tensor if producer is None else producer.name
            found.extend(_activation_findings(tensor, maker, seen, kept.amax, kept.scale))
    return tuple(found)


def lint_lines(findings: Iterable[TensorFinding], *, worst: int = 3) -> tuple[str, ...]:
    """Return one line per kind of warning: how many, the worst few with figure, and what will happen to the worst.

    Notes have no line; `Finding.to_json` keeps them.
    """
    warnings = [finding for finding in findings if finding.severity is Severity.WARNING]
    lines: list[str] = []
    for kind in dict.fromkeys(finding.kind for finding in warnings):
        of_kind = sorted((each for each in warnings if each.kind is kind), key=lambda each: -each.excess)
        named = first_few((f"{each.tensor} ({each.figure:.3g})" for each in of_kind), worst)
        lines.append(f"{kind.value}: {named}; {of_kind[0].consequence}")
    return tuple(lines)


def _weight_findings(tensor: str, module: str, channels: NDArray[np.float64]) -> Iterator[TensorFinding]:
    """Yield the findings of one weight, float64 [C, values per channel]."""
    largest = np.abs(channels).max(axis=1)
    live = np.flatnonzero(largest > 0)
    dead = len(largest) - len(live)
    if dead:
        yield TensorFinding(
            FindingKind.DEAD_WEIGHTS, Severity.NOTE, tensor, module, float(dead), 1.0,
            f"{dead} of {len(largest)} channels are stored as zeros with scale 1: no effect",
        )  # fmt: skip
    if not len(live):
        return
    ratios = largest[live] / np.sqrt(np.square(channels[live]).mean(axis=1))
    worst = int(ratios.argmax())
    if ratios[worst] > MAX_WEIGHT_OUTLIER:
        yield TensorFinding(
            FindingKind.WEIGHT_OUTLIER, Severity.WARNING, tensor, module, float(ratios[worst]), MAX_WEIGHT_OUTLIER,
            f"the other weights of channel {live[worst]} share {QMAX / ratios[worst]:.1f} steps (rms) of 127, or the "
            "one is clipped where that costs less",
        )  # fmt: skip
    spread = float(largest.max() / np.median(largest[live]))
    if spread > MAX_CHANNEL_OUTLIER:
        yield TensorFinding(
            FindingKind.CHANNEL_OUTLIER, Severity.WARNING, tensor, module, spread, MAX_CHANNEL_OUTLIER,
            f"no loss in the weights, which have a scale per channel, but where channel {int(largest.argmax())} "
            f"dominates the activation it makes, the median channel gets {QMAX / spread:.1f} steps of 127 there",
        )  # fmt: skip
    yield from _float16_weight_findings(tensor, module, largest[live])


def _float16_weight_findings(tensor: str, module: str, largest: NDArray[np.float64]) -> Iterator[TensorFinding]:
    if largest.max() > FLOAT16_MAX:
        yield TensorFinding(
            FindingKind.WEIGHT_ABOVE_FLOAT16, Severity.WARNING, tensor, module, float(largest.max()), FLOAT16_MAX,
            "the FP16 file will overflow",
        )  # fmt: skip
    small = int((largest < FLOAT16_MIN_NORMAL).sum())
    if small:
        yield TensorFinding(
            FindingKind.WEIGHT_BELOW_FLOAT16, Severity.NOTE, tensor, module, float(largest.min()), FLOAT16_MIN_NORMAL,
            f"the FP16 file holds {small} of {len(largest)} channels with fewer than 11 bits, or as zeros; no effect "
            "in INT8",
        )  # fmt: skip


def _activation_findings(
    tensor: str, module: str, seen: ActivationSummary, amax: float, scale: float
) -> Iterator[TensorFinding]:
    """Yield the findings of one activation that keeps `amax` in steps of `scale`."""
    if seen.max_abs > FLOAT16_MAX / 2:
        overflows = seen.max_abs > FLOAT16_MAX
        yield TensorFinding(
            FindingKind.ACTIVATION_BEYOND_FLOAT16, Severity.WARNING, tensor, module, seen.max_abs, FLOAT16_MAX / 2,
            "the FP16 file will overflow" if overflows else "the FP16 file overflows at twice what these images reach",
        )  # fmt: skip
    if seen.typical > 0 and seen.max_abs > MAX_ACTIVATION_OUTLIER * seen.typical:
        steps = seen.typical / scale
        clips = f"values above {amax:.3g} are clipped" if amax < seen.max_abs else "nothing is clipped"
        yield TensorFinding(
            FindingKind.ACTIVATION_OUTLIER,
            Severity.WARNING if steps < MIN_STEPS else Severity.NOTE,
            tensor, module, seen.max_abs / seen.typical, MAX_ACTIVATION_OUTLIER,
            f"{clips}; the typical large value, {seen.typical:.3g}, gets {steps:.1f} steps",
        )  # fmt: skip
    steps = seen.quartile_channel / scale
    if 0 < steps < MIN_STEPS:
        if seen.max_abs < QMAX * MIN_SCALE:
            told = f"all values, up to {seen.max_abs:.2g}, become 0: no scale is below {MIN_SCALE:.2g}"
        else:
            told = (
                f"a quarter of the channels gets {steps:.1f} steps or less of 127, because the largest channel is "
                f"{seen.max_abs / seen.quartile_channel:.0f} times theirs: one scale per tensor cannot hold both"
            )
        yield TensorFinding(
            FindingKind.NARROW_CHANNELS, Severity.WARNING, tensor, module, steps, MIN_STEPS, told
        )  # fmt: skip
    if seen.dead_channels and seen.low >= 0:
        yield TensorFinding(
            FindingKind.DEAD_ACTIVATIONS, Severity.NOTE, tensor, module, float(len(seen.dead_channels)), 1.0,
            f"{len(seen.dead_channels)} of {seen.num_channels} channels are 0 on every calibration image: no effect, "
            "unless other images make them fire",
        )  # fmt: skip


def to_json(findings: Sequence[TensorFinding]) -> list[dict[str, Any]]:
    """Return all findings, worst first, as `report.json` holds them."""
    order = sorted(findings, key=lambda each: (each.severity is Severity.NOTE, -each.excess))
    return [finding.to_json() for finding in order]
