"""The files as they are written: with uint8 input, softmax, top K and metadata, each checked against its plain form."""

from __future__ import annotations

from typing import TYPE_CHECKING

from exporter.errors import ExportError
from exporter.passes.add_pre_post import finish_graph, metadata_of
from exporter.passes.pre_post_options import Finish
from exporter.tracing.check_pre_post import check_finished
from resnet_export.export_job.context.run import ExportRun
from runtimes.counted import counted
from runtimes.metrics.answer_kind import AnswerKind

if TYPE_CHECKING:
    from onnx import ModelProto

    from resnet_export.export_job.context.artifacts import Artifacts


def finish_files(run: ExportRun, artifacts: Artifacts) -> dict[str, ModelProto]:
    """Return, by file name, what is written, each checked against the model it was made of."""
    from runtimes.ort.adapter import OrtRuntime

    options, loaded, finish = run.options, run.loaded, artifacts.finish
    num_classes = loaded.num_classes if loaded.gives_logits else None
    metadata = metadata_of(
        loaded.preprocessing,
        model_id=loaded.model_id,
        num_classes=num_classes,
        labels=loaded.labels,
        answers=AnswerKind.PROBABILITIES if finish.softmax else artifacts.answers,
    )
    added = ["uint8 input"] * finish.uint8_input + ["softmax"] * finish.softmax
    added += [f"top {finish.topk}"] if finish.topk else []
    finished: dict[str, ModelProto] = {}
    for file, (name, model) in artifacts.model_files().items():
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
            run.golden,
            preprocessing=loaded.preprocessing,
            open_runtime=lambda opened: OrtRuntime(opened, exact_qdq=options.target.exact_int8_simulation),
        )
        top5 = "" if report.equal_top5 is None else f", same top 5 on {report.equal_top5}"
        run.reporter.done(
            f"{name}: {', '.join(added)} added; {counted(report.num_images, 'image')}: largest |difference| "
            f"{report.max_abs_diff:.2g} at largest |output| {report.max_abs_output:.3g}{top5}"
        )
    return finished
