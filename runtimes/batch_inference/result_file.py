r"""One file of all rows, as Parquet, CSV or JSON lines; written beside its place and renamed, never half there.

| | Parquet | CSV | JSON lines |
|---|---|---|---|
| classes | lists `classes`, `labels`, `scores` | `class_1`, `label_1`, `score_1`, ... | lists |
| a file that could not be read | empty lists, `error` | empty cells, `error` | empty lists, `error` |
| a name that is not UTF-8 | `path_bytes` holds it; `path` has U+FFFD | its own bytes | lone surrogates, `\udc80` |
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from runtimes.batch_inference.classify_images import AnswerRow
from runtimes.errors import ResultsError
from runtimes.io.atomic_write import replacing
from runtimes.needed_library import needed_library

_ROWS_OF_GROUP = 4096
"""Rows of a Parquet row group: a few hundred kilobytes in memory."""


def check_format(output: Path) -> None:
    """Raise unless a file of this name can be written here; called before any work.

    Raises:
        ResultsError: If the ending is unknown.
        MissingDependencyError: If it is Parquet and pyarrow is not installed.
    """
    if output.suffix.lower() not in _WRITERS:
        raise ResultsError(f"--output {output}: expected a name that ends in {', '.join(_WRITERS)}")
    if output.suffix.lower() == ".parquet":
        _pyarrow()


def write_results(
    output: Path,
    rows: Iterable[AnswerRow],
    *,
    labels: Sequence[str] | None,
    top_k: int,
    report: Mapping[str, Any],
    scratch: Path | None = None,
) -> None:
    """Write all rows.

    Args:
        output: The file; its ending decides the format.
        rows: In the order of the input.
        labels: Name of every class, or None.
        top_k: Columns of a CSV.
        report: Goes into Parquet's metadata, under `resnet_export`.
        scratch: Folder on the same file system where the file grows; that of `output` when None.

    Raises:
        ResultsError: If it cannot be written; nothing of it is left then.
    """
    writer = _WRITERS[output.suffix.lower()]
    try:
        with replacing(output, folder=scratch) as temporary:
            writer(temporary, rows, labels, top_k, report)
    except OSError as err:
        raise ResultsError(f"{output} cannot be written: {err}; make room, and go on with --resume") from err


def _write_json_lines(
    path: Path, rows: Iterable[AnswerRow], labels: Sequence[str] | None, top_k: int, report: Mapping[str, Any]
) -> None:
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            content: dict[str, Any] = {"index": row.index, "path": row.path, "classes": row.classes}
            if labels is not None:
                content["labels"] = [labels[index] for index in row.classes]
            file.write(json.dumps({**content, "scores": row.scores, "error": row.error}) + "\n")


def _write_csv(
    path: Path, rows: Iterable[AnswerRow], labels: Sequence[str] | None, top_k: int, report: Mapping[str, Any]
) -> None:
    words = ("class", "label", "score") if labels is not None else ("class", "score")
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["index", "path", *(f"{word}_{k}" for k in range(1, top_k + 1) for word in words), "error"])
        for row in rows:
            cells: list[Any] = []
            for index, score in zip(row.classes, row.scores, strict=True):
                cells += [index, score] if labels is None else [index, labels[index], score]
            cells += [""] * (top_k * len(words) - len(cells))
            writer.writerow([row.index, row.path, *cells, row.error or ""])


def _write_parquet(
    path: Path, rows: Iterable[AnswerRow], labels: Sequence[str] | None, top_k: int, report: Mapping[str, Any]
) -> None:
    pyarrow, parquet = _pyarrow()
    columns = [
        ("index", pyarrow.int64()),
        ("path", pyarrow.string()),
        ("path_bytes", pyarrow.binary()),
        ("classes", pyarrow.list_(pyarrow.int32())),
        ("labels", pyarrow.list_(pyarrow.string())),
        ("scores", pyarrow.list_(pyarrow.float32())),
        ("error", pyarrow.string()),
    ]
    schema = pyarrow.schema(columns, metadata={"resnet_export": json.dumps(report)})
    remaining = iter(rows)
    with parquet.ParquetWriter(path, schema) as writer:
        while group := [_parquet_row(row, labels) for row in islice(remaining, _ROWS_OF_GROUP)]:
            writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))


def _parquet_row(row: AnswerRow, labels: Sequence[str] | None) -> dict[str, Any]:
    encoded = os.fsencode(row.path)
    readable = encoded.decode("utf-8", "replace")
    return {
        "index": row.index,
        "path": readable,
        "path_bytes": None if readable == row.path else encoded,
        "classes": row.classes,
        "labels": None if labels is None else [labels[index] for index in row.classes],
        "scores": row.scores,
        "error": None if row.error is None else row.error.encode("utf-8", "backslashreplace").decode(),
    }


def _pyarrow() -> tuple[Any, Any]:
    told = 'Parquet needs pyarrow; pip install "resnet-export[classify]", or write .csv or .jsonl'
    return needed_library("pyarrow", told), needed_library("pyarrow.parquet", told)


_Writer = Callable[[Path, Iterable[AnswerRow], "Sequence[str] | None", int, Mapping[str, Any]], None]
_WRITERS: Mapping[str, _Writer] = {".parquet": _write_parquet, ".csv": _write_csv, ".jsonl": _write_json_lines}
