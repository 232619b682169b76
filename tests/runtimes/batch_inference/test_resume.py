"""What survives an interruption, and what is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from runtimes.batch_inference.classify_images import AnswerRow, Part, cut_parts
from runtimes.batch_inference.resume import open_parts, parts_folder, parts_to_do, read_part, remove_parts, write_part
from runtimes.errors import ResultsError

PLAN = {"num_images": 5, "top_k": 1}
PATHS = ["a.png", "two\nlines.png", os.fsdecode(b"latin-\xe9.png"), "猫.png", "e.png"]
PARTS = cut_parts(PATHS, 2)


def rows_of(part: Part) -> list[AnswerRow]:
    return [
        AnswerRow(part.start + place, path, (place,), (0.1 + place,))
        if path != "e.png"
        else AnswerRow(4, path, (), (), "broken")
        for place, path in enumerate(part.paths)
    ]


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "results.csv"


def interrupted(output: Path, *numbers: int) -> Path:
    """Leave these parts, as a run that was killed does."""
    with open_parts(output, PLAN, resume=False, force=False) as folder:
        for number in numbers:
            write_part(folder, PARTS[number], rows_of(PARTS[number]))
    return folder


def test_parts_of_everything():
    assert [(part.number, part.start, len(part.paths)) for part in PARTS] == [(0, 0, 2), (1, 2, 2), (2, 4, 1)]
    assert sum((part.paths for part in PARTS), ()) == tuple(PATHS)


def test_rows_come_back_whatever_the_files_are_called(output):
    folder = interrupted(output, 0, 1, 2)
    for part in PARTS:
        assert list(read_part(folder, part)) == rows_of(part)


def test_what_is_done_is_not_done_again(output):
    interrupted(output, 1)
    with open_parts(output, PLAN, resume=True, force=False) as folder:
        assert [part.number for part in parts_to_do(folder, PARTS)] == [0, 2]


@pytest.mark.parametrize("damage", ["cut", "empty", "garbage", "other image", "a line too many"])
def test_a_damaged_part_is_done_again(output, damage):
    folder = interrupted(output, 0, 1)
    path = folder / "part-000001.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text(
        {
            "cut": lines[0] + lines[1][:5],
            "empty": "",
            "garbage": "\0\0",
            "other image": (folder / "part-000000.jsonl").read_text(),
            "a line too many": "".join([*lines, lines[0]]),
        }[damage]
    )
    assert [part.number for part in parts_to_do(folder, PARTS)] == [1, 2]


def test_rows_of_another_part_are_never_written(output):
    with open_parts(output, PLAN, resume=False, force=False) as folder:
        for rows in (rows_of(PARTS[1]), rows_of(PARTS[0])[:1], rows_of(PARTS[0])[::-1]):
            with pytest.raises(ResultsError, match="expected one for each of 2 files"):
                write_part(folder, PARTS[0], rows)
        assert files(folder) == ["lock", "plan.json"]


def test_left_parts_are_neither_used_nor_lost_unasked(output):
    folder = interrupted(output, 0)
    with pytest.raises(ResultsError, match=r"--resume goes on with them, --force begins anew"):
        open_parts(output, PLAN, resume=False, force=False).__enter__()
    assert "part-000000.jsonl" in files(folder)
    with open_parts(output, PLAN, resume=False, force=True) as folder:
        assert files(folder) == ["lock", "plan.json"]


def test_parts_of_another_run(output):
    interrupted(output, 0)
    with pytest.raises(ResultsError, match=r"top_k: 1 then, 5 now"):
        open_parts(output, {**PLAN, "top_k": 5}, resume=True, force=False).__enter__()


def test_a_run_that_did_nothing_is_in_nobodys_way(output):
    interrupted(output)
    with open_parts(output, {**PLAN, "top_k": 5}, resume=False, force=False) as folder:
        assert len(parts_to_do(folder, PARTS)) == 3


def test_one_run_at_a_time(output):
    with (
        open_parts(output, PLAN, resume=False, force=False),
        pytest.raises(ResultsError, match="in use by another run"),
    ):
        open_parts(output, PLAN, resume=True, force=False).__enter__()


def test_a_killed_run_holds_no_lock(output):
    code = (
        "import os, sys; from pathlib import Path; from runtimes.batch_inference.resume import open_parts\n"
        "with open_parts(Path(sys.argv[1]), {'num_images': 5, 'top_k': 1}, resume=False, force=False):\n"
        "    os.kill(os.getpid(), 9)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    killed = subprocess.run([sys.executable, "-c", code, str(output)], env=environment, check=False)
    assert killed.returncode == -9
    assert parts_folder(output).is_dir()
    with open_parts(output, PLAN, resume=True, force=False):
        pass


def test_a_plan_that_cannot_be_read(output):
    folder = interrupted(output, 0)
    (folder / "plan.json").write_text("{")
    with pytest.raises(ResultsError, match="cannot be read"):
        open_parts(output, PLAN, resume=True, force=False).__enter__()


@pytest.mark.parametrize("place", ["/proc/results.csv", "file/results.csv"])
def test_where_nothing_can_be_written(tmp_path, place):
    """/proc takes no folder, not even of root."""
    (tmp_path / "file").touch()
    with pytest.raises(ResultsError, match="cannot be written"):
        open_parts(tmp_path / place, PLAN, resume=False, force=False).__enter__()


def test_nothing_stays_when_all_is_done(output):
    interrupted(output, 0)
    remove_parts(output)
    assert files(output.parent) == []
