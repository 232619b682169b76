"""The quickstart and the service of `examples/`, run as their first lines say."""

from __future__ import annotations

import importlib.util
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import skimage.data
from PIL import Image
from small_bundle import small_network, write_bundle

from runtimes import load
from runtimes.errors import QueueFullError
from runtimes.inference.model import Model

ROOT = Path(__file__).parents[2]


def module_of(file: str):
    spec = importlib.util.spec_from_file_location(Path(file).stem, ROOT / file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def bundle(tmp_path_factory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("examples") / "small", {"fp32": small_network()})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    paths = []
    for name in ("chelsea", "coffee", "rocket"):
        paths.append(folder / f"{name}.jpg")
        Image.fromarray(getattr(skimage.data, name)()).save(paths[-1])
    return paths


def test_quickstart(bundle, pictures):
    command = [sys.executable, "examples/quickstart.py", str(bundle), *map(str, pictures), "--provider", "cpu"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    with load(bundle, provider="cpu") as model:
        expected = [f"{path}: {model.classify(path)}" for path in pictures]
    assert [line.partition(" (then")[0] for line in done.stdout.splitlines()] == expected
    assert "CPUExecutionProvider" in done.stderr


class TestServe:
    @pytest.fixture
    def client(self, bundle, monkeypatch):
        pytest.importorskip("fastapi", reason="FastAPI is not installed")
        testclient = pytest.importorskip("fastapi.testclient", reason="httpx is not installed")
        monkeypatch.setenv("BUNDLE", str(bundle))
        monkeypatch.setenv("PROVIDER", "cpu")
        module = module_of("examples/serve/app.py")
        with testclient.TestClient(module.app) as client:
            client.module = module
            yield client

    def test_a_model_without_classes_is_refused_at_the_start(self, bundle, monkeypatch):
        testclient = pytest.importorskip("fastapi.testclient", reason="FastAPI or httpx is not installed")
        monkeypatch.setenv("BUNDLE", str(bundle))
        monkeypatch.setenv("PROVIDER", "cpu")
        monkeypatch.setattr(Model, "is_classifier", False)
        with (
            pytest.raises(RuntimeError, match="gives no classes"),
            testclient.TestClient(module_of("examples/serve/app.py").app),
        ):
            pass

    def test_many_clients_get_their_own_answers(self, client, bundle, pictures):
        with load(bundle, provider="cpu") as model:
            expected = [model.classify(path) for path in pictures]
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(lambda path: client.post("/classify", content=path.read_bytes()), pictures * 8))
        for place, reply in enumerate(replies):
            assert reply.status_code == 200, reply.text
            top, answer = reply.json()["top"], expected[place % len(pictures)]
            assert [entry["label"] for entry in top] == [scored.label for scored in answer.top]
            assert top[0]["probability"] == pytest.approx(answer.probability, abs=1e-5)
        assert client.module.app.state.batcher.statistics.num_requests == len(replies)

    def test_what_runs(self, client):
        told = client.get("/").json()
        assert told["provider"] == "CPUExecutionProvider"

    def test_a_picture_that_is_none(self, client):
        reply = client.post("/classify", content=b"no image")
        assert reply.status_code == 400
        assert "it is not an image" in reply.json()["detail"]

    def test_a_full_queue(self, client, pictures, monkeypatch):
        async def full(inputs):
            raise QueueFullError("64 requests wait already")

        monkeypatch.setattr(client.module.app.state.batcher, "run_async", full)
        reply = client.post("/classify", content=pictures[0].read_bytes())
        assert reply.status_code == 503
        assert reply.headers["Retry-After"] == "1"

    def test_too_much(self, client, monkeypatch):
        monkeypatch.setattr(client.module, "MAX_BYTES", 10)
        assert client.post("/classify", content=io.BytesIO(bytes(11)).read()).status_code == 413

    def test_it_closes_with_the_server(self, client, pictures):
        from runtimes.errors import ModelClosedError

        client.__exit__(None, None, None)
        try:
            with pytest.raises(ModelClosedError):
                client.module.app.state.model.classify(pictures[0])
        finally:
            client.__enter__()
