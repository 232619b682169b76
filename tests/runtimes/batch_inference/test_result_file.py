"""Results as Parquet, CSV and JSON lines, read back by pyarrow, csv and json."""

from __future__ import annotations

import csv
import json
import os
import sys

import pytest

from runtimes.batch_inference.classify_images import AnswerRow
from runtimes.batch_inference.result_file import check_format, write_results
from runtimes.errors import MissingDependencyError, ResultsError

LATIN = os.fsdecode(b"latin-\xe9.png")
ROWS = [
    AnswerRow(0, 'a "quoted", name.png', (1, 0), (0.75, 0.25)),
    AnswerRow(1, "two\nlines.png", (), (), "cannot read image 'two\\nlines.png': it is damaged"),
    AnswerRow(2, LATIN, (0, 1), (0.1 + 0.2, 0.7)),
    AnswerRow(3, "größe 猫.png", (0,), (1.0,)),
]
LABELS = ("cat", "dog, große")
REPORT = {"num_images": 4}


def write(path, rows=ROWS, labels=LABELS):
    write_results(path, rows, labels=labels, top_k=2, report=REPORT)
    assert [other.name for other in path.parent.iterdir()] == [path.name]


def test_json_lines(tmp_path):
    path = tmp_path / "r.jsonl"
    write(path)
    read = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["path"] for row in read] == [row.path for row in ROWS]
    assert os.fsencode(read[2]["path"]) == b"latin-\xe9.png"
    assert read[0] == {
        "index": 0,
        "path": 'a "quoted", name.png',
        "classes": [1, 0],
        "labels": ["dog, große", "cat"],
        "scores": [0.75, 0.25],
        "error": None,
    }
    assert (read[1]["classes"], read[1]["error"]) == ([], ROWS[1].error)
    assert read[2]["scores"][0] == 0.1 + 0.2  # every bit


def test_csv(tmp_path):
    path = tmp_path / "r.csv"
    write(path)
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        read = list(csv.DictReader(file))
    assert [row["path"] for row in read] == [row.path for row in ROWS]
    assert list(read[0]) == ["index", "path", "class_1", "label_1", "score_1", "class_2", "label_2", "score_2", "error"]
    assert (read[0]["class_1"], read[0]["label_1"], float(read[0]["score_1"])) == ("1", "dog, große", 0.75)
    assert (read[1]["class_1"], read[1]["error"]) == ("", ROWS[1].error)
    assert (read[3]["class_1"], read[3]["class_2"], read[3]["error"]) == ("0", "", "")


def test_csv_without_labels(tmp_path):
    write(tmp_path / "r.csv", labels=None)
    first = (tmp_path / "r.csv").read_text(encoding="utf-8", errors="surrogateescape").splitlines()[0]
    assert first == "index,path,class_1,score_1,class_2,score_2,error"


def test_parquet(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed; the [classify] extra brings it")
    path = tmp_path / "r.parquet"
    write(path)
    table = parquet.read_table(path)
    assert {field.name: str(field.type) for field in table.schema} == {
        "index": "int64",
        "path": "string",
        "path_bytes": "binary",
        "classes": "list<element: int32>",
        "labels": "list<element: string>",
        "scores": "list<element: float>",
        "error": "string",
    }
    read = table.to_pylist()
    names = [row["path"].encode() if row["path_bytes"] is None else row["path_bytes"] for row in read]
    assert names == [os.fsencode(row.path) for row in ROWS]
    assert read[2]["path"] == "latin-\ufffd.png"
    assert (read[0]["classes"], read[0]["labels"], read[0]["scores"]) == ([1, 0], ["dog, große", "cat"], [0.75, 0.25])
    assert (read[1]["classes"], read[1]["error"]) == ([], ROWS[1].error)
    assert json.loads(table.schema.metadata[b"resnet_export"]) == REPORT


def test_parquet_in_row_groups(tmp_path, monkeypatch):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed; the [classify] extra brings it")
    monkeypatch.setattr("runtimes.batch_inference.result_file._ROWS_OF_GROUP", 3)
    write(tmp_path / "r.parquet")
    file = parquet.ParquetFile(tmp_path / "r.parquet")
    assert (file.num_row_groups, file.metadata.num_rows) == (2, 4)


@pytest.mark.parametrize("name", ["r.csv", "r.jsonl", "r.parquet"])
def test_a_failure_leaves_the_old_file(tmp_path, name):
    if name == "r.parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed; the [classify] extra brings it")

    def broken():
        yield ROWS[0]
        raise OSError(28, "No space left on device")

    (tmp_path / name).write_text("old")
    with pytest.raises(ResultsError, match=r"No space left.*--resume"):
        write(tmp_path / name, rows=broken())
    assert (tmp_path / name).read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 1


def test_an_unknown_ending(tmp_path):
    with pytest.raises(ResultsError, match=r"ends in \.parquet, \.csv, \.jsonl"):
        check_format(tmp_path / "r.xlsx")


def test_parquet_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match=r'pip install "resnet-export\[classify\]"'):
        check_format(tmp_path / "r.parquet")
    check_format(tmp_path / "r.CSV")
