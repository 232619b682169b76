"""What the rules must know of the place where a file shall run; the caller says it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LintTarget:
    """One place where the file must load.

    Attributes:
        name: As on the command line.
        reads: The library in words.
        min_opset: The oldest opset that is worth trying.
        max_opset: The newest that it reads correctly.
        max_ir_version: The IR version released with `max_opset`.
        is_tensorrt: TensorRT's Q/DQ dialect, otherwise ONNX Runtime's.
        is_tensorrt_8: TensorRT 8.x, whose parser takes no axes from an input of ReduceMean, wants a zero point with
            every Q and DQ, and reads scales as float32.
    """

    name: str
    reads: str
    min_opset: int
    max_opset: int
    max_ir_version: int
    is_tensorrt: bool = True
    is_tensorrt_8: bool = False
