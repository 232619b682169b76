"""Options for pre- and post-processing inside the file: pixels as input, the answer as output. Imports no framework."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finish:
    """Pre- and post-processing to add: pixels in; probabilities, or the `topk` best classes (None for all) out."""

    uint8_input: bool = False
    softmax: bool = False
    topk: int | None = None

    @property
    def changes_output(self) -> bool:
        """Whether something else than the logits comes out."""
        return self.softmax or self.topk is not None
