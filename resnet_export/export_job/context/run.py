"""One run of the main job: what every step of it needs to know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exporter.models.loaded_model import LoadedModel
from resnet_export.console.reporter import Reporter
from resnet_export.export_job.context.choose_images import ChosenImages
from resnet_export.export_job.context.options import ExportOptions
from resnet_export.export_job.context.remembered_answers import RememberedAnswers
from resnet_export.images.class_index import ClassIndex
from resnet_export.images.stream import stream

if TYPE_CHECKING:
    from runtimes.preprocessing.image_batches import Batch


@dataclass(frozen=True, slots=True, eq=False)
class ExportRun:
    """Settings of a run, complete before the first file is computed.

    Attributes:
        options: What was asked for.
        loaded: The model.
        reference: It, run by PyTorch: what every file is compared with.
        images: To calibrate and to measure.
        classes: Of the measured images, where they have labels.
        golden: Inputs that the bundle keeps, float32 [16, C, H, W].
        reporter: Takes what is told.
    """

    options: ExportOptions
    loaded: LoadedModel
    reference: RememberedAnswers
    images: ChosenImages
    classes: ClassIndex | None
    golden: NDArray[np.float32]
    reporter: Reporter

    def batches(self, what: str, paths: Sequence[Path]) -> Iterator[Batch]:
        """Yield prepared batches of images, telling progress as the step `what`."""
        return stream(what, paths, self.loaded.preprocessing, self.images.allowed_bad, self.reporter)

    def labels_of(self, batch: Batch) -> list[int] | None:
        """Return the class index of each image of a batch, or None without labels."""
        return None if self.classes is None else [self.classes.of[path] for path in batch.paths]
