"""ONNX Runtime on one thread, as OMP_NUM_THREADS=1 asks of the others.

ONNX Runtime knows no such variable. Left alone, every session starts a thread a core that spins while it waits, which
takes the core from the other worker of the run: half of the processor time of most tests.
"""

from __future__ import annotations

from typing import Any

import onnxruntime

_Options = onnxruntime.SessionOptions


class OneThread(_Options):
    """Options as they are by default, on one thread; what asks for a number gets it, and 0 asks for none."""

    def __init__(self) -> None:
        super().__init__()
        self.intra_op_num_threads = 0

    @property
    def intra_op_num_threads(self) -> int:
        """The number of threads of one operator."""
        return int(_Options.intra_op_num_threads.fget(self))

    @intra_op_num_threads.setter
    def intra_op_num_threads(self, number: int) -> None:
        _Options.intra_op_num_threads.fset(self, number or 1)


def sessions_on_one_thread() -> None:
    """Let each session of this process that names no number of threads run on one."""
    if onnxruntime.SessionOptions is OneThread:
        return
    original = onnxruntime.InferenceSession.__init__

    def init(self: Any, model: Any, sess_options: Any = None, *args: Any, **kwargs: Any) -> None:
        original(self, model, OneThread() if sess_options is None else sess_options, *args, **kwargs)

    onnxruntime.SessionOptions = OneThread
    onnxruntime.InferenceSession.__init__ = init
