"""A whole run over many files: parts that survive an interruption, then one result file and a report beside it."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from runtimes.batch_inference.classify_images import AnswerRow, ImageClassifier, Part, cut_parts
from runtimes.batch_inference.result_file import check_format, write_results
from runtimes.batch_inference.resume import (
    open_parts,
    parts_folder,
    parts_to_do,
    plan_differences,
    read_part,
    remove_parts,
    write_lines,
    write_part,
)
from runtimes.bundle.manifest import file_entry
from runtimes.errors import ResultsError
from runtimes.io.json_fields import JsonFields, json_fields
from runtimes.io.writable import why_not_writable

_LARGEST_PART = 1024
_NUM_PARTS = 64
_NUM_EXAMPLES = 5  # errors that a report quotes; its count is complete


class Work(Protocol):
    """Worker that computes the parts: this process, or Ray."""

    def facts(self) -> dict[str, Any]:
        """Return, as JSON values, which file runs on what: part of the plan."""
        ...

    def done(self, parts: Sequence[Part]) -> Iterator[tuple[Part, list[AnswerRow]]]:
        """Do parts; yield each with its rows, in any order."""
        ...


@dataclass(frozen=True, slots=True)
class RunReport(JsonFields):
    """Result of a run; also the content of `<output>.json`.

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
        content = json_fields(self)
        del content["resumed_images"]
        return content


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
    part_size = max(batch_size, min(_LARGEST_PART, -(-len(paths) // _NUM_PARTS)))
    images = {"num_images": len(paths), "images_sha256": digest.hexdigest()}
    return {**images, "part_size": part_size, "batch_size": batch_size, **facts}


def report_path(output: Path) -> Path:
    """Return where the report of a result file lies."""
    return output.with_name(f"{output.name}.json")


def check_output(output: Path, *, resume: bool, force: bool) -> None:
    """Look at what is at `output` before any work.

    Raises:
        ResultsError: If a result or an interrupted run's parts are there and neither `resume` nor `force` was given, or
            the format is unknown, or nothing can be written there.
        MissingDependencyError: If the format needs a library that is not installed.
    """
    check_format(output)
    if output.is_dir():
        raise ResultsError(f"{output} is a folder; expected the name of a file")
    if output.exists() and not (resume or force):
        raise ResultsError(f"{output} exists; --force replaces it")
    if (force or not output.exists()) and (reason := why_not_writable(output)):
        raise ResultsError(f"{output} cannot be written: {reason}; choose another --output")


def _finished(output: Path, plan: Mapping[str, Any]) -> RunReport:
    """Return the report of a run that is finished already, if it is this one."""
    path = report_path(output)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        report = RunReport(**{**content, "examples": tuple(content["examples"])}, resumed_images=content["num_images"])
    except (OSError, ValueError, KeyError, TypeError) as err:
        raise ResultsError(f"{output} exists, and {path} does not tell of which run; --force replaces it") from err
    if differences := plan_differences(report.plan, plan):
        raise ResultsError(f"{output} is of another run ({differences}); --force replaces it")
    return report


def run(
    output: Path,
    paths: Sequence[str],
    plan: Mapping[str, Any],
    work: Work,
    *,
    labels: Sequence[str] | None,
    top_k: int,
    score: str,
    resume: bool = False,
    force: bool = False,
    progress: Callable[[int], None] | None = None,
) -> RunReport:
    """Classify files into one result file; what is done survives an interruption as parts.

    Raises:
        ResultsError: If nothing can be written, or something is there that does not belong to this run.
        RuntimeAdapterError: If the model fails. Done parts stay.
    """
    check_output(output, resume=resume, force=force)
    if output.exists() and resume and not force and not parts_folder(output).exists():
        return _finished(output, plan)
    parts = cut_parts(paths, plan["part_size"])
    with open_parts(output, plan, resume=resume, force=force) as folder:
        todo = parts_to_do(folder, parts)
        resumed = len(paths) - sum(len(part.paths) for part in todo)
        tell = progress or (lambda num_done: None)
        tell(resumed)
        num_done = resumed
        for part, rows in work.done(todo) if todo else ():
            write_part(folder, part, rows)
            num_done += len(rows)
            tell(num_done)
        report = _report(folder, parts, plan, score, resumed)
        rows_in_order = (row for part in parts for row in read_part(folder, part))
        write_results(output, rows_in_order, labels=labels, top_k=top_k, report=report.to_json(), scratch=folder)
        write_lines(report_path(output), [json.dumps(report.to_json(), indent=2) + "\n"])
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


class LocalWork:
    """Does parts in this process, one after the other without a pause; the caller closes the classifier."""

    def __init__(self, classifier: ImageClassifier) -> None:
        self._classifier = classifier

    def facts(self) -> dict[str, Any]:
        """Return which file runs on what."""
        return model_facts(self._classifier)

    def done(self, parts: Sequence[Part]) -> Iterator[tuple[Part, list[AnswerRow]]]:
        """Do parts in order."""
        rows = self._classifier.rows(parts)
        for part in parts:
            yield part, list(islice(rows, len(part.paths)))


def model_facts(classifier: ImageClassifier) -> dict[str, Any]:
    """Return what of a model decides its answers: the file, its hash, the precision and what computes it."""
    description = classifier.describe()
    path = Path(description.file)
    return {
        "file": path.name,
        "file_sha256": file_entry(path).sha256,
        "precision": description.precision,
        "runtime": description.runtime,
        "provider": description.provider,
    }
