"""A run from parts to one file: nothing lost, nothing twice, whatever interrupts it."""

from __future__ import annotations

import json

import pytest

from runtimes.batch_inference.classify_images import AnswerRow
from runtimes.batch_inference.resume import parts_folder
from runtimes.batch_inference.run import report_path, run, run_plan
from runtimes.errors import ResultsError, RuntimeAdapterError

PATHS = [f"{number}.png" for number in range(10)]
PLAN = run_plan(PATHS, batch_size=3, file="model.onnx")


class Work:
    """Does parts, in any order, until it breaks; remembers which images it did."""

    def __init__(self, *, breaks_after=99, backwards=False):
        self.breaks_after, self.backwards = breaks_after, backwards
        self.seen: list[str] = []

    def facts(self):
        return {}

    def done(self, parts):
        for count, part in enumerate(reversed(parts) if self.backwards else parts):
            if count == self.breaks_after:
                raise RuntimeAdapterError("the model broke")
            self.seen += part.paths
            yield part, [row_of(path) for path in part.paths]


def row_of(path: str) -> AnswerRow:
    index = int(path.removesuffix(".png"))
    return (
        AnswerRow(index, path, (), (), f"cannot read {path}")
        if index == 7
        else AnswerRow(index, path, (index,), (0.5,))
    )


def classify(output, work, paths=PATHS, plan=PLAN, **options):
    return run(output, paths, plan, work, labels=None, top_k=1, score="probability", **options)


def indices(output) -> list[int]:
    return [json.loads(line)["index"] for line in output.read_text().splitlines()]


@pytest.fixture
def output(tmp_path):
    return tmp_path / "r.jsonl"


def test_parts_in_any_order_give_rows_in_order(output):
    report = classify(output, Work(backwards=True))
    assert indices(output) == list(range(10))
    assert (report.num_images, report.num_errors, report.examples) == (10, 1, ("cannot read 7.png",))
    assert json.loads(report_path(output).read_text()) == json.loads(json.dumps(report.to_json()))
    assert not parts_folder(output).exists()


@pytest.mark.parametrize("breaks_after", range(4))
@pytest.mark.parametrize("backwards", [False, True])
def test_every_image_is_done_once(output, breaks_after, backwards):
    first, second = Work(breaks_after=breaks_after, backwards=backwards), Work()
    with pytest.raises(RuntimeAdapterError, match="the model broke"):
        classify(output, first)
    assert not output.exists()
    report = classify(output, second, resume=True)
    assert sorted(first.seen + second.seen) == PATHS
    assert report.resumed_images == len(first.seen)
    assert indices(output) == list(range(10))


def test_progress_counts_what_was_there(output):
    with pytest.raises(RuntimeAdapterError):
        classify(output, Work(breaks_after=2))
    told: list[int] = []
    classify(output, Work(), resume=True, progress=told.append)
    assert told == [6, 9, 10]


def test_killed_between_the_result_and_the_end(output):
    """The parts were still there: they are put together again, and nothing is classified."""
    classify(output, Work())
    content = output.read_bytes()
    with pytest.raises(RuntimeAdapterError):
        classify(output, Work(breaks_after=3), force=True)
    assert output.read_bytes() == content  # an old result stays until the new one is whole
    work = Work()
    classify(output, work, resume=True)
    assert (work.seen, output.read_bytes()) == (["9.png"], content)


def test_resume_of_a_finished_run_does_nothing(output):
    classify(output, Work())
    work = Work()
    report = classify(output, work, resume=True)
    assert (work.seen, report.resumed_images, report.num_errors) == ([], 10, 1)


def test_a_finished_run_of_something_else(output):
    classify(output, Work())
    other = {**PLAN, "file": "model.int8.onnx"}
    with pytest.raises(ResultsError, match=r"file: model\.onnx then, model\.int8\.onnx now\); --force"):
        classify(output, Work(), plan=other, resume=True)
    with pytest.raises(ResultsError, match=r"r\.jsonl exists; --force replaces it"):
        classify(output, Work())
    classify(output, Work(), plan=other, force=True)
    assert json.loads(report_path(output).read_text())["plan"]["file"] == "model.int8.onnx"


def test_a_result_without_its_report(output):
    output.write_text("mine")
    with pytest.raises(ResultsError, match="does not tell of which run"):
        classify(output, Work(), resume=True)
    assert output.read_text() == "mine"


def test_images_that_came_meanwhile(output):
    with pytest.raises(RuntimeAdapterError):
        classify(output, Work(breaks_after=1))
    paths = [*PATHS, "10.png"]
    with pytest.raises(ResultsError, match="num_images: 10 then, 11 now"):
        classify(output, Work(), paths=paths, plan=run_plan(paths, batch_size=3, file="model.onnx"), resume=True)


def test_a_worker_that_forgets_a_row(output):
    class Forgetful(Work):
        def done(self, parts):
            for part, rows in super().done(parts):
                yield part, rows[1:]

    with pytest.raises(ResultsError, match="expected one for each of 3 files"):
        classify(output, Forgetful())
    assert not output.exists()


def test_a_worker_that_forgets_a_part(output):
    class Forgetful(Work):
        def done(self, parts):
            return super().done(parts[1:])

    with pytest.raises((ResultsError, OSError), match="part-000000"):
        classify(output, Forgetful())
    assert not output.exists()


@pytest.mark.parametrize(
    ("count", "batch", "size"), [(1, 32, 32), (300, 32, 32), (6400, 32, 100), (100_000, 32, 1024), (10, 2000, 2000)]
)
def test_part_sizes(count, batch, size):
    assert run_plan(["x"] * count, batch_size=batch)["part_size"] == size


def test_plans_tell_lists_apart():
    plans = [run_plan(paths, batch_size=1) for paths in (["a", "b"], ["b", "a"], ["ab"], ["a\nb"], ["a", "b", ""])]
    assert len({plan["images_sha256"] for plan in plans}) == 5


def test_a_folder_as_output(tmp_path):
    (tmp_path / "r.csv").mkdir()
    with pytest.raises(ResultsError, match="is a folder"):
        classify(tmp_path / "r.csv", Work(), force=True)
