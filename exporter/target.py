"""What each target can read: opset, IR version, and what is pinned for it.

The opset number is a promise that TensorRT does not check: a too-new operator is parsed as if it were old, and
answers wrongly in silence (TensorRT 8.6 reads an opset-18 ReduceMean as a mean over every axis). So the target
decides, and an opset that does not fit is refused before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from exporter.errors import UnsupportedOpsetError

MIN_OPSET = 15
"""The oldest that can be written: onnx's version converter takes no BatchNormalization below 15 and no Relu below 14
(measured with onnx 1.23 in tests/exporter/tracing/test_trace.py). Q/DQ would need 13, for scales per channel."""

IR_VERSION_OF_OPSET: Mapping[int, int] = MappingProxyType({15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9})
"""The IR version released together with each opset. Source: ONNX docs/Versioning.md, released versions table."""


MIN_FLOAT16_SCALE_OPSET = 19
"""The first whose QuantizeLinear and DequantizeLinear take FP16 scales. Source: ONNX operator changelog."""


@dataclass(frozen=True, slots=True)
class Target:
    """One place where the exported files must load.

    Attributes:
        name: The word of `--target`.
        opset: The opset written unless asked otherwise.
        max_opset: The newest opset that this target reads correctly.
        reads: What the limit was taken from, for messages and the manifest.
        dialect: How INT8 is written for it, the value of a `methods.dialect.Dialect`: "tensorrt" or "onnxruntime".
        exact_int8_simulation: Whether parity runs the Q/DQ model with its arithmetic spelled out (as TensorRT
            computes it) rather than as ONNX Runtime's optimizations run it (as ONNX Runtime users get it).
        has_dla: Whether a Jetson with a DLA can be there, and a TensorRT that builds for it from float32 files (8.5 to
            10.7).
    """

    name: str
    opset: int
    max_opset: int
    reads: str
    dialect: str = "tensorrt"
    exact_int8_simulation: bool = True
    has_dla: bool = True


# Opset limits: TensorRT 8.5/8.6 read <= 17, 10.0-10.3 <= 20, 10.13 <= 24 (onnx-tensorrt docs/operators.md at those
# releases). 20 is the newest that torch.onnx.export writes by default and that this project verifies.
TARGETS: Mapping[str, Target] = MappingProxyType(
    {
        target.name: target
        for target in (
            Target("tensorrt", 20, 20, "TensorRT 10.0 or newer, 11 included, and TensorRT-RTX"),
            Target("jetpack5", 17, 17, "TensorRT 8.5 (JetPack 5), also 8.6 (JetPack 6.0)"),
            Target("jetpack6", 19, 20, "TensorRT 10.3 (JetPack 6.1 and 6.2)"),
            Target("jetpack7", 20, 20, "TensorRT 10.13 and newer (JetPack 7)", has_dla=False),
            Target(
                "onnxruntime",
                20,
                20,
                "ONNX Runtime 1.17 or newer",
                dialect="onnxruntime",
                exact_int8_simulation=False,
                has_dla=False,
            ),
        )
    }
)


def target_from_name(name: str) -> Target:
    """Return the target called `name`.

    Raises:
        ValueError: If there is none; the message lists all.
    """
    try:
        return TARGETS[name]
    except KeyError:
        raise ValueError(f"unknown target {name!r}; expected one of {', '.join(TARGETS)}") from None


def check_opset(target: Target, opset: int) -> None:
    """Raise unless `target` reads `opset` correctly.

    Raises:
        UnsupportedOpsetError: With the target's range.
    """
    if not MIN_OPSET <= opset <= target.max_opset:
        raise UnsupportedOpsetError(
            f"opset {opset} does not fit target {target.name}: it reads opset {MIN_OPSET} to {target.max_opset} "
            f"({target.reads}); leave --opset out to get {target.opset}, or choose another --target"
        )
