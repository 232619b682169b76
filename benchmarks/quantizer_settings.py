"""The rows of the table: each quantizer setting, the environment it runs in, and what has to be installed there.

A new row is one line in `SETTINGS`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

OURS = "ours"
"""The environment that runs this benchmark: this checkout and its dependencies."""

REQUIREMENTS: dict[str, tuple[str, ...]] = {
    "onnxruntime": ("onnxruntime==1.32.0", "onnx==1.23.2"),
    "modelopt": ("nvidia-modelopt[onnx]==0.47.0",),
    "nncf": ("nncf==3.4.0", "onnx==1.23.2", "onnxruntime==1.32.0"),
    "aimet": ("aimet-onnx==2.42.0",),
    "quark": ("amd-quark==0.13", "onnx==1.22.0", "onnxruntime==1.28.0", "torch"),
}
"""Environment to what is installed in it. Their pins conflict: ModelOpt 0.47 wants onnx 1.21 and ONNX Runtime 1.24."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One row.

    Attributes:
        name: As the table and `--only` have it.
        environment: `OURS` or a key of `REQUIREMENTS`.
        script: File in `quantizer_peers/`.
        options: Keyword arguments of that script's `quantize`.
        second_order: Whether it optimizes weights layer by layer, which takes many forward passes.
        role: What the targets look for: "max", "activations", "default", "best" or "onnxruntime" on one row of ours
            each, else "".
    """

    name: str
    environment: str
    script: str
    options: Mapping[str, Any] = field(default_factory=dict)
    second_order: bool = False
    role: str = ""


def ours(name: str, *, role: str = "", second_order: bool = False, **options: Any) -> Setting:
    """Return a row of ours; options go to `quantizer_peers/ours.py`."""
    return Setting(f"resnet-export {name}", OURS, "ours.py", options, second_order, role)


def static(name: str, **options: Any) -> Setting:
    """Return a row of onnxruntime.quantization."""
    return Setting(f"onnxruntime {name}", "onnxruntime", "onnxruntime_peer.py", options)


def aimet(name: str, *, second_order: bool = False, **options: Any) -> Setting:
    """Return a row of AIMET."""
    return Setting(f"aimet {name}", "aimet", "aimet_peer.py", options, second_order)


def quark(name: str, *, second_order: bool = False, **options: Any) -> Setting:
    """Return a row of AMD Quark."""
    return Setting(f"quark {name}", "quark", "quark_peer.py", options, second_order)


ADAROUND_STEPS = 500
"""Steps per layer. AIMET recommends 10 000, which is about five hours of CPU time for a ResNet-20 of 32x32 (measured:
0.09 s a step with batches of 32); its schedule scales with the number of steps."""

SETTINGS: tuple[Setting, ...] = (
    ours("max, effort 0", method="max", role="max"),
    ours("percentile, effort 0", method="percentile"),
    ours("entropy, effort 0", method="entropy"),
    ours("mse, effort 0"),
    ours("mse, float weights", float_weights=True, role="activations"),
    ours("mse + equalization", equalize=True),
    ours("mse + bias correction", correct_biases=True),
    ours("mse + zero points", zero_points="biases"),
    ours("mse + zero points with Pads", zero_points="pads"),
    ours("mse + equalization + bias correction", equalize=True, correct_biases=True),
    ours("effort 1 (default)", effort=1, role="default"),
    ours("effort 1, zero points with Pads", effort=1, zero_points="pads"),
    ours("auto, effort 0", method="auto"),
    ours("auto, effort 1", method="auto", effort=1),
    ours("mse + second-order rounding", round_weights=True, second_order=True),
    ours("effort 2", effort=2, second_order=True, role="best"),
    ours("onnxruntime, effort 0", dialect="onnxruntime"),
    ours("onnxruntime, effort 1", dialect="onnxruntime", effort=1, role="onnxruntime"),
    ours("onnxruntime, effort 2", dialect="onnxruntime", effort=2, second_order=True),
    static("MinMax", method="MinMax", dialect="tensorrt"),
    static("Entropy", method="Entropy", dialect="tensorrt"),
    static("Percentile", method="Percentile", dialect="tensorrt"),
    static("MinMax U8S8", method="MinMax", dialect="default"),
    static("Entropy U8S8", method="Entropy", dialect="default"),
    static("Percentile U8S8", method="Percentile", dialect="default"),
    Setting("modelopt max", "modelopt", "modelopt_peer.py", {"method": "max"}),
    Setting("modelopt entropy", "modelopt", "modelopt_peer.py", {"method": "entropy"}),
    Setting("nncf default", "nncf", "nncf_peer.py"),
    Setting("nncf 8 bits in the first layer too", "nncf", "nncf_peer.py", {"full_weights": True}),
    Setting("nncf full bias correction", "nncf", "nncf_peer.py", {"fast_bias_correction": False}),
    Setting(
        "nncf mixed, 8 bits, full bias correction",
        "nncf",
        "nncf_peer.py",
        {"preset": "mixed", "full_weights": True, "fast_bias_correction": False},
    ),
    aimet("min_max", scheme="min_max"),
    aimet("tf_enhanced", scheme="tf_enhanced"),
    aimet("tf_enhanced, rectifiers joined", scheme="tf_enhanced", join=True),
    aimet("tf_enhanced + CLE", scheme="tf_enhanced", join=True, equalize=True),
    aimet(
        f"tf_enhanced + AdaRound ({ADAROUND_STEPS} steps)",
        scheme="tf_enhanced",
        join=True,
        adaround_iterations=ADAROUND_STEPS,
        second_order=True,
    ),
    aimet("tf_enhanced symmetric", scheme="tf_enhanced", join=True, symmetric=True),
    aimet("tf_enhanced symmetric + CLE", scheme="tf_enhanced", join=True, symmetric=True, equalize=True),
    quark("MinMax", method="MinMax"),
    quark("Percentile"),
    quark("LayerwisePercentile", method="LayerwisePercentile"),
    quark("Percentile + CLE", steps=("cle",)),
    quark("Percentile + bias correction", steps=("bias_correction",)),
    quark("Percentile + CLE + bias correction", steps=("cle", "bias_correction")),
    quark(f"Percentile + AdaRound ({ADAROUND_STEPS} steps)", adaround_iterations=ADAROUND_STEPS, second_order=True),
    quark(f"Percentile + AdaQuant ({ADAROUND_STEPS} steps)", adaquant_iterations=ADAROUND_STEPS, second_order=True),
)


def chosen(words: str | None, *, second_order: bool) -> tuple[Setting, ...]:
    """Return the rows that `--only` names, all of them without it.

    Args:
        words: Beginnings of row names, separated by commas without a space, such as "resnet-export,nncf default".
        second_order: Whether rows that take many forward passes run without being named in full.

    Raises:
        ValueError: If a word names no row.
    """
    if words is None:
        return tuple(row for row in SETTINGS if second_order or not row.second_order)
    rows: list[Setting] = []
    for word in re.split(r",(?! )", words):  # names of rows hold ", "
        found = [row for row in SETTINGS if row.name.startswith(word)]
        if not word or not found:
            raise ValueError(f"--only: got {word!r}, expected beginnings of {', '.join(row.name for row in SETTINGS)}")
        rows += [row for row in found if row not in rows and (second_order or not row.second_order or row.name == word)]
    return tuple(rows)
