"""An interrupt that a library swallows still ends the run."""

import contextlib
import os
import signal

import numpy as np
import pytest

import resnet_export.main
from resnet_export.console import interrupt
from resnet_export.console.terminal import Terminal
from resnet_export.main import main


@pytest.fixture(autouse=True)
def _handlers_as_before():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)
    interrupt._Request.pending = False


def command(monkeypatch, work):
    monkeypatch.setattr("resnet_export.doctor_job.command.run", lambda words: work() or 0)
    return main(["doctor"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_swallowed_by_a_library(monkeypatch, capsys, number):
    reached = []

    def work():
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            reached.append("the library goes on")
        Terminal(quiet=True).done("the next step")
        reached.append("never here")

    assert command(monkeypatch, work) == resnet_export.main.EXIT_INTERRUPTED
    assert reached == ["the library goes on"]
    assert "interrupted" in capsys.readouterr().err


def test_while_the_first_modules_are_imported(monkeypatch, capsys):
    def importing(words):
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(resnet_export.main, "_guarded", importing)
    assert main(["doctor"]) == resnet_export.main.EXIT_INTERRUPTED
    assert "interrupted; nothing unfinished was left behind" in capsys.readouterr().err


def test_turned_into_another_error(monkeypatch, capsys):
    def work():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt as err:
            raise RuntimeError("tracing failed") from err

    assert command(monkeypatch, work) == resnet_export.main.EXIT_INTERRUPTED
    assert "internal error" not in capsys.readouterr().err


def test_too_little_memory_is_no_defect(monkeypatch, capsys):
    assert command(monkeypatch, lambda: np.zeros((10**7, 3, 2048, 2048))) == resnet_export.main.EXIT_BAD_INPUT
    assert "error: not enough memory: Unable to allocate" in capsys.readouterr().err


def test_between_the_batches_of_a_step(monkeypatch):
    seen = []

    def work():
        for batch in Terminal(quiet=True).track("calibrating", range(3), total=3):
            seen.append(batch)
            with contextlib.suppress(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGINT)

    assert command(monkeypatch, work) == resnet_export.main.EXIT_INTERRUPTED
    assert seen == [0]


def test_an_earlier_request_is_forgotten(monkeypatch):
    interrupt._Request.pending = True
    assert command(monkeypatch, lambda: Terminal(quiet=True).done("a step")) == 0
