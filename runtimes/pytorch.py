"""A PyTorch module behind the `Runtime` contract: the reference of every parity check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import nn

from runtimes.errors import ModelClosedError
from runtimes.protocol import Array, RuntimeAdapter, TensorSpec, check_inputs


class TorchRuntime(RuntimeAdapter):
    """A module with one float32 input [N, C, H, W] and one output [N, num_classes], run without gradients.

    Args:
        module: In evaluation mode; on the CPU or a GPU, results come back as NumPy arrays.
        input_size: Height and width, or None to accept any.
        input_name: Name of the input, as in the exported file.
        output_name: Name of the output, as in the exported file.
        output_names: Names of the outputs of a module that gives a tuple; None for one output.

    Raises:
        ValueError: If the module, or a BatchNorm or Dropout in it, is in training mode: BatchNorm would then use
            the batch, and change its statistics.
    """

    def __init__(
        self,
        module: nn.Module,
        *,
        input_size: tuple[int, int] | None = None,
        input_name: str = "input",
        output_name: str = "logits",
        output_names: Sequence[str] | None = None,
    ) -> None:
        if training := _first_in_training_mode(module):
            raise ValueError(f"TorchRuntime needs evaluation mode, {training} trains; call module.eval() first")
        self._module: nn.Module | None = module
        self._input_name = input_name
        self._output_names = (output_name,) if output_names is None else tuple(output_names)
        height, width = input_size or (None, None)
        self.input_specs = {input_name: TensorSpec("float32", (None, None, height, width))}
        self.output_specs = dict.fromkeys(self._output_names, TensorSpec("float32", (None, None)))

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run the module once; see `Runtime.run`.

        Raises:
            ModelClosedError: After `close`.
            InputMismatchError: If the input has a wrong name, dtype or shape.
        """
        if self._module is None:
            raise ModelClosedError("this runtime is closed; open the model again")
        inputs = check_inputs(self.input_specs, inputs)
        parameter = next(self._module.parameters(), None)
        device = "cpu" if parameter is None else parameter.device
        with torch.inference_mode():
            # The copy keeps the caller's array safe from in-place operations, and torch takes no negative strides.
            images = torch.from_numpy(np.array(inputs[self._input_name], order="C"))
            output = self._module(images.to(device))
        outputs = output if isinstance(output, tuple) else (output,)
        return {name: tensor.cpu().numpy() for name, tensor in zip(self._output_names, outputs, strict=True)}

    def close(self) -> None:
        """Release the module; a second call does nothing."""
        self._module = None


def _first_in_training_mode(module: nn.Module) -> str | None:
    """Return the first part that answers differently in training: the module itself, a BatchNorm or a Dropout."""
    if module.training:
        return "the module"
    kinds = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    return next((name for name, child in module.named_modules() if child.training and isinstance(child, kinds)), None)
