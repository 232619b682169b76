"""The parts of a run over many files: what survives when it is interrupted, by kill -9 too.

    results.parquet.parts/plan.json          what the run is of; another run's parts are refused
    results.parquet.parts/part-000000.jsonl  the rows of 1024 files, whole or absent
    results.parquet.parts/lock               held by the run that writes; the system frees it when that run dies

A part is done when its file is there with a row for each of its images: it is renamed into place after it was synced to
the disk. One run at a time writes.
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from runtimes.batch_inference.classify_images import AnswerRow, Part
from runtimes.errors import ResultsError
from runtimes.io.atomic_write import replacing

PLAN = "plan.json"
_LOCK = "lock"


def parts_folder(output: Path) -> Path:
    """Return where the parts of a result file lie."""
    return output.with_name(f"{output.name}.parts")


@contextmanager
def open_parts(output: Path, plan: Mapping[str, Any], *, resume: bool, force: bool) -> Iterator[Path]:
    """Give the folder of the parts, locked; it stays when the block is left, `remove_parts` removes it.

    Raises:
        ResultsError: If another run holds the lock, left parts that were not asked for or are of another plan, or
            nothing can be written there.
    """
    folder = parts_folder(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / _LOCK).open("w") as lock:
            _take_lock(lock.fileno(), folder)
            _check_plan(folder, plan, resume=resume, force=force)
            yield folder
    except OSError as err:
        raise ResultsError(
            f"{output} cannot be written: {err}; make room or choose another --output, then go on with --resume"
        ) from err


def _take_lock(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as err:
        raise ResultsError(f"{folder} is in use by another run; wait for it, or choose another --output") from err


def _check_plan(folder: Path, plan: Mapping[str, Any], *, resume: bool, force: bool) -> None:
    path = folder / PLAN
    done = sorted(folder.glob("part-*"))
    if force:
        for old in done:
            old.unlink()
    elif done and path.exists():
        if not resume:
            raise ResultsError(
                f"{folder} holds parts of an interrupted run; --resume goes on with them, --force begins anew"
            )
        try:
            old_plan = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as err:
            raise ResultsError(f"{path} cannot be read ({err}); --force begins anew") from err
        if differences := plan_differences(old_plan, plan):
            raise ResultsError(f"{folder} is of another run ({differences}); run as before, or begin anew with --force")
    write_lines(path, [json.dumps(plan, indent=2) + "\n"])


def plan_differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> str:
    """Return in words what two plans differ in; empty when they are the same."""
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return "; ".join(f"{key}: {old.get(key)} then, {new.get(key)} now" for key in keys)


def remove_parts(output: Path) -> None:
    """Remove the parts of a finished run."""
    shutil.rmtree(parts_folder(output))


def parts_to_do(folder: Path, parts: Sequence[Part]) -> list[Part]:
    """Return the parts that are not done; one that is damaged is not."""
    return [part for part in parts if not _is_done(folder, part)]


def _is_done(folder: Path, part: Part) -> bool:
    try:
        rows = list(read_part(folder, part))
    except (OSError, ResultsError):
        return False
    return len(rows) == len(part.paths)


def write_part(folder: Path, part: Part, rows: Sequence[AnswerRow]) -> None:
    """Write the rows of one part, whole or not at all.

    Raises:
        ResultsError: If they are not exactly the rows of this part.
    """
    if [row.index for row in rows] != list(range(part.start, part.start + len(part.paths))):
        raise ResultsError(
            f"part {part.number}: got {len(rows)} rows, expected one for each of {len(part.paths)} files"
        )
    values = ([row.index, row.path, row.classes, row.scores, row.error] for row in rows)
    write_lines(_part_path(folder, part), (f"{json.dumps(one)}\n" for one in values))


def read_part(folder: Path, part: Part) -> Iterator[AnswerRow]:
    """Yield the rows of one part.

    Raises:
        ResultsError: If the file is damaged or of other images.
    """
    with _part_path(folder, part).open(encoding="utf-8") as file:
        for place, line in enumerate(file):
            row = _row(line, part)
            if place >= len(part.paths) or (row.index, row.path) != (part.start + place, part.paths[place]):
                raise ResultsError(f"part {part.number}: line {place + 1} is of another image, {row.path!r}")
            yield row


def write_lines(path: Path, pieces: Iterable[str]) -> None:
    """Write a text file, synced to the disk, by a rename."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        file.writelines(pieces)


def _part_path(folder: Path, part: Part) -> Path:
    return folder / f"part-{part.number:06d}.jsonl"


def _row(line: str, part: Part) -> AnswerRow:
    try:
        index, path, classes, scores, error = json.loads(line)
        return AnswerRow(index, path, tuple(classes), tuple(scores), error)
    except (ValueError, TypeError) as err:
        raise ResultsError(f"part {part.number} is damaged ({err})") from err
