"""The files as they are written: with uint8 input, softmax, top K and metadata, each checked against its plain form."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exporter.cli.arguments import ExportOptions
from exporter.cli.measure import model_files
from exporter.cli.terminal import Terminal
from exporter.errors import ExportError
from exporter.finish import Finish
from exporter.finish_check import FinishReport, check_finished
from exporter.finish_graph import finish_graph, metadata_of

if TYPE_CHECKING:
    from onnx import ModelProto

    from exporter.cli.export_job import Artefacts


def finish_files(
    options: ExportOptions, artefacts: Artefacts, golden: NDArray[np.float32], terminal: Terminal
) -> dict[str, ModelProto]:
    """Return, by file name, what is written, each checked against the model it was made of."""
    from runtimes.ort import OrtRuntime

    loaded, finish = artefacts.exported.loaded, artefacts.finish
    num_classes = None if options.features else loaded.num_classes
    metadata = metadata_of(
        loaded.preprocessing, model_id=loaded.model_id, num_classes=num_classes, labels=loaded.labels
    )
    finished: dict[str, ModelProto] = {}
    for file, (name, model) in model_files(artefacts).items():
        try:
            finished[file] = finish_graph(model, finish, preprocessing=loaded.preprocessing, metadata=metadata)
        except ValueError as err:
            raise ExportError(str(err)) from err
        if finish == Finish():
            continue
        report = check_finished(
            model,
            finished[file],
            finish,
            golden,
            preprocessing=loaded.preprocessing,
            open_runtime=lambda opened: OrtRuntime(opened, exact_qdq=options.target.exact_int8_simulation),
        )
        terminal.done(
            f"{name}: {_words(finish)} added; {report.num_images} images: largest |difference| "
            f"{report.max_abs_diff:.2g} at largest |output| {report.max_abs_output:.3g}"
            f"{_top5(report)}"
        )
    return finished


def _words(finish: Finish) -> str:
    words = ["uint8 input"] * finish.uint8_input + ["softmax"] * finish.softmax
    return ", ".join([*words, f"top {finish.topk}"] if finish.topk else words)


def _top5(report: FinishReport) -> str:
    return "" if report.equal_top5 is None else f", same top 5 on {report.equal_top5}"
