"""Arguments of another kind than their annotation says are told by name, before anything runs."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest

import resnet_export as rx
from runtimes.argument_kinds import StrPath, checked_kinds


@checked_kinds
def verb(*several: StrPath, flag: bool = False, name: str | None = None, names: str | tuple = (), x: int = 0, **more):
    """Return what was given."""
    return several, flag, name, names, x, more


def test_what_fits_goes_through_unchanged():
    assert verb("a", Path("b"), flag=True, names=3, x=5, more=4) == (
        ("a", Path("b")), True, None, 3, 5, {"more": 4},
    )  # fmt: skip
    assert inspect.signature(verb).parameters["flag"].default is False
    assert verb.__doc__ == "Return what was given."


def test_numpy_raises_nothing_whatever_the_caller_told_it():
    with np.errstate(all="raise"):
        assert checked_kinds(lambda: np.float32([1e-30]).astype(np.float16))().tolist() == [0]
        assert np.geterr()["under"] == "raise"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: verb("a", 3), "several: got 3, expected a text or path"),
        (lambda: verb(flag="no"), "flag: got 'no', expected True or False"),
        (lambda: verb(flag=None), "flag: got None, expected True or False"),
        (lambda: verb(name=b"x"), "name: got b'x', expected a text"),
        (lambda: rx.load("b", allow_fallback="no"), "allow_fallback: got 'no', expected True or False"),
        (lambda: rx.load("b", file=3), "file: got 3, expected a text"),
        (lambda: rx.load("b", public_key=3), "public_key: got 3, expected a text or path"),
        (lambda: rx.verify("b", bisect="x"), "bisect: got 'x', expected True or False"),
        (lambda: rx.verify("b", precision=3), "precision: got 3, expected a text or a list of names"),
        (lambda: rx.verify("b", on_event=3), "on_event: got 3, expected a function of an event"),
        (lambda: rx.build("b", precision=["int8"]), r"precision: got \['int8'\], expected a text"),
        (lambda: rx.build("b", rtx="x"), "rtx: got 'x', expected True or False"),
        (lambda: rx.models(3), "family: got 3, expected a text"),
        (lambda: rx.lint(3), "model: got 3, expected a text or path"),
        (lambda: rx.export("resnet18", keep_float="layer1"), "keep_float: got 'layer1', expected a list of names"),
        (lambda: rx.export("resnet18", labels=3), "labels: got 3, expected a text or path or a list of names"),
        (lambda: rx.triton("b", "o", precisions="int8"), "precisions: got 'int8', expected a list of names"),
        (lambda: rx.classify("b", "i", "o", resume="no"), "resume: got 'no', expected True or False"),
        (lambda: rx.bench("b", 3), "models: got 3, expected a text or path"),
    ],
)
def test_what_does_not_is_named(call, words):
    with pytest.raises(TypeError, match=words):
        call()


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: rx.deepstream("b", "o", batch=0), ValueError, "batch: got 0, expected a whole number >= 1"),
        (lambda: rx.deepstream("b", "o", batch=True), TypeError, "batch: got True, expected a whole number >= 1"),
        (lambda: rx.deepstream("b", "o", threshold="x"), TypeError, "threshold: got 'x', expected a number"),
        (lambda: rx.deepstream("b", "o", threshold=2), ValueError, "threshold: got 2, expected a probability"),
        (lambda: rx.triton("b", "o", instances=0), ValueError, "instances: got 0, expected a whole number >= 1"),
        (lambda: rx.triton("b", "o", gpus="0"), TypeError, "gpus: got '0', expected whole numbers >= 0"),
        (lambda: rx.triton("b", "o", gpus=(-1,)), TypeError, r"gpus: got \(-1,\), expected whole numbers >= 0"),
        (lambda: rx.classify("b", "i", "o", top_k="3"), TypeError, "top_k: got '3', expected a whole number >= 1"),
        (lambda: rx.classify("b", "i", "o", workers=0), ValueError, "workers: got 0, expected a whole number >= 1"),
        (lambda: rx.bench("b", rounds=0), ValueError, "rounds: got 0, expected a whole number >= 1"),
        (lambda: rx.bench("b", seconds="x"), TypeError, "seconds: got 'x', expected a number"),
        (lambda: rx.verify("b", num_classes="x"), TypeError, "num_classes: got 'x', expected a whole number >= 1"),
    ],
)
def test_numbers(call, error, words):
    with pytest.raises(error, match=words):
        call()
