"""`resnet-export classify`: whole runs, killed runs, and everything that folders of images hold."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bundles import small_classifier, write_bundle

import resnet_export as rx
from resnet_export.main import main

ROOT = Path(__file__).parents[2]
COMMAND = "import sys; from resnet_export.main import main; sys.exit(main(sys.argv[1:]))"
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
    "OMP_NUM_THREADS": "1",
}


@pytest.fixture(scope="module")
def bundle(digits_network, tmp_path_factory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("b") / "bundle", {"fp32": digits_network.model})


def classify(bundle, source, output, *words) -> int:
    arguments = ["--bundle", bundle, "--input", source, "--output", output, "--provider", "cpu", *words]
    return main(["classify", *map(str, arguments)])


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        return list(csv.DictReader(file))


def test_the_digits_are_read(bundle, digits_folder, tmp_path, capsys):
    """Most of 360 pictures that the network has not seen get the class of their folder."""
    assert classify(bundle, digits_folder / "val", tmp_path / "r.csv", "--top-k", "2", "--json") == 0
    rows = read_csv(tmp_path / "r.csv")
    assert len(rows) == 360
    right = [row["label_1"] == Path(row["path"]).parent.name for row in rows]
    assert sum(right) / len(right) > 0.98
    report = json.loads(capsys.readouterr().out)
    assert (report["num_images"], report["num_errors"], report["plan"]["provider"]) == (360, 0, "CPUExecutionProvider")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.csv", "r.csv.json"]


def test_files_that_are_no_pictures_are_told(bundle, digits_folder, tmp_path, capsys):
    (tmp_path / "in").mkdir()
    picture = sorted((digits_folder / "val" / "3").iterdir())[0]
    (tmp_path / "in" / "a.png").write_bytes(picture.read_bytes())
    (tmp_path / "in" / "b.heic").touch()
    assert classify(bundle, tmp_path / "in", tmp_path / "r.csv") == 0
    assert len(read_csv(tmp_path / "r.csv")) == 1
    assert f"{tmp_path / 'in'}: 1 file is passed over" in capsys.readouterr().err.replace("\n", " ")


def test_several_inputs_one_behind_the_other(bundle, digits_folder, tmp_path):
    """A second --input once took the place of the first without a word."""
    seven, picture = digits_folder / "val" / "7", sorted((digits_folder / "val" / "3").iterdir())[0]
    assert classify(bundle, seven, tmp_path / "r.csv", "--input", picture, "--quiet") == 0
    rows = read_csv(tmp_path / "r.csv")
    assert [row["path"] for row in rows] == [*map(str, sorted(seven.iterdir())), str(picture)]
    rx.classify(bundle, [seven, picture], tmp_path / "again.csv", provider="cpu")
    assert (tmp_path / "again.csv").read_bytes() == (tmp_path / "r.csv").read_bytes()
    with pytest.raises(ValueError, match="input: got an empty list"):
        rx.classify(bundle, [], tmp_path / "none.csv", provider="cpu")


def test_parquet(bundle, digits_folder, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed; the [classify] extra brings it")
    assert classify(bundle, digits_folder / "val" / "7", tmp_path / "r.parquet", "--quiet") == 0
    table = parquet.read_table(tmp_path / "r.parquet")
    assert table["labels"].to_pylist()[0][0] == "7"
    assert json.loads(table.schema.metadata[b"resnet_export"])["plan"]["file"] == "model.onnx"


def test_killed_and_gone_on(digits_folder, tmp_path, capsys):
    """kill -9 of a real process half-way: the file at the end is, byte for byte, that of a run nobody killed."""
    bundle = write_bundle(tmp_path / "bundle", {"fp32": small_classifier(size=32)})
    images = sorted((digits_folder / "val").rglob("*.png")) * 6
    (tmp_path / "list.txt").write_text("".join(f"{path}\n" for path in images))
    words = ["classify", "--bundle", bundle, "--input", tmp_path / "list.txt", "--provider", "cpu", "--workers", 1]
    words = list(map(str, [*words, "--batch", 8, "--quiet"]))
    output, parts = tmp_path / "killed.jsonl", tmp_path / "killed.jsonl.parts"
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *words, "--output", str(output)], env=ENVIRONMENT)
    deadline = time.monotonic() + 60
    while len(list(parts.glob("part-*"))) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -9
    done = len(list(parts.glob("part-*")))
    assert 3 <= done < 64
    assert not output.exists()
    assert main([*words, "--output", str(output)]) == 2  # not without being told what to do with the parts
    capsys.readouterr()
    assert main([*words, "--output", str(output), "--resume", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["resumed_images"] >= done * 34 - 34
    assert not parts.exists()
    whole = tmp_path / "whole.jsonl"
    assert main([*words, "--output", str(whole)]) == 0
    assert output.read_bytes() == whole.read_bytes()
    assert [json.loads(line)["path"] for line in whole.read_text().splitlines()] == list(map(str, images))


class TestBadImages:
    @pytest.fixture
    def folder(self, digits_folder, tmp_path) -> Path:
        folder = tmp_path / "images"
        folder.mkdir()
        picture = next((digits_folder / "val" / "3").iterdir()).read_bytes()
        for name in (b"good.png", b"two\nlines.png", b"latin-\xe9.png", "größe 猫.png".encode()):
            Path(os.fsdecode(os.path.join(os.fsencode(folder), name))).write_bytes(picture)
        (folder / "corrupt.png").write_bytes(picture[:60])
        (folder / "empty.png").touch()
        return folder

    def test_rows_with_errors_and_exit_code_1(self, bundle, folder, tmp_path, capsys):
        assert classify(bundle, folder, tmp_path / "r.csv") == 1
        told = capsys.readouterr().err
        assert "4 images classified" in told
        assert "2 of 6 files could not be read" in told
        rows = {Path(row["path"]).name: row for row in read_csv(tmp_path / "r.csv")}
        assert {os.fsencode(name) for name in rows} == {os.fsencode(path.name) for path in folder.iterdir()}
        assert "damaged" in rows["corrupt.png"]["error"]
        assert "0 bytes" in rows["empty.png"]["error"]
        assert {row["label_1"] for name, row in rows.items() if not row["error"]} == {"3"}

    def test_skip_errors(self, bundle, folder, tmp_path):
        assert classify(bundle, folder, tmp_path / "r.jsonl", "--skip-errors", "--quiet") == 0
        errors = [json.loads(line)["error"] for line in (tmp_path / "r.jsonl").read_text().splitlines()]
        assert sum(error is not None for error in errors) == 2

    def test_a_list_with_missing_files(self, bundle, folder, tmp_path, monkeypatch):
        monkeypatch.chdir(folder)
        (tmp_path / "list.txt").write_text("missing.png\ngood.png\n/no/such/folder/x.png\n")
        assert classify(bundle, tmp_path / "list.txt", tmp_path / "r.csv", "--quiet") == 1
        rows = read_csv(tmp_path / "r.csv")
        assert [row["path"] for row in rows] == ["missing.png", "good.png", "/no/such/folder/x.png"]
        assert ["no such file" in row["error"] for row in rows] == [True, False, True]


class TestRefusals:
    def test_an_empty_folder(self, bundle, tmp_path, capsys):
        (tmp_path / "images").mkdir()
        assert classify(bundle, tmp_path / "images", tmp_path / "r.csv") == 2
        assert "no images in" in capsys.readouterr().err
        assert [path.name for path in tmp_path.iterdir()] == ["images"]

    @pytest.mark.parametrize("output", ["/proc/r.csv", "/proc/self/r.csv"])
    def test_a_read_only_output(self, bundle, digits_folder, output, capsys):
        assert classify(bundle, digits_folder / "val" / "0", output) == 2
        assert "cannot be written" in capsys.readouterr().err

    def test_an_output_that_is_there(self, bundle, digits_folder, tmp_path, capsys):
        (tmp_path / "r.csv").write_text("mine")
        assert classify(bundle, digits_folder / "val" / "0", tmp_path / "r.csv") == 2
        assert "exists; --force replaces it" in capsys.readouterr().err
        assert (tmp_path / "r.csv").read_text() == "mine"
        assert classify(bundle, digits_folder / "val" / "0", tmp_path / "r.csv", "--force") == 0
        assert len(read_csv(tmp_path / "r.csv")) == 36

    def test_a_changed_bundle(self, bundle, digits_folder, tmp_path, capsys):
        import shutil

        changed = shutil.copytree(bundle, tmp_path / "changed")
        (changed / "model.onnx").write_bytes(b"changed")
        assert classify(changed, digits_folder / "val" / "0", tmp_path / "r.csv") == 2
        assert "changed since it was written" in capsys.readouterr().err
        assert not (tmp_path / "r.csv.parts").exists()

    def test_a_provider_that_is_not_here(self, bundle, digits_folder, tmp_path, capsys):
        """Nothing runs on the CPU in its place."""
        words = ["--bundle", bundle, "--input", digits_folder / "val" / "0", "--output", tmp_path / "r.csv"]
        assert main(["classify", *map(str, words), "--provider", "tensorrt"]) == 2
        assert capsys.readouterr().err.startswith("error: ")
        assert list(tmp_path.iterdir()) == []

    def test_an_unknown_ending(self, bundle, digits_folder, tmp_path, capsys):
        assert classify(bundle, digits_folder / "val" / "0", tmp_path / "r.xlsx") == 2
        assert "ends in .parquet, .csv, .jsonl" in capsys.readouterr().err


def test_interrupted(bundle, digits_folder, tmp_path, monkeypatch, capsys):
    """Ctrl-C keeps what is done, and says how to go on."""
    from runtimes.batch_inference import run as classify_run

    def interrupt(folder, part, rows):
        if part.number == 2:
            raise KeyboardInterrupt
        write(folder, part, rows)

    write = classify_run.write_part
    monkeypatch.setattr(classify_run, "write_part", interrupt)
    assert classify(bundle, digits_folder / "val", tmp_path / "r.csv") == 130
    assert "--resume goes on with it" in capsys.readouterr().err
    monkeypatch.setattr(classify_run, "write_part", write)
    assert classify(bundle, digits_folder / "val", tmp_path / "r.csv", "--resume") == 0
    assert "64 images had been done by an interrupted run" in capsys.readouterr().err
    assert len(read_csv(tmp_path / "r.csv")) == 360


def test_neither_torch_nor_onnx_is_needed(bundle, digits_folder, tmp_path):
    blocked = "; ".join(f"sys.modules[{name!r}] = None" for name in ("torch", "torchvision", "onnx", "pyarrow", "ray"))
    words = ["--bundle", bundle, "--input", digits_folder / "val" / "0", "--output", tmp_path / "r.csv", "--quiet"]
    code = f"import sys; {blocked}; {COMMAND}"
    done = subprocess.run(
        [sys.executable, "-c", code, "classify", *map(str, words), "--provider", "cpu"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert len(read_csv(tmp_path / "r.csv")) == 36
