"""Prepared inputs, which nothing normalizes again: do they lie where a model's own preprocessing puts pictures?"""

from __future__ import annotations

from resnet_export.console.reporter import Reporter
from resnet_export.images.image_set import ImageSource
from resnet_export.images.stream import batch_size_for
from runtimes.preprocessing.image_batches import PREPARED_SUFFIX, image_batches
from runtimes.preprocessing.transform import Preprocessing


def warn_of_other_scale(val: ImageSource, preprocessing: Preprocessing, reporter: Reporter) -> None:
    """Warn where prepared validation images are on another scale than calibration images have to be."""
    prepared = [path for path in val.paths() if path.name.endswith(PREPARED_SUFFIX)][:256]  # tell enough
    if not prepared:
        return
    from calibration.observers.input_statistics import InputCollector
    from calibration.observers.judge_input import judge_normalization

    seen = InputCollector()
    for batch in image_batches(prepared, preprocessing, batch_size=batch_size_for(preprocessing), max_bad_fraction=1.0):
        seen.add(batch.images)
    for warning in judge_normalization(seen.statistics(), preprocessing):
        reporter.warn(warning.said_of("validation images"))
