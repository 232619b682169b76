import json
import subprocess
import sys
from pathlib import Path

import pytest

from exporter.models.model_names import FAMILIES, MODEL_NAMES
from resnet_export.main import main

ROOT = Path(__file__).parents[3]


def test_every_model_is_listed_under_its_family(capsys):
    assert main(["models"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if line.startswith("  ") and line[2] != " "] == list(
        MODEL_NAMES
    )
    assert all(f"\n{family.name}: " in out for family in FAMILIES.values())
    assert "  resnet50             25,557,032   4.09 G 224x224  76.13 V1, 80.86 V2\n" in out


def test_one_family(capsys):
    assert main(["models", "--family", "plain"]) == 0
    out = capsys.readouterr().out
    assert "plain18" in out
    assert "resnet18" not in out


def test_json(capsys):
    assert main(["models", "--family", "preact_resnet", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(next(f for f in FAMILIES.values() if f.name == "preact_resnet").models)
    assert rows[0] == {
        "name": "preact_resnet18",
        "family": "preact_resnet",
        "source": "resnet-export",
        "parameters": 11_687_720,
        "macs": 1_814_073_344,
        "input_size": [224, 224],
        "top1": {},
    }


def test_unknown_family(capsys):
    assert main(["models", "--family", "resnetx"]) == 2
    assert "unknown family 'resnetx'; did you mean" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["models"], ["models", "--help"], ["--help"]])
def test_no_framework_is_imported(words):
    script = f"""
import sys
from resnet_export.main import main
try:
    main({words!r})
except SystemExit as done:
    assert done.code == 0
heavy = [name for name in ("torch", "torchvision", "timm", "onnx", "onnxruntime", "rich") if name in sys.modules]
assert heavy == [], heavy
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "resnet" in done.stdout


def test_help_names_families_and_not_models(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    out = " ".join(capsys.readouterr().out.split())
    assert all(family.name in out for family in FAMILIES.values())
    assert "resnext101_64x4d" not in out


@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_stream_that_the_parent_closed(monkeypatch, name):
    """Python then has None for it, as under `>&-` and some daemons."""
    monkeypatch.setattr(sys, name, None)
    assert main(["models", "--family", "plain"]) == 0
    assert main(["models", "--family", "nothing"]) == 2
