import sys
from pathlib import Path

import pytest

from runtimes.errors import MissingDependencyError
from runtimes.verification.gate_options import GateOptionError, read_gates
from runtimes.verification.gates import DEFAULT_GATES

ROOT = Path(__file__).parents[3]


def thresholds(choice, precision):
    return {gate.name: gate.threshold for gate in choice.gates_for(precision)}


def test_without_words_the_defaults_hold():
    for precision, gates in DEFAULT_GATES.items():
        assert thresholds(read_gates([]), precision) == dict(gates)


def test_words_add_change_and_take_away():
    choice = read_gates(["agreement=0.98", "int8.sqnr_db=25", "int8.top1_drop_pp=off", "kl=0.01"])
    assert thresholds(choice, "int8") == {"sqnr_db": 25.0, "agreement": 0.98, "kl": 0.01}
    assert thresholds(choice, "fp16") == {"sqnr_db": 40.0, "agreement": 0.98, "kl": 0.01}
    assert {gate.name: gate.asked for gate in choice.gates_for("fp16")} == {
        "sqnr_db": False,
        "agreement": True,
        "kl": True,
    }


def test_a_file_and_words_after_it(tmp_path):
    path = tmp_path / "gates.toml"
    path.write_text("agreement = 0.97\n[int8]\nsqnr_db = 22\ntop1_drop_pp = false\n", encoding="utf-8")
    choice = read_gates([str(path), "int8.sqnr_db=23"])
    assert thresholds(choice, "int8") == {"sqnr_db": 23.0, "agreement": 0.97}
    assert thresholds(choice, "fp32") == {"relative_max_diff": 1e-4, "agreement": 0.97}


def test_the_example_file_holds_the_defaults():
    choice = read_gates([str(ROOT / "examples" / "ci" / "gates.toml")])
    for precision, gates in DEFAULT_GATES.items():
        assert thresholds(choice, precision) == dict(gates)


@pytest.mark.parametrize(
    ("word", "problem"),
    [
        ("nonsense=1", "unknown gate 'nonsense'"),
        ("bf16.kl=1", "precision 'bf16'"),
        ("agreement=98", "from 0 to 1"),
        ("agreement=high", "a number or off"),
        ("sqnr_db=inf", "sqnr_db: got inf, expected a finite number"),
        ("kl=-1", "expected a number from 0 on"),
        ("missing.toml", "can be read"),
    ],
)
def test_words_that_are_no_gate(word, problem):
    with pytest.raises(GateOptionError, match=problem):
        read_gates([word])


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("[int9]\nkl = 1", r"table \[int9\]"),
        ("[int8]\nkll = 1", "unknown gate 'kll'"),
        ("kl = true", "a number or off"),
        ("kl = ", "not TOML"),
    ],
)
def test_files_that_hold_no_gates(tmp_path, text, problem):
    path = tmp_path / "gates.toml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(GateOptionError, match=problem):
        read_gates([str(path)])


@pytest.mark.parametrize("words", [["fp16.agreement=0.5"], ["fp16.agreement=off", "kl=1", "fp16.kl=1"]])
def test_a_word_that_nobody_would_judge_is_refused(words):
    """It passed: of a bundle exported without --fp16, the gate of FP16 held."""
    choice = read_gates(words)
    with pytest.raises(
        GateOptionError, match=r"--gate fp16\..*: no file of that precision is judged, only fp32, int8;"
    ):
        choice.gates_of_files(["fp32", "int8"])
    assert [len(gates) for gates in choice.gates_of_files(["fp16"])] == [len(choice.gates_for("fp16"))]


def test_words_that_take_away_and_files_may_be_about_more(tmp_path):
    path = tmp_path / "gates.toml"
    path.write_text("[fp16]\nsqnr_db = 22\n", encoding="utf-8")
    choice = read_gates([str(path), "fp16.agreement=off", "int8.kl=1"])
    assert len(choice.gates_of_files(["fp32", "int8-fp16"])) == 2, "a word about int8 is about int8-fp16"


def test_taking_every_gate_away_is_refused():
    choice = read_gates(["fp32.relative_max_diff=off"])
    with pytest.raises(GateOptionError, match="every gate of fp32 is off"):
        choice.gates_for("fp32")


def test_without_a_toml_reader_files_are_refused_and_words_work(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "tomllib", None)
    monkeypatch.setitem(sys.modules, "tomli", None)
    path = tmp_path / "gates.toml"
    path.write_text("kl = 1", encoding="utf-8")
    with pytest.raises(MissingDependencyError, match="tomli"):
        read_gates([str(path)])
    assert thresholds(read_gates(["kl=1"]), "fp32")["kl"] == 1.0
