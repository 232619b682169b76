"""The file that was given as MODEL, behind the interface of a PyTorch module: the reference of its own export."""

from __future__ import annotations

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor, nn

from runtimes.ort import OrtRuntime
from runtimes.protocol import Array


class OnnxReference(nn.Module):
    """Runs an ONNX classifier in ONNX Runtime, on the CPU, as the file was written.

    Args:
        model: One float32 input [N, 3, H, W], one output.
        batch: The batch size that the file is fixed to, or None. Images then go through so many at a time, the last
            ones repeated to fill up.

    Raises:
        RuntimeAdapterError: If ONNX Runtime does not load the file.
    """

    def __init__(self, model: ModelProto, *, batch: int | None) -> None:
        super().__init__()
        self._runtime = OrtRuntime(model)
        self._batch = batch
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Return the file's first output, float32 [N, classes]."""
        array = images.cpu().numpy()
        step = len(array) if self._batch is None else self._batch
        parts = [self._run(array[first : first + step], step) for first in range(0, len(array), step)]
        return torch.from_numpy(np.concatenate(parts))

    def _run(self, images: Array, size: int) -> Array:
        (name,) = self._runtime.input_specs
        (output,) = self._runtime.output_specs
        filled = np.resize(images, (size, *images.shape[1:]))
        return self._runtime.run({name: np.ascontiguousarray(filled)})[output][: len(images)]
