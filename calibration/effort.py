"""How much is done for INT8 accuracy. What each step does and gains: calibration.quantize, docs/int8.md."""

from __future__ import annotations

EFFORTS = (0, 1, 2)
"""0: ranges only. 1: channels scaled, biases corrected. 2: weights rounded by second-order information as well."""

DEFAULT_EFFORT = 1
"""What costs about one more look at a few images."""
