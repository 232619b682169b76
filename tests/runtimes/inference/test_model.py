"""`Model`: async, close, fork, and bits that do not depend on who else is running."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from small_bundle import CLASSES, LABELS, PREPROCESSING, SIZE, small_models, write_bundle

from runtimes import load
from runtimes.errors import BundleError, ForkedProcessError, InputMismatchError, ModelClosedError, RuntimeAdapterError
from runtimes.inference.classification import Classification, Head, ScoredClass
from runtimes.inference.model import Model
from runtimes.inference.model_description import ModelDescription
from runtimes.metrics.answer_kind import AnswerKind
from runtimes.preprocessing.model_input import Preparation
from runtimes.protocol import TensorSpec
from runtimes.pytorch import TorchRuntime

ROOT = Path(__file__).parents[3]
INPUTS = {"input": np.random.default_rng(5).normal(size=(2, 3, SIZE, SIZE)).astype(np.float32)}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("model") / "small", small_models())


class SlowRuntime:
    """Gives ones, after somebody says so."""

    def __init__(self):
        self.input_specs = {"input": TensorSpec("float32", (None, 3, SIZE, SIZE))}
        self.output_specs = {"logits": TensorSpec("float32", (None, CLASSES))}
        self.started, self.go_on, self.closed = threading.Event(), threading.Event(), False

    def run(self, inputs):
        self.started.set()
        assert self.go_on.wait(20)
        assert not self.closed, "closed under a call that computes"
        return {"logits": np.ones((len(inputs["input"]), CLASSES), np.float32)}

    def close(self):
        self.closed = True


def described(runtime) -> ModelDescription:
    return ModelDescription(
        file="", precision=None, runtime="", provider="", node_providers={}, reason="", batch="any",
        inputs=runtime.input_specs, outputs=runtime.output_specs, threads=None, exact=False, may_saturate=False,
        notes=(), versions={},
    )  # fmt: skip


def test_any_runtime_can_be_a_model():
    """PyTorch too: the reference behind the same `classify`."""
    module = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, CLASSES)).eval()
    runtime = TorchRuntime(module)
    head = Head("logits", None, AnswerKind.LOGITS, LABELS)
    with Model(runtime, description=described(runtime), preparation=Preparation(PREPROCESSING), head=head) as model:
        answer = model.classify(np.full((32, 32, 3), 90, np.uint8), channels="RGB", top=CLASSES)
    assert {scored.label for scored in answer.top} == set(LABELS)
    assert sum(scored.probability for scored in answer.top) == pytest.approx(1)


@pytest.mark.parametrize("kind", [AnswerKind.PROBABILITIES, AnswerKind.INDEPENDENT])
@pytest.mark.parametrize("indices", [None, "indices"])
@pytest.mark.parametrize("scores", [[4.6, -0.3], [1.5, 0.2], [0.3, -0.2]])
def test_what_is_no_probability_is_never_told_as_one(kind, indices, scores):
    outputs = {"scores": np.array([[0.5, 0.5], scores], np.float32), "indices": np.array([[0, 1], [0, 1]])}
    with pytest.raises(RuntimeAdapterError, match="expected probabilities of 0 to 1"):
        Head("scores", indices, kind, None).classes(outputs)


def test_probabilities_may_be_rounded():
    """INT8's largest step may lie a little above 1."""
    (answer,) = Head("scores", None, AnswerKind.PROBABILITIES, None).classes({"scores": np.array([[1.004, -0.004]])})
    assert (answer.index, answer.probability) == (0, 1.004)


class TestAsync:
    def test_many_at_once_give_what_one_gives(self, bundle):
        async def all_of_them(model):
            return await asyncio.gather(*(model.run_async(INPUTS) for _ in range(20)))

        with load(bundle) as model:
            expected = model.run(INPUTS)["logits"]
            got = asyncio.run(all_of_them(model))
        assert all(np.array_equal(outputs["logits"], expected) for outputs in got)

    def test_the_event_loop_goes_on(self):
        runtime = SlowRuntime()

        async def both():
            running = asyncio.ensure_future(model.run_async(INPUTS))
            await asyncio.sleep(0)
            runtime.go_on.set()  # only reached if the loop is free
            return await running

        with Model(runtime, description=described(runtime)) as model:
            assert asyncio.run(both())["logits"].shape == (2, CLASSES)

    def test_errors_come_to_whom_awaits(self, bundle):
        async def wrong(model):
            with pytest.raises(InputMismatchError):
                await model.run_async({"input": np.zeros(3, np.float32)})
            with pytest.raises(InputMismatchError):
                await model.classify_async(np.zeros((2, 2), np.uint8), channels="RGB")
            model.close()
            with pytest.raises(ModelClosedError):
                await model.run_async(INPUTS)

        asyncio.run(wrong(load(bundle)))

    def test_close_in_the_event_loop_does_not_wait_for_itself(self):
        runtime = SlowRuntime()

        async def close_while_awaited():
            running = asyncio.ensure_future(model.run_async(INPUTS))
            await asyncio.to_thread(runtime.started.wait, 20)
            threading.Timer(0.05, runtime.go_on.set).start()
            model.close()
            return await running

        model = Model(runtime, description=described(runtime))
        assert (asyncio.run(close_while_awaited())["logits"] == 1).all()
        assert runtime.closed


class TestClose:
    def test_it_waits_for_what_computes(self):
        runtime = SlowRuntime()
        model = Model(runtime, description=described(runtime))
        results = []
        running = threading.Thread(target=lambda: results.append(model.run(INPUTS)))
        running.start()
        assert runtime.started.wait(20)
        closing = threading.Thread(target=model.close)
        closing.start()
        time.sleep(0.05)
        assert closing.is_alive()
        assert not runtime.closed
        with pytest.raises(ModelClosedError):
            model.run(INPUTS)
        runtime.go_on.set()
        running.join(20)
        closing.join(20)
        assert runtime.closed
        assert len(results) == 1

    def test_use_after_close(self, bundle):
        model = load(bundle)
        model.close()
        model.close()
        picture = np.zeros((8, 8, 3), np.uint8)
        for use in (lambda: model.run(INPUTS), lambda: model.classify(picture, channels="RGB"), model.batcher):
            with pytest.raises(ModelClosedError, match="load it again"):
                use()
        assert model.describe().precision == "fp32"

    def test_an_empty_list(self, bundle):
        with load(bundle) as model, pytest.raises(InputMismatchError, match="empty list"):
            model.classify([])
        with load(bundle) as model, pytest.raises(InputMismatchError, match="empty list"):
            model.prepare([])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
class TestFork:
    def in_a_child(self, bundle, work):
        """Load, run, fork, and do `work` in the child; return what it printed. A hang is ended after 30 s."""
        script = f"""
import os, sys, numpy as np
from runtimes import load
from runtimes.errors import ForkedProcessError
inputs = {{"input": np.zeros((1, 3, {SIZE}, {SIZE}), np.float32)}}
model = load({str(bundle)!r})
model.run(inputs)
batcher = model.batcher()
batcher.run(inputs)
child = os.fork()
if child == 0:
    {work}
else:
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    model.run(inputs)
    batcher.close()
    model.close()
    print("parent goes on", code)
"""
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def test_use_is_refused_and_close_and_exit_do_not_hang(self, bundle):
        told = self.in_a_child(
            bundle,
            """
    for use in (lambda: model.run(inputs), lambda: batcher.submit(inputs)):
        try:
            use()
        except ForkedProcessError as err:
            print(err, flush=True)
    model.close()
    batcher.close()
    del model, batcher
    os._exit(3)""",
        )
        assert told.count("load it in this process, or start processes with multiprocessing's 'spawn'") == 2
        assert "parent goes on 3" in told

    def test_a_child_can_load_its_own(self, bundle):
        told = self.in_a_child(
            bundle,
            f"""
    with load({str(bundle)!r}) as own:
        print("own", own.run(inputs)["logits"].shape, flush=True)
    os._exit(0)""",
        )
        assert "own (1, 5)" in told
        assert "parent goes on 0" in told


def test_a_forked_error_is_an_error_of_runtimes():
    from runtimes.errors import RuntimeAdapterError

    assert issubclass(ForkedProcessError, RuntimeAdapterError)


def test_a_file_that_is_neither_onnx_nor_an_engine_is_told_as_such(tmp_path):
    (tmp_path / "cat.png").write_text("no picture either")
    with pytest.raises(BundleError, match=r"cat\.png: expected an ONNX file, or an engine .* cat\.png\.json cannot be"):
        load(tmp_path / "cat.png")


def test_a_class_in_words() -> None:
    """Nobody knows the probability of a file that gives the best logits only (`--topk`)."""
    known, unknown = ScoredClass("cat", 3, 0.256, 4.25), ScoredClass("dog", 4, None, 3.5)
    assert (str(known), str(unknown)) == ("cat 25.6%", "dog")
    assert (str(Classification((known, unknown))), str(Classification((unknown,)))) == ("cat 25.6%", "dog")
