"""Options for pre- and post-processing inside the file: pixels as input, the answer as output. Imports no framework."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finish:
    """Pre- and post-processing to add.

    Attributes:
        uint8_input: Whether pixels are the input.
        softmax: Whether probabilities are the output.
        topk: How many best classes are the output, or None for all.
    """

    uint8_input: bool = False
    softmax: bool = False
    topk: int | None = None

    @property
    def changes_output(self) -> bool:
        """Whether something else than the logits comes out."""
        return self.softmax or self.topk is not None
