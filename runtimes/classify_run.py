"""A whole run over many files: parts that survive an interruption, then one result file and a report beside it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from runtimes.classify_images import ImageClassifier, Part, Row, cut_parts
from runtimes.errors import ResultsError
from runtimes.result_file import check_format, write_results
from runtimes.result_parts import (
    open_parts,
    parts_folder,
    parts_to_do,
    read_part,
    remove_parts,
    write_part,
    write_whole,
)

_LARGEST_PART = 1024
_NUM_PARTS = 64
_NUM_EXAMPLES = 5  # errors that a report quotes; its count is complete

DoneParts = Callable[[Sequence[Part]], Iterable["tuple[Part, list[Row]]"]]
"""Parts to be done -> each with its rows, in any order."""


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run gave; also the content of `<output>.json`.

    Attributes:
        plan: What the run was of; see `run_plan`.
        num_images: Rows of the result.
        num_errors: Rows of files that could not be read.
        examples: The first messages of them.
        score: "probability" or "logit".
        resumed_images: How many of the rows an earlier, interrupted run had done; all of them if it had finished.
    """

    plan: Mapping[str, Any]
    num_images: int
    num_errors: int
    examples: tuple[str, ...]
    score: str
    resumed_images: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return what the file holds: what does not depend on how often the run was interrupted."""
        return {
            "plan": dict(self.plan),
            "num_images": self.num_images,
            "num_errors": self.num_errors,
            "examples": list(self.examples),
            "score": self.score,
        }


def run_plan(paths: Sequence[str], *, batch_size: int, **facts: Any) -> dict[str, Any]:
    """Return what decides the rows of a run, so that an interrupted one goes on only as it began.

    Args:
        paths: The images, in order.
        batch_size: Images in a batch: other batches may give other last bits.
        facts: JSON values: the model's hash, the options.
    """
    digest = hashlib.sha256()
    for path in paths:
        digest.update(os.fsencode(path) + b"\0")
    part_size = min(_LARGEST_PART, max(batch_size, -(-len(paths) // _NUM_PARTS)))
    images = {"num_images": len(paths), "images_sha256": digest.hexdigest()}
    return {**images, "part_size": part_size, "batch_size": batch_size, **facts}


def report_path(output: Path) -> Path:
    """Return where the report of a result file lies."""
    return output.with_name(f"{output.name}.json")


def check_run(output: Path, plan: Mapping[str, Any], *, resume: bool, force: bool) -> RunReport | None:
    """Look at what is at `output` before any work; return the report if this very run is finished already.

    Raises:
        ResultsError: If something is there and neither `resume` nor `force` fits it, or the format is unknown.
        MissingDependencyError: If the format needs a library that is not installed.
    """
    check_format(output)
    if force or not output.exists() or parts_folder(output).exists():
        return None
    if resume and (report := _finished(output, plan)) is not None:
        return report
    reason = "and is not of this run; --resume goes on with interrupted runs only" if resume else ""
    raise ResultsError(f"{output} exists {reason}; --force replaces it".replace(" ;", ";"))


def _finished(output: Path, plan: Mapping[str, Any]) -> RunReport | None:
    try:
        content = json.loads(report_path(output).read_text(encoding="utf-8"))
        if content["plan"] != dict(plan):
            return None
        report = RunReport(**{**content, "examples": tuple(content["examples"])}, resumed_images=content["num_images"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return report


def run(
    output: Path,
    paths: Sequence[str],
    plan: Mapping[str, Any],
    done_parts: DoneParts,
    *,
    labels: Sequence[str] | None,
    top_k: int,
    score: str,
    resume: bool = False,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> RunReport:
    """Classify files into one result file; what is done survives an interruption as parts.

    Args:
        output: The result; its ending decides the format.
        paths: The images; the rows come in this order.
        plan: Of `run_plan` for these paths.
        done_parts: Does the work; see `local_parts` and `runtimes.classify_on_ray.rows_from_ray`.
        labels: Name of every class, or None.
        top_k: Classes in a row.
        score: What the scores are, for the report.
        resume: Go on with an interrupted run's parts.
        force: Throw them away, and replace `output`.
        progress: Called with the number of images done, once a part.

    Raises:
        ResultsError: If nothing can be written, or parts are there that do not belong to this run.
        RuntimeAdapterError: If the model fails. Done parts stay.
    """
    parts = cut_parts(paths, plan["part_size"])
    with open_parts(output, plan, resume=resume, force=force) as folder:
        todo = parts_to_do(folder, parts)
        resumed = len(paths) - sum(len(part.paths) for part in todo)
        tell = progress or (lambda num_done: None)
        tell(resumed)
        num_done = resumed
        for part, rows in done_parts(todo) if todo else ():
            write_part(folder, part, rows)
            num_done += len(rows)
            tell(num_done)
        report = _report(folder, parts, plan, score, resumed)
        rows_in_order = (row for part in parts for row in read_part(folder, part))
        write_results(output, rows_in_order, labels=labels, top_k=top_k, report=report.to_json(), scratch=folder)
        write_whole(report_path(output), [json.dumps(report.to_json(), indent=2) + "\n"])
        remove_parts(output)
    return report


def _report(folder: Path, parts: Sequence[Part], plan: Mapping[str, Any], score: str, resumed: int) -> RunReport:
    num_images = num_errors = 0
    examples: list[str] = []
    for part in parts:
        for row in read_part(folder, part):
            num_images += 1
            if row.error is not None:
                num_errors += 1
                if len(examples) < _NUM_EXAMPLES:
                    examples.append(row.error)
    if num_images != plan["num_images"]:
        raise ResultsError(f"got {num_images} rows for {plan['num_images']} images; begin anew with --force")
    return RunReport(plan, num_images, num_errors, tuple(examples), score, resumed)


def local_parts(classifier: ImageClassifier) -> DoneParts:
    """Return a way to do parts in this process, one after the other without a pause between them."""

    def done(parts: Sequence[Part]) -> Iterator[tuple[Part, list[Row]]]:
        part_of = {part.start + place: part for part in parts for place in range(len(part.paths))}
        for number, rows in groupby(classifier.rows(parts), key=lambda row: part_of[row.index].number):
            collected = list(rows)
            assert collected[0].index == part_of[collected[0].index].start, number
            yield part_of[collected[0].index], collected

    return done
