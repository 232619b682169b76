"""Does the file answer like the module it came from? Runs after every export; a failure stops it.

The folded ONNX model is compared with the *unfolded* PyTorch module, so that folding, tracing, tidying and opset
conversion are covered at once, on real images, at several batch sizes (a batch axis that silently became constant
fails here). Peers have shipped ResNets with 0 % top-1 for want of this check (pytorch/pytorch#169178). Frames that no
photograph looks like follow: black, white, of one color, noise, and zeros, where a quotient of features is 0 / 0 unless
every small constant is still there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from exporter.errors import ExportCheckError, NonFiniteTensorError
from exporter.graph.onnx_graph import tensor_shapes, with_outputs
from runtimes.errors import RuntimeAdapterError
from runtimes.protocol import Array, Runtime, outputs_of

BATCH_SIZES = (1, 2, 7)
MAX_RELATIVE_DIFFERENCE = 1e-4
"""Of the largest |logit|. Float32 sums of the same terms in another order differ by about 1e-6 of it on ResNets
(measured in tests/exporter/tracing/test_check_export.py); a wrong weight, axis or statistic differs by far more."""


ROUNDING_FACTOR = 2.0
"""Where more than that is lost, PyTorch in float64 decides: the file may be as far from it as float32 may bring any
computation of this network (`exporter.tracing.float32_rounding`), or this many times as far as PyTorch in float32 is. A
hundred layers whose logits nearly cancel lose 2e-4 of the largest to rounding, whoever computes."""


CHANCE = 0.01
"""Share of the largest |logit| from which on float32's own rounding is told as what it is: a network that answers by
chance, whoever computes it."""

RUNS_AWAY = (
    "this network blows rounding up on such pictures, as its activations run away there (statistics of BatchNorm that "
    "do not fit them). No two ways to compute it in float32 agree. Random weights do that; give trained ones"
)


ONE_COLOR = (
    "This frame has one color: a network that divides by how much its input or a map varies, as "
    "(x - mean) / (std + 1e-8) does, divides float32's rounding by almost nothing there, and every way to compute it "
    "gives other answers. Add more to what it divides by, such as 1e-3, or give sqrt(variance + 1e-5); a network that "
    "does not divide so has another fault, which only this frame shows"
)


@dataclass(frozen=True, slots=True, eq=False)
class ExactOutput:
    """One output of the reference in float64, and the largest |difference| from it that float32 is expected to make."""

    values: NDArray[np.float64]
    rounding: float


Exact = Callable[[NDArray[np.float32]], Sequence[ExactOutput]]
"""Images to the reference's outputs in float64."""

OpenRuntime = Callable[[ModelProto], Runtime]


@dataclass(frozen=True, slots=True)
class CheckReport:
    """Evidence of the check.

    Attributes:
        max_abs_diff: Largest |difference| over all batch sizes.
        max_rounding: Where float64 had to decide: the largest |difference| from it that was put down to float32.
        nonfinite: Hard inputs on which the reference itself gives NaN or Inf, in words.
    """

    batch_sizes: tuple[int, ...]
    num_images: int
    max_abs_diff: float
    max_abs_logit: float
    max_rounding: float | None = None
    nonfinite: tuple[str, ...] = ()

    @property
    def relative(self) -> float:
        """Largest difference as a share of the largest |logit|."""
        return self.max_abs_diff / self.max_abs_logit if self.max_abs_logit else self.max_abs_diff


def check_against_pytorch(
    reference: Runtime,
    model: ModelProto,
    images: NDArray[np.float32],
    *,
    open_runtime: OpenRuntime,
    reference_name: str = "PyTorch",
    exact: Exact | None = None,
    hard: Mapping[str, NDArray[np.float32]] | None = None,
) -> CheckReport:
    """Compare `model` with `reference` at batch 1, 2 and 7, output by output.

    Args:
        reference: The unfolded PyTorch module.
        model: The exported float32 model.
        images: Real inputs, float32 [n, 3, H, W]; repeated when fewer than a batch needs.
        open_runtime: Opens `model`.
        reference_name: What to call `reference` in messages.
        exact: Judges, where the difference is too large, whether it is float32's rounding; see `ROUNDING_FACTOR`.
        hard: In words, to inputs that are no photographs, float32 [n, 3, H, W]. Where the reference itself is not
            finite on them, nothing is compared, and the report names them.

    Raises:
        ExportCheckError: If the difference is too large, or ONNX alone gives NaN or Inf, with both numbers; or if
            ONNX does not run at all.
        NonFiniteTensorError: If PyTorch gives NaN or Inf on real images; the message names the first such tensor.
    """
    batches = {f"at batch {size}": np.resize(images, (size, *images.shape[1:])) for size in BATCH_SIZES}
    batches |= {f"on {name}": batch for name, batch in (hard or {}).items()}
    largest_diff = largest_logit = 0.0
    max_rounding: float | None = None
    nonfinite: list[str] = []
    of_photos: dict[int, float] = {}
    with open_runtime(model) as candidate:
        for where, batch in batches.items():
            wanted = outputs_in_order(reference, batch)
            if not all(np.isfinite(values).all() for values in wanted):
                if where.startswith("on "):
                    nonfinite.append(where.removeprefix("on "))
                    continue
                tensor = first_nonfinite_tensor(model, batch, open_runtime=open_runtime)
                whole = reference_name if reference_name.startswith("the ") else f"the {reference_name} model"
                raise NonFiniteTensorError(
                    f"{whole} itself gives NaN or Inf on real images, first in "
                    f"{tensor or 'its output'!r}; check the weights and the preprocessing"
                )
            for place, (expected, got) in enumerate(
                zip(wanted, _candidate_outputs(candidate, batch, where, reference_name), strict=True)
            ):
                diff, largest = _difference(expected, got, where, reference_name)
                largest_diff, largest_logit = max(largest_diff, diff), max(largest_logit, largest)
                if where.startswith("at "):
                    of_photos[place] = max(largest, of_photos.get(place, 0.0))
                else:  # a frame without features gives small answers
                    largest = max(largest, of_photos[place])
                if diff <= MAX_RELATIVE_DIFFERENCE * largest:  # never where it is NaN
                    continue
                judge = None if exact is None else exact(batch)[place]
                rounding = None if judge is None else _rounding(judge, expected, got)
                if rounding is None:
                    raise ExportCheckError(
                        f"the exported model does not answer like {reference_name}: {where} the largest "
                        f"|difference| is {diff:.3g} where the largest |logit| is {largest:.3g} "
                        f"(allowed: {MAX_RELATIVE_DIFFERENCE:g} of it){_chance(judge, expected, reference_name)}"
                        f"{_of_one_color(where, batch)}; nothing was written"
                    )
                max_rounding = max(rounding, max_rounding or 0.0)
    num_images = min(len(images), max(BATCH_SIZES))
    return CheckReport(BATCH_SIZES, num_images, largest_diff, largest_logit, max_rounding, tuple(nonfinite))


def _candidate_outputs(candidate: Runtime, batch: NDArray[np.float32], where: str, reference_name: str) -> list[Array]:
    try:
        return outputs_in_order(candidate, batch)
    except RuntimeAdapterError as err:  # a batch axis that became constant, for one
        raise ExportCheckError(
            f"the exported model does not run {where}, where {reference_name} does: {err}; nothing was written"
        ) from err


def check_declared_shapes(model: ModelProto, images: NDArray[np.float32], *, open_runtime: OpenRuntime) -> None:
    """Raise unless every tensor has the shape that the file declares: engines are built for what is declared.

    Raises:
        ExportCheckError: Naming the first tensor that has another.
    """
    declared = tensor_shapes(model)
    (values,) = all_tensors(model, images, open_runtime=open_runtime)
    for name, value in values.items():
        got, said = value.shape, declared.get(name, value.shape)
        fits = len(got) == len(said) and all(isinstance(b, str) or a == b for a, b in zip(got, said, strict=True))
        if not fits:
            raise ExportCheckError(
                f"the exported model declares tensor {name!r} as {list(said)}, ONNX Runtime computes {list(got)}; "
                "nothing was written"
            )


def _difference(expected: Array, got: Array, where: str, reference_name: str) -> tuple[float, float]:
    """Return the largest |difference|, NaN if there is one, and the largest |logit|."""
    if got.shape != expected.shape:
        raise ExportCheckError(f"{where}: ONNX gives {got.shape}, {reference_name} {expected.shape}")
    return float(np.abs(got - expected).max()), float(np.abs(expected).max())


def _rounding(exact: ExactOutput, expected: Array, got: Array) -> float | None:
    """Return the error that float32 may make where the error of `got` is no larger; None where it is."""
    error = float(np.abs(got - exact.values).max())
    allowed = max(exact.rounding, ROUNDING_FACTOR * float(np.abs(expected - exact.values).max()))
    return allowed if error <= allowed else None  # never where the error is NaN


def _chance(exact: ExactOutput | None, expected: Array, reference_name: str) -> str:
    """Return what to add where the reference's own float32 answers are chance, so that more than the file is wrong."""
    if exact is None:
        return ""
    own, largest = float(np.abs(expected - exact.values).max()), float(np.abs(exact.values).max())
    if own <= CHANCE * largest:
        return ""
    return (
        f". {reference_name} in float32 is itself {own:.3g} from {reference_name} in float64, {own / largest:.0%} of "
        f"the largest |logit|: {RUNS_AWAY}"
    )


def _of_one_color(where: str, batch: NDArray[np.float32]) -> str:
    """Return what to add where only a frame of one color shows the difference: photographs are compared before."""
    if not where.startswith("on ") or not (batch == batch[..., :1, :1]).all():
        return ""
    return f". On photographs both agree. {ONE_COLOR}"


def outputs_in_order(runtime: Runtime, images: NDArray[np.float32]) -> list[Array]:
    """Return the outputs in the model's order."""
    outputs = outputs_of(runtime, images)
    return [outputs[name] for name in runtime.output_specs]


def all_tensors(model: ModelProto, *batches: NDArray[np.float32], open_runtime: OpenRuntime) -> list[dict[str, Array]]:
    """Return, of each batch, the tensors that nodes make, by name in graph order."""
    names = [output for node in model.graph.node for output in node.output if output]
    with open_runtime(with_outputs(model, names)) as runtime:
        found = [outputs_of(runtime, images) for images in batches]
    return [{name: values[name] for name in names} for values in found]


def first_nonfinite_tensor(
    model: ModelProto,
    images: NDArray[np.float32],
    *,
    open_runtime: OpenRuntime,
    reference: ModelProto | None = None,
) -> str | None:
    """Return the first tensor, in graph order, that holds NaN or Inf on `images`; None when all are finite.

    Args:
        model: The model.
        images: One batch.
        open_runtime: Opens both models.
        reference: A tensor that holds just the infinities that it holds in this one is passed over: a mask.
    """
    (values,) = all_tensors(model, images, open_runtime=open_runtime)
    found = {name: value for name, value in values.items() if not np.isfinite(value.astype(np.float32)).all()}
    if found and reference is not None:
        (wanted,) = all_tensors(reference, images, open_runtime=open_runtime)
        found = {name: v for name, v in found.items() if name not in wanted or not _equal_infinities(v, wanted[name])}
    return next(iter(found), None)


def _equal_infinities(one: Array, other: Array) -> bool:
    """Tell whether two tensors are infinite at the same places, and NaN nowhere."""
    left, right = (np.where(np.isfinite(side), 0, side.astype(np.float32)) for side in (one, other))
    return np.array_equal(left, right)
