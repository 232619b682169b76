"""Deployment targets: the opset and IR version that each can read, and what is pinned for it.

The opset number is a promise that TensorRT does not check: a too-new operator is parsed as if it were old, and
answers wrongly in silence (TensorRT 8.6 reads an opset-18 ReduceMean as a mean over every axis). So the target
decides, and an opset that does not fit is refused before anything is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from exporter.errors import UnsupportedOpsetError
from runtimes.registry import Registry

MIN_OPSET = 15
"""The oldest that can be written: onnx's version converter takes no BatchNormalization below 15 and no Relu below 14
(measured with onnx 1.23 in tests/exporter/tracing/test_trace.py). Q/DQ would need 13, for scales per channel."""

IR_VERSION_OF_OPSET: Mapping[int, int] = MappingProxyType({15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9})
"""The IR version released together with each opset. Source: ONNX docs/Versioning.md, released versions table."""


IR_VERSION_OF_NEWER_OPSET: Mapping[int, int] = MappingProxyType({21: 10, 22: 10, 23: 11, 24: 12, 25: 13, 26: 13})
"""The same of opsets that are not written here, and that readers take. Source: onnx 1.23, helper.VERSION_TABLE."""

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
        newest_read: The newest opset that the newest library of the target was seen to read; None for `max_opset`.
            `lint` calls an opset an error only beyond it.
        newest_reader: That library and version.
        is_tensorrt_8: Whether TensorRT 8.x reads the files: it takes no axes from an input of ReduceMean, wants a zero
            point with every Q and DQ, and reads scales as float32. `lint` looks for that.

    Raises:
        ValueError: If the opsets are none that can be written, or the dialect is not known.
    """

    name: str
    opset: int
    max_opset: int
    reads: str
    dialect: str = "tensorrt"
    exact_int8_simulation: bool = True
    has_dla: bool = True
    is_tensorrt_8: bool = False
    newest_read: int | None = None
    newest_reader: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be written."""
        if not MIN_OPSET <= self.opset <= self.max_opset <= max(IR_VERSION_OF_OPSET):
            raise ValueError(
                f"target {self.name!r}: got opset {self.opset} of at most {self.max_opset}, expected {MIN_OPSET} to "
                f"{max(IR_VERSION_OF_OPSET)}"
            )
        if self.dialect not in ("tensorrt", "onnxruntime"):
            raise ValueError(f"target {self.name!r}: got dialect {self.dialect!r}, expected tensorrt or onnxruntime")


_BUILTIN = (
    Target(
        "tensorrt",
        20,
        20,
        "TensorRT 10.0 or newer, 11 included, and TensorRT-RTX",
        newest_read=26,
        newest_reader="TensorRT-RTX 1.7",
    ),
    Target("jetpack5", 17, 17, "TensorRT 8.5 (JetPack 5), also 8.6 (JetPack 6.0)", is_tensorrt_8=True),
    Target("jetpack6", 19, 20, "TensorRT 10.3 (JetPack 6.1 and 6.2)"),
    Target(
        "jetpack7",
        20,
        20,
        "TensorRT 10.13 and newer (JetPack 7)",
        has_dla=False,
        newest_read=24,
        newest_reader="TensorRT 10.13",
    ),
    Target(
        "onnxruntime",
        20,
        20,
        "ONNX Runtime 1.17 or newer",
        dialect="onnxruntime",
        exact_int8_simulation=False,
        has_dla=False,
        newest_read=26,
        newest_reader="ONNX Runtime 1.31",
    ),
)
"""TensorRT on a desktop or server, and of each JetPack; ONNX Runtime's CPU kernels, which read a dialect of their own.

Opset limits: TensorRT 8.5/8.6 read <= 17, 10.0-10.3 <= 20, 10.13 <= 24. 20 is the newest that torch.onnx.export writes
by default and that this project verifies. Source: onnx-tensorrt docs/operators.md at those releases. `newest_read` of
26: files of it were parsed and built (TensorRT-RTX), loaded and run (ONNX Runtime), 2026-11-29.
"""

TARGETS: Registry[Target] = Registry(
    "target", Target, group="resnet_export.targets", builtin={target.name: target for target in _BUILTIN}
)
"""The word of `--target` to the target; one from outside is registered by `TARGETS.register`, or declared as an entry
point of the group "resnet_export.targets"."""


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
