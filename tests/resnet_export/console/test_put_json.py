"""`put_json`: what is written reads back, whatever a file in it is called."""

import argparse
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from verify_reports import comparison, report

from exporter.errors import ExportError, OptionError
from resnet_export.console.put_json import add_json_option, append_text, prints_json, put_json, put_text
from resnet_export.main import main
from resnet_export.verify_job.write_reports import write_reports


def test_a_report_may_name_a_file_whose_name_is_no_utf8(tmp_path):
    report = {"file": os.fsdecode(b"caf\xe9.onnx"), "label": "Käse"}
    put_json(report, tmp_path / "new" / "report.json")
    assert json.loads((tmp_path / "new" / "report.json").read_text(encoding="utf-8")) == report


def test_a_full_disk_leaves_the_old_report_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "report.json"
    put_json({"run": 1}, path)
    before = path.read_bytes()

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("runtimes.io.atomic_write.os.fsync", full)
    with pytest.raises(ExportError, match=r"report\.json cannot be written: .*No space left"):
        put_json({"run": 2}, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["report.json"]


def test_a_link_stays_a_link_and_a_pipe_a_pipe(tmp_path):
    (tmp_path / "real.txt").write_text("old", encoding="utf-8")
    (tmp_path / "link.txt").symlink_to("real.txt")
    put_text("new", tmp_path / "link.txt")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real.txt").read_text(encoding="utf-8") == "new"
    os.mkfifo(tmp_path / "pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text(encoding="utf-8")))
    reader.start()
    put_text("through", tmp_path / "pipe")
    reader.join(10)
    assert read == ["through"]


def test_a_summary_is_appended(tmp_path):
    for line in ("one\n", "two\n"):
        append_text(line, tmp_path / "summary.md")
    assert (tmp_path / "summary.md").read_text(encoding="utf-8") == "one\ntwo\n"


def test_what_is_printed_is_json_whatever_the_console_takes():
    script = "from resnet_export.console.put_json import put_json; put_json({'label': 'Käse'})"
    told = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=True,
    )
    assert json.loads(told.stdout.decode("utf-8")) == {"label": "Käse"}


@pytest.mark.parametrize(
    ("words", "path", "printed"),
    [([], None, False), (["--json"], "-", True), (["--json", "-"], "-", True), (["--json", "a.json"], "a.json", False)],
)
def test_json_takes_a_file_or_is_printed(words, path, printed):
    parser = argparse.ArgumentParser()
    add_json_option(parser, "the report")
    parser.add_argument("--quiet", action="store_true")
    found = parser.parse_args(words)
    assert found.json == (None if path is None else Path(path))
    assert prints_json(found) is printed
    if printed:
        with pytest.raises(OptionError, match="contradict each other"):
            prints_json(parser.parse_args([*words, "--quiet"]))


def test_verify_prints_its_report_and_nothing_else(capsys):
    words = {"json": Path("-"), "junit": None, "markdown": None, "html": None, "quiet": False}
    content = {**report(comparison(0.05)), "exit_code": 0}
    assert write_reports(content, argparse.Namespace(**words)) == 0
    assert json.loads(capsys.readouterr().out) == content


@pytest.mark.parametrize(
    "words",
    [
        ["verify", "b", "--json"],
        ["verify", "b", "--junit"],
        ["verify", "b", "--html"],
        ["lint", "b", "--sarif"],
        ["bench", "b", "--plot"],
        ["sensitivity", "b", "--calib", "c", "--json"],
    ],
)
def test_a_folder_in_the_place_of_a_report_is_told_before_the_work(words, tmp_path, capsys):
    assert main([*words, str(tmp_path)]) == 2
    assert f"{words[-1]}: got the folder {str(tmp_path)!r}, expected the name of a file" in capsys.readouterr().err
