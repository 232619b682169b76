"""What a bundle and a reference must share before anything of theirs is compared."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from exporter.errors import ExportError
from resnet_export.verify_job.bundle_checks import _as_prepared_by
from runtimes.preprocessing.transform import Interpolation, Preprocessing


def test_a_reference_of_other_channels_is_another_model():
    colors = Preprocessing(8, (8, 8), Interpolation.BILINEAR, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    grey = replace(colors, mean=(0.5,), std=(0.5,))
    golden = SimpleNamespace(inputs=np.zeros((1, 1, 8, 8), np.float32))
    subject = SimpleNamespace(path="bundle", golden=golden, preprocessing=grey)
    with pytest.raises(ExportError, match="bundle takes pictures of 1 channel, other of 3"):
        _as_prepared_by(SimpleNamespace(name="other", preprocessing=colors), subject)
