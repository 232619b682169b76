"""Networks drawn at random: no file that we write answers otherwise in a plain session than it says.

`tests/robustness/random_networks_long.py` is the long form.
"""

from __future__ import annotations

import pytest
from random_network_files import disagreements

SEEDS = (0, 5, 6)
"""Among them: dead channels, a module that is called twice, pools that end in their padding, a hidden linear layer."""


@pytest.mark.parametrize("seed", SEEDS)
def test_a_random_network(seed):
    assert disagreements(seed) == []
