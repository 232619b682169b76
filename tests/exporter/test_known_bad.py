"""Every combination by its versions, beside neighbors that are well; and the main job, which does not start."""

import re
from importlib import metadata
from pathlib import Path

import pytest

from exporter import known_bad
from exporter.known_bad import (
    KNOWN_BAD,
    TORCH_OF_TORCHVISION,
    installed_versions,
    known_bad_among,
    refuse_known_bad,
)
from resnet_export.main import main
from runtimes.machine.version_numbers import version_numbers

GOOD = {"torch": "2.15.0", "torchvision": "0.29.2", "onnx": "1.23.2", "onnxruntime-gpu": "1.31.1", "numpy": "2.4.6"}
CASES = {
    "torch 2.9": ({"torch": "2.9.1"}, {"torch": "2.10.0"}),
    "torch without CUDA (+cpu) with torchvision of PyPI": (
        {"torch": "2.13.0+cpu", "torchvision": "0.28.0"},
        {"torch": "2.13.0+cpu", "torchvision": "0.28.0+cpu"},
    ),
    "torchvision made for another torch": ({TORCH_OF_TORCHVISION: "2.14.0"}, {TORCH_OF_TORCHVISION: "2.15.0"}),
    "onnx below 1.22": ({"onnx": "1.21.0"}, {"onnx": "1.22.0"}),
    "onnxruntime and onnxruntime-gpu in different versions": ({"onnxruntime": "1.32.0"}, {"onnxruntime": "1.31.1"}),
    "NumPy 2 with onnxruntime below 1.19": (
        {"onnxruntime": "1.18.1", "onnxruntime-gpu": "1.18.1"},
        {"onnxruntime": "1.18.1", "onnxruntime-gpu": "1.18.1", "numpy": "1.26.4"},
    ),
    "onnxruntime below 1.30": ({"onnxruntime-gpu": "1.29.0"}, {"onnxruntime-gpu": "1.30.0"}),
}


def test_every_combination_has_a_case():
    assert list(CASES) == [one.name for one in KNOWN_BAD]
    assert all(one.source and one.remedy for one in KNOWN_BAD)


@pytest.mark.parametrize("name", CASES)
def test_bad_and_its_good_neighbour(name):
    bad, good = ({**GOOD, **changes} for changes in CASES[name])
    assert name in [one.name for one in known_bad_among(bad)]
    assert name not in [one.name for one in known_bad_among(good)]


def test_nothing_installed_and_what_the_tests_run_with_are_not_known_bad():
    assert known_bad_among({}) == known_bad_among(GOOD) == ()
    installed = installed_versions()
    assert installed["torch"] == metadata.version("torch")
    refuse_known_bad()


def test_lower_bounds_of_the_project_are_not_known_bad():
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    bounds = dict(re.findall(r'"(torch|torchvision|onnx|onnxruntime-gpu)>=([\d.]+)', text))
    assert len(bounds) == 4
    assert known_bad_among(bounds) == ()


def test_pin_of_torchvision_is_read(monkeypatch):
    monkeypatch.setattr(metadata, "requires", lambda name: ["numpy", "torch (==2.13.0)", "gdown>=4 ; extra == 'gdown'"])
    assert installed_versions()[TORCH_OF_TORCHVISION] == "2.13.0"
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch>=2.14"])
    assert TORCH_OF_TORCHVISION not in installed_versions()


@pytest.mark.parametrize(
    ("version", "numbers"),
    [
        ("2.13.0+cpu", (2, 13, 0)),
        ("1.23rc1", (1, 23)),
        ("10.3.0.30-1+cuda12.5", (10, 3, 0, 30)),
        ("", (0,)),
        ("dev", (0,)),
    ],
)
def test_version_numbers(version, numbers):
    assert version_numbers(version) == numbers


def test_the_main_job_does_not_start(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(known_bad, "installed_versions", lambda: {**GOOD, "torch": "2.9.1", "onnx": "1.20.0"})
    assert main(["resnet18", "--weights", "random", "-o", str(tmp_path / "out")]) == 2
    told = capsys.readouterr().err
    assert "torch 2.9.1" in told
    assert "- torch 2.9: its ONNX exporter wrote a ResNet-18 with 0 % top-1" in told
    assert '  pip install "onnx>=1.22"' in told
    assert not (tmp_path / "out").exists()
