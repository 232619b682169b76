"""A bundle as a web service: pictures of many clients, gathered into batches.

    pip install "resnet-export[serve]"
    BUNDLE=resnet50-int8 uvicorn app:app --app-dir examples/serve
    curl --data-binary @cat.jpg http://localhost:8000/classify

Under /v2 it answers KServe's v2 protocol in JSON (kserve.py), so that Triton's HTTP clients find the same model here;
it is called as the bundle's folder, or as $MODEL_NAME.

Preparation runs in FastAPI's own threads, so that many pictures are decoded at once; one thread of the batcher runs the
model. A full queue answers 503 at once: a client that waits for ever is worse than one that tries again.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.concurrency import run_in_threadpool

from runtimes import load
from runtimes.errors import ImageReadError, QueueFullError

sys.path.insert(0, str(Path(__file__).parent))
from kserve import router

MAX_BYTES = 20_000_000


@asynccontextmanager
async def open_model(app: FastAPI) -> AsyncIterator[None]:
    """Open the model in the process that serves, never before a fork; close it when the server stops."""
    with (
        load(os.environ["BUNDLE"], provider=os.environ.get("PROVIDER", "auto")) as model,
        model.batcher(max_batch=8, max_wait_ms=2.0, max_queue=64) as batcher,
    ):
        if not model.is_classifier:
            raise RuntimeError(f"{os.environ['BUNDLE']}: its model gives no classes; /classify could not answer")
        app.state.model, app.state.batcher = model, batcher
        app.state.name = os.environ.get("MODEL_NAME") or Path(os.environ["BUNDLE"]).resolve().name
        yield


app = FastAPI(lifespan=open_model)
app.include_router(router)


@app.get("/")
def describe() -> dict[str, Any]:
    """Say what really runs."""
    return app.state.model.describe().to_json()


@app.post("/classify")
async def classify(request: Request) -> dict[str, Any]:
    """Classify one picture, the body of the request."""
    content = await request.body()
    if len(content) > MAX_BYTES:
        raise HTTPException(413, f"got {len(content)} bytes, expected at most {MAX_BYTES}")
    model = app.state.model
    try:
        inputs = await run_in_threadpool(model.prepare, [content])
        outputs = await app.state.batcher.run_async(inputs)
    except ImageReadError as err:
        raise HTTPException(400, str(err)) from err
    except QueueFullError as err:
        raise HTTPException(503, str(err), headers={"Retry-After": "1"}) from err
    (answer,) = model.classes(outputs)
    return {"top": [{"label": scored.label, "probability": scored.probability} for scored in answer.top]}
