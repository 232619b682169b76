"""`examples/serve` under KServe's v2 protocol, asked by Triton's own HTTP client over loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from small_bundle import CLASSES, SIZE, small_network, write_bundle

from runtimes import load

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return write_bundle(tmp_path_factory.mktemp("kserve") / "small", {"fp32": small_network()})


@contextmanager
def served(bundle):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "BUNDLE": str(bundle), "PROVIDER": "cpu", "PYTHONPATH": str(ROOT)}
    words = ["-m", "uvicorn", "app:app", "--app-dir", "examples/serve", "--port", str(port), "--log-level", "warning"]
    server = subprocess.Popen([sys.executable, *words], cwd=ROOT, env=environment)
    try:
        yield port
    finally:
        server.terminate()
        server.wait()


@pytest.fixture(scope="module")
def triton():
    pytest.importorskip("uvicorn", reason="uvicorn is not installed: [serve]")
    return pytest.importorskip("tritonclient.http", reason="tritonclient[http] is not installed", exc_type=Exception)


@pytest.fixture(scope="module")
def client(bundle, triton):
    with served(bundle) as port:
        client = triton.InferenceServerClient(f"127.0.0.1:{port}")
        begin = time.monotonic()
        while time.monotonic() - begin < 60:
            try:
                if client.is_server_live():
                    break
            except OSError:
                time.sleep(0.2)
        yield client
        client.close()


@pytest.fixture
def images():
    return np.random.default_rng(4).normal(size=(2, 3, SIZE, SIZE)).astype(np.float32)


def asked(triton, images, *, binary=False, name="input"):
    tensor = triton.InferInput(name, list(images.shape), "FP32")
    tensor.set_data_from_numpy(images, binary_data=binary)
    return [tensor]


def wanted(triton, name="logits", *, binary=False):
    return [triton.InferRequestedOutput(name, binary_data=binary)]


def test_answers_are_the_models(client, triton, bundle, images):
    got = client.infer("small", asked(triton, images), outputs=wanted(triton), request_id="seven")
    with load(bundle, provider="cpu") as model:
        expected = model.run({"input": images})["logits"]
    assert np.array_equal(got.as_numpy("logits"), expected)
    assert got.get_response()["id"] == "seven"


def test_it_is_ready_and_describes_itself(client):
    assert client.is_server_ready()
    assert client.is_model_ready("small")
    assert not client.is_model_ready("other")
    told = client.get_model_metadata("small")
    assert told["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 3, SIZE, SIZE]}]
    assert told["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, CLASSES]}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, x: (("other", asked(t, x)), {}), "this server has 'small'"),
        (lambda t, x: (("small", asked(t, x, name="pixels")), {"outputs": wanted(t)}), "'input' is missing"),
        (lambda t, x: (("small", asked(t, x[..., :7])), {"outputs": wanted(t)}), r"got float32 \[2, 3, 16, 7\]"),
        (lambda t, x: (("small", asked(t, x, binary=True)), {"outputs": wanted(t)}), "binary form, expected JSON"),
        (lambda t, x: (("small", asked(t, x)), {"outputs": wanted(t, binary=True)}), "asked for in the binary form"),
        (lambda t, x: (("small", asked(t, x)), {"outputs": wanted(t, "scores")}), "'scores' is not one of the model's"),
        (lambda t, x: (("small", asked(t, np.full_like(x, np.nan))), {"outputs": wanted(t)}), "not JSON: it holds NaN"),
        (lambda t, x: (("small", asked(t, np.full_like(x, -np.inf))), {"outputs": wanted(t)}), "holds -Infinity"),
        (
            lambda t, x: (("small", asked(t, np.full_like(x, 3e38))), {"outputs": wanted(t)}),
            "'logits' holds NaN or Inf",
        ),
    ],
)
def test_what_is_wrong_is_told(client, triton, images, change, message):
    arguments, options = change(triton, images)
    with pytest.raises(Exception, match=message):
        client.infer(*arguments, **options)
    assert client.infer("small", asked(triton, images), outputs=wanted(triton)).as_numpy("logits").shape == (2, CLASSES)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": [1]}, '"outputs": expected a list of objects'),
        ({"outputs": "logits"}, '"outputs": expected a list of objects'),
        ({"data": None}, "got no data"),
        ({"data": [1e39] * 3 * SIZE * SIZE}, "values that FP32 cannot hold"),
        ({"data": "picture"}, "its data are not FP32"),
        ({"shape": [1, 3, SIZE]}, "values for the shape"),
    ],
)
def test_no_body_is_answered_with_an_internal_error(client, bundle, change, message):
    """What no client of Triton's writes, sent as it is; the client's own pool sends it."""
    tensor = {"name": "input", "datatype": "FP32", "shape": [1, 3, SIZE, SIZE], "data": [0.0] * 3 * SIZE * SIZE}
    body = {"inputs": [{**tensor, **{key: value for key, value in change.items() if key in tensor}}]}
    body |= {key: value for key, value in change.items() if key not in tensor}
    answer = client._client_stub.post("/v2/models/small/infer", body=json.dumps(body))
    assert answer.status_code == 400
    assert message in json.loads(answer.read())["error"]
