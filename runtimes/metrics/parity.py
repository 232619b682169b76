"""Does the candidate answer like the reference? Two runtimes on the same images, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runtimes.metrics.logit_comparison import LogitComparison
from runtimes.metrics.logit_meter import LogitMeter
from runtimes.protocol import Array, Runtime, outputs_of


def compare(
    reference: Runtime, candidate: Runtime, batches: Iterable[Array], *, labels: Sequence[int] | None = None
) -> LogitComparison:
    """Compare the first outputs of both sides for batches float32 [n, C, H, W]; a label per image, or none.

    Raises:
        ValueError: If there was no image, or the labels do not match in number.
    """
    meter = LogitMeter(strict=True)
    done = 0
    for images in batches:
        truth = None if labels is None else labels[done : done + len(images)]
        meter.add(first_output(reference, images), first_output(candidate, images), labels=truth)
        done += len(images)
    if labels is not None and done != len(labels):
        raise ValueError(f"got {len(labels)} labels for {done} images")
    return meter.report()


def first_output(runtime: Runtime, images: Array) -> Array:
    """Run a model of one input and return its first output."""
    return outputs_of(runtime, images)[next(iter(runtime.output_specs))]
