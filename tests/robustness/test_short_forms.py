"""The robustness scripts in short: the same checks with small counts. `make robustness` runs the long forms."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUNDLE = ROOT / "tests" / "data" / "bundle-schema-1"
SEED = 1
COUNT = 30


@pytest.fixture(autouse=True)
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(HERE))
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "digits"))


KINDS = [
    "onnx",
    "onnxruntime",
    "gates",
    "sidecar",
    "manifest",
    "calibration",
    "cache",
    "golden",
    "safetensors",
    "pth",
    "pth_old",
    "jpeg",
    "png",
]


def test_every_kind_is_attacked():
    from hostile_kinds import KINDS as every

    assert list(every) == KINDS


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore")
def test_hostile_files_are_read_or_refused_by_name(name, tmp_path):
    from hostile_kinds import CANARY, KINDS, hostile

    from calibration.errors import CalibrationError
    from exporter.errors import ExportError
    from runtimes.errors import RuntimeAdapterError

    kind = KINDS[name](BUNDLE, tmp_path)
    for number in range(COUNT):
        if number < len(kind.hand_made) and callable(kind.hand_made[number]):
            continue  # bombs of gigabytes: in the long form
        path = hostile(kind, tmp_path, number, SEED)
        with contextlib.suppress(CalibrationError, ExportError, RuntimeAdapterError):
            kind.read(path)
        assert not (tmp_path / CANARY).exists(), "code of the file ran"


def test_mutations_are_the_same_every_time(tmp_path):
    from hostile_kinds import KINDS, hostile

    kind = KINDS["gates"](BUNDLE, tmp_path)
    twice = [hostile(kind, tmp_path, number, SEED).read_bytes() for number in (9, 10, 9)]
    assert twice[0] == twice[2] != twice[1]


def test_hostile_pictures(tmp_path):
    from hostile_images import read_each, write_hostile
    from PIL import Image

    Image.new("RGB", (32, 32), (1, 2, 3)).save(tmp_path / "good.png")
    assert read_each(tmp_path / "x", *write_hostile(tmp_path / "x", tmp_path / "good.png")) == []


def test_many_files_and_links(tmp_path):
    from hostile_images import check_many

    assert check_many(tmp_path, 500, 500) == []


def test_soak(monkeypatch):
    import soak

    monkeypatch.setattr(soak, "MOST_GROWTH", 0.1)  # so few runs still fill the allocator
    before = threading.active_count()
    assert soak.infer(BUNDLE / "model.onnx", 4400, 4, size=16)[1] == []
    assert soak.open_and_close(BUNDLE / "model.onnx", 110, size=16)[1] == []
    assert threading.active_count() == before


FORKED = """
import random, sys, tempfile
from pathlib import Path
import bad_disks, forked_runs, kill_anytime, two_at_once
forked_runs.use_small_model()
forked_runs.import_everything()
with tempfile.TemporaryDirectory() as name:
    work = Path(name)
    forked_runs.few_of(Path(sys.argv[1]), work / "digits")
    failures = kill_anytime.kill_main_job(work, 2, random.Random(1))[1]
    failures += two_at_once.main_jobs(work, 1)
    if len(sys.argv) > 2:
        failures += kill_anytime.kill_build(work, 2, random.Random(1))[1]
        for path in (work / "out" / "bundle").glob("*.engine*"):
            path.unlink()
    cases = bad_disks.Cases(work)
    try:
        bad_disks.full_disk(cases, [*cases.export, "--calib-cache", "off"], work / "out" / "bundle", work / "log")
        bad_disks.full_output(cases, [], work / "log")
    finally:
        cases.unmount()
    failures += cases.failures
print(failures)
"""


@pytest.mark.slow
def test_killed_terminated_at_once_and_on_full_disks(digits_folder):
    """One process imports torch; every run is a fork of it."""
    from importlib.util import find_spec

    rtx = ["rtx"] if find_spec("tensorrt_rtx") else []
    words = [sys.executable, "-c", FORKED, str(digits_folder), *rtx]
    path = f"{HERE}:{ROOT}"
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr[-2000:]


def test_the_document_has_the_markers():
    from run_all import BEGIN, DOCUMENT, END, RESULT

    text = DOCUMENT.read_text(encoding="utf-8")
    assert text.count(BEGIN) == text.count(END) == 1
    found = RESULT.fullmatch("killed main job: 12 times, 0 failures, 98 s: 8 none, 4 whole")
    assert found is not None
    assert (found["what"], found["count"], found["bad"]) == ("killed main job", "12", "0")
    assert found["detail"] == "8 none, 4 whole"
    assert shutil.which("make") is None or "run_all.py" in (ROOT / "Makefile").read_text()
