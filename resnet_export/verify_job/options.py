"""Options of `verify` as one checked value. Imports no framework."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.errors import OptionError
from exporter.models.loaded_model import DEFAULT_WEIGHTS
from exporter.preprocessing.options import PreprocessingOptions
from resnet_export.images.image_set import ImageSource, said_of_no_images
from resnet_export.verify_job.subject import PRECISIONS, TORCH, is_alone
from runtimes.inference.runtime_registry import RUNTIMES


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VerifyOptions:
    """Options of `verify`, as `resnet_export.verify` takes them; `precision` is () for all files of a bundle."""

    subject: Path
    precision: tuple[str, ...] = ()
    provider: str | None = None
    against: Any = None
    weights: str = DEFAULT_WEIGHTS
    num_classes: int | None = None
    preprocessing: PreprocessingOptions = field(default_factory=PreprocessingOptions)
    val: ImageSource | None = None
    val_labels: tuple[int, ...] | None = None
    num_val: int | None = None
    gates: tuple[str, ...] = ()
    baseline: Path | None = None
    bisect: bool = False

    def __post_init__(self) -> None:
        """Raise an `OptionError` where options contradict each other; it names them as the command spells them."""
        if reason := next(_contradictions(self), None):
            raise OptionError(reason)


def _contradictions(options: VerifyOptions) -> Iterator[str]:
    if unknown := [word for word in options.precision if word not in PRECISIONS]:
        yield f"--precision: got {unknown[0]!r}, expected some of {', '.join(PRECISIONS)}"
    if options.provider is not None and options.provider not in (*RUNTIMES, TORCH):
        yield f"--provider: got {options.provider!r}, expected one of {', '.join((*RUNTIMES, TORCH))}"
    alone = is_alone(options.subject)
    if alone and options.against is None:
        yield f"{options.subject} lies in no bundle, so nothing says how it has to answer: give --against MODEL"
    if options.provider == TORCH and options.against is None:
        yield "--provider torch tests a PyTorch model against the bundle: give it as --against MODEL"
    if options.provider == TORCH and (alone or options.bisect):
        yield "--provider torch compares with a bundle's stored answers, as a whole: give a bundle, no --bisect"
    if options.against is None and options.weights != DEFAULT_WEIGHTS:
        yield "--weights belongs to --against MODEL"
    if options.against is None and options.num_classes is not None:
        yield "--num-classes belongs to --against MODEL"
    if options.against is None and options.preprocessing != PreprocessingOptions():
        yield (
            "--input-size, --resize, --mean, --std, --interpolation, --color-order and --scale belong to --against "
            "MODEL: images of a bundle are prepared as it says"
        )
    yield from said_of_no_images(options.val, options.val_labels, options.num_val)
