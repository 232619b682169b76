"""KServe's v2 protocol over JSON, as Triton's HTTP endpoint speaks it: prepared inputs in, outputs out.

What Triton's clients ask of a server, answered by a loaded model: live, ready, metadata, infer. Tensors are JSON; the
binary extension is not spoken (`InferInput.set_data_from_numpy(..., binary_data=False)`).
Source: kserve/open-inference-protocol, specification/protocol/inference_rest.md; Triton's extension of error bodies.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from runtimes.errors import InputMismatchError, QueueFullError
from runtimes.protocol import TensorSpec

router = APIRouter(prefix="/v2")

DATATYPES = {
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    "int8": "INT8",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "bool": "BOOL",
}
_DTYPES = {word: dtype for dtype, word in DATATYPES.items()}


class BadRequestError(Exception):
    """What the client sent is not a request of this protocol; told with status 400."""


@router.get("/health/live")
@router.get("/health/ready")
def health() -> dict[str, bool]:
    """Say that the server runs; it starts only when its model is open."""
    return {"live": True, "ready": True}


@router.get("")
def server() -> dict[str, Any]:
    """Describe the server."""
    return {"name": "resnet-export", "version": "1", "extensions": []}


@router.get("/models/{name}/ready")
@router.get("/models/{name}/versions/{version}/ready")
def ready(request: Request, name: str) -> JSONResponse:
    """Say whether this is the model that is open."""
    known = name == request.app.state.name
    return JSONResponse({"name": name, "ready": known}, 200 if known else 404)


@router.get("/models/{name}")
@router.get("/models/{name}/versions/{version}")
def metadata(request: Request, name: str) -> JSONResponse:
    """Describe the model's inputs and outputs."""
    if (refusal := _unknown(request, name)) is not None:
        return refusal
    model = request.app.state.model
    return JSONResponse(
        {
            "name": name,
            "versions": ["1"],
            "platform": model.describe().runtime,
            "inputs": [_tensor(each, spec) for each, spec in model.input_specs.items()],
            "outputs": [_tensor(each, spec) for each, spec in model.output_specs.items()],
        }
    )


@router.post("/models/{name}/infer")
@router.post("/models/{name}/versions/{version}/infer")
async def infer(request: Request, name: str) -> JSONResponse:
    """Run prepared inputs; they join the batches of everybody else's."""
    if (refusal := _unknown(request, name)) is not None:
        return refusal
    state = request.app.state
    try:
        asked = await _json(request)
        inputs = {each["name"]: _array(each) for each in asked["inputs"]}
        wanted = _wanted(asked, state.model.output_specs)
        outputs = await state.batcher.run_async(inputs)
    except (BadRequestError, InputMismatchError) as err:
        return JSONResponse({"error": str(err)}, 400)
    except QueueFullError as err:
        return JSONResponse({"error": str(err)}, 503, {"Retry-After": "1"})
    if unusable := [each for each in wanted if not np.isfinite(outputs[each]).all()]:
        return JSONResponse({"error": f"output {unusable[0]!r} holds NaN or Inf, which JSON has not"}, 500)
    told = [
        {
            "name": each,
            "shape": list(outputs[each].shape),
            "datatype": DATATYPES[outputs[each].dtype.name],
            "data": outputs[each].ravel().tolist(),
        }
        for each in wanted
    ]
    answer = {"model_name": name, "model_version": "1", "outputs": told}
    return JSONResponse({**answer, "id": asked["id"]} if "id" in asked else answer)


async def _json(request: Request) -> dict[str, Any]:
    """Return the request's object.

    Raises:
        BadRequestError: If it is in the binary form, or no object with a list of inputs.
    """
    if "inference-header-content-length" in request.headers:
        raise BadRequestError(
            "got tensors in the binary form, expected JSON; set_data_from_numpy(..., binary_data=False)"
        )
    try:
        asked = json.loads(await request.body(), parse_constant=_no_json)
    except (ValueError, RecursionError) as err:
        raise BadRequestError(f"the request is not JSON: {err}") from err
    if not isinstance(asked, dict) or not isinstance(asked.get("inputs"), list):
        raise BadRequestError('expected a JSON object with a list "inputs"')
    if not all(isinstance(each, dict) and isinstance(each.get("name"), str) for each in asked["inputs"]):
        raise BadRequestError('each of "inputs": expected an object with a "name"')
    return asked


def _no_json(word: str) -> float:
    """Refuse NaN and Infinity, which Triton's client sends as they are, though JSON has no word for them."""
    raise ValueError(f"it holds {word}")


def _array(tensor: dict[str, Any]) -> np.ndarray:
    """Return one input as an array.

    Raises:
        BadRequestError: If its datatype is not known, or its data do not fill its shape.
    """
    datatype, shape, data = tensor.get("datatype"), tensor.get("shape"), tensor.get("data")
    if datatype not in _DTYPES:
        raise BadRequestError(
            f"input {tensor['name']!r}: got datatype {datatype!r}, expected one of {', '.join(_DTYPES)}"
        )
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise BadRequestError(f"input {tensor['name']!r}: got shape {shape!r}, expected a list of whole numbers")
    try:
        with np.errstate(over="ignore"):  # told below
            flat = np.asarray(data, _DTYPES[datatype]).ravel()
    except (TypeError, ValueError, OverflowError) as err:
        raise BadRequestError(f"input {tensor['name']!r}: its data are not {datatype}: {err}") from err
    if data is None or not np.isfinite(flat).all():
        raise BadRequestError(f"input {tensor['name']!r}: got no data, or values that {datatype} cannot hold")
    if flat.size != int(np.prod(shape)):
        raise BadRequestError(f"input {tensor['name']!r}: got {flat.size} values for the shape {shape}")
    return flat.reshape(shape)


def _wanted(asked: dict[str, Any], specs: Any) -> list[str]:
    """Return the names of the outputs that are asked for; all where none is.

    Raises:
        BadRequestError: If one is not the model's, or is asked for in the binary form.
    """
    outputs = asked.get("outputs") or []
    if not isinstance(outputs, list) or not all(isinstance(each, dict) for each in outputs):
        raise BadRequestError('"outputs": expected a list of objects')
    parameters = [each.get("parameters") for each in outputs]
    if any(isinstance(each, dict) and each.get("binary_data") for each in parameters):
        raise BadRequestError(
            "got an output asked for in the binary form; InferRequestedOutput(..., binary_data=False)"
        )
    names = [each.get("name") for each in outputs] or list(specs)
    if unknown := [each for each in names if each not in specs]:
        raise BadRequestError(f"output {unknown[0]!r} is not one of the model's: {sorted(specs)}")
    return names


def _tensor(name: str, spec: TensorSpec) -> dict[str, Any]:
    shape = [-1 if size is None else size for size in spec.shape]
    return {"name": name, "datatype": DATATYPES[spec.dtype], "shape": shape}


def _unknown(request: Request, name: str) -> JSONResponse | None:
    known = request.app.state.name
    if name == known:
        return None
    return JSONResponse({"error": f"got model {name!r}, this server has {known!r}"}, 404)
