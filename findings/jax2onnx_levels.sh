#!/usr/bin/env bash
# Versions: jax2onnx 0.17.1, jax 0.10.2 (CPU), onnx 1.23.2 (its reference evaluator beside it), onnxruntime 1.32.0 (CPU), NumPy
#        2.4.6; Python 3.11, x86-64.
# Guess: a quantizer written in JAX (lax.round(x / step).astype(int8)) answers in the exported file as in JAX, or is refused,
#        as interior padding and a pool that does not begin at its identity are.
# Seen:  lax.round rounds halves away from zero unless it is asked for something else; the file has ONNX's Round, halves to
#        even, for either: pictures at steps of a half are one level off at every second value. JAX's astype saturates; the file
#        has a bare Cast, which ONNX leaves undefined beyond the range and ONNX Runtime wraps: 300 becomes 44. A
#        dynamic_slice is moved back into the picture by JAX, and cut smaller in the file: a crop of 4 x 4 at a box near the
#        border has 2 x 2 (ONNX Runtime then logs a shape that does not match). Exporting says nothing of any.
# Output seen: "0.5 1.5 2.5: JAX 1 2 3, file 0 2 2; int8 of 300 -300: JAX 127 -128, file 44 -44; crop at 6 of 8: JAX 4 x 4, file 2 x 2"
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check jax2onnx==0.17.1 jax==0.10.2 jaxlib==0.10.2 onnx==1.23.2 \
    onnxruntime==1.32.0 numpy==2.4.6 flax==0.12.8 equinox==0.13.8
JAX_PLATFORMS=cpu "$folder/venv/bin/python" - <<'PYTHON'
from collections.abc import Callable

import jax
import numpy as np
import onnx
import onnxruntime
from jax import lax
from jax import numpy as jnp
from jax2onnx import to_onnx
from onnx.reference import ReferenceEvaluator

onnxruntime.set_default_logger_severity(4)


def jax_and_file(function: Callable, *inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray, onnx.ModelProto]:
    model = to_onnx(function, [value.shape for value in inputs])
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    named = {entry.name: value for entry, value in zip(session.get_inputs(), inputs, strict=True)}
    return np.asarray(jax.jit(function)(*inputs)), session.run(None, named)[0], model


def words(values: np.ndarray) -> str:
    return " ".join(f"{value:g}" for value in values)


halves = np.array([0.5, 1.5, 2.5], np.float32)
rounded = jax_and_file(lax.round, halves)
evaluator = ReferenceEvaluator(rounded[2])
assert (evaluator.run(None, {evaluator.input_names[0]: halves})[0] == rounded[1]).all()
large = np.array([300.0, -300.0], np.float32)
cast = jax_and_file(lambda x: x.astype(jnp.int8).astype(jnp.float32), large)
picture = np.arange(64, dtype=np.float32).reshape(8, 8)
corner = np.array([6, 6], np.float32)


def crop(x: jax.Array, at: jax.Array) -> jax.Array:
    return lax.dynamic_slice(x, (at[0].astype(jnp.int32), at[1].astype(jnp.int32)), (4, 4))


crops = jax_and_file(crop, picture, corner)
sizes = [" x ".join(map(str, value.shape)) for value in crops[:2]]
print(
    f"{words(halves)}: JAX {words(rounded[0])}, file {words(rounded[1])}; int8 of {words(large)}: JAX {words(cast[0])}, file "
    f"{words(cast[1])}; crop at 6 of 8: JAX {sizes[0]}, file {sizes[1]}"
)
assert list(rounded[0]) == [1, 2, 3] and list(rounded[1]) == [0, 2, 2], "the rounding changed"
assert list(cast[0]) == [127, -128] and list(cast[1]) == [44, -44], "the cast changed"
assert sizes == ["4 x 4", "2 x 2"], "the crop changed"
inside = jax_and_file(crop, picture, corner - 3)
assert (inside[0] == inside[1]).all(), "inside the picture both are alike"
PYTHON
