"""The list of layers that TensorRT-RTX's builder logs at the end of a build, as the engine inspector would write it.

    Layers:
    Name: conv1_U2_myl0_2, LayerType: correlation, Inputs: [ { Name: input, Dimensions: [-1,4,32,32], ... Datatype:
    Int8, Format: (NHWC) ...}], Constants: [...], Outputs: [...], TacticName: ..., StreamId: 0, Metadata: [ONNX Layer:
    conv1]

It needs no GPU. What it proves is what the builder chose to compute in which type; which kernel a GPU then runs, and
how fast, only a GPU tells. Source: the log of TensorRT-RTX 1.7.1 at VERBOSE, with ProfilingVerbosity.DETAILED.
"""

from __future__ import annotations

import re
from typing import Any

_LAYER = re.compile(
    r"Name: (?P<Name>.*?), LayerType: (?P<LayerType>\w*), Inputs: (?P<Inputs>\[.*?\]), "
    r"Constants: (?P<Constants>\[.*?\]), Outputs: (?P<Outputs>\[.*?\]), "
    r"TacticName: .*?, StreamId: .*?, Metadata: ?(?P<Metadata>.*)"
)
_TENSOR = re.compile(
    r"\{ Name: (?P<Name>.*?), Dimensions: \[(?P<Dimensions>[-\d,]*)\], "
    r".*?Datatype: (?P<Datatype>\w+), Format: (?P<Format>.*?)\}"
)
_TENSOR_LISTS = ("Inputs", "Constants", "Outputs")


def layers_from_log(text: str) -> list[dict[str, Any]]:
    """Return the layers as the inspector's JSON has them under "Layers", of the message that begins with "Layers:".

    Raises:
        ValueError: If a line is no layer: another version may write them otherwise, and a layer must not be lost.
    """
    lines = text.partition("\n")[2].split("\n\n")[0].splitlines()
    return [_layer(line) for line in lines if line.strip()]


def _layer(line: str) -> dict[str, Any]:
    found = _LAYER.fullmatch(line.strip())
    if found is None:
        raise ValueError(f"the builder's list of layers has a line of another kind: {line[:120]!r}")
    layer: dict[str, Any] = found.groupdict()
    for key in _TENSOR_LISTS:
        layer[key] = [
            {**tensor.groupdict(), "Dimensions": [int(size) for size in tensor["Dimensions"].split(",") if size]}
            for tensor in _TENSOR.finditer(layer[key])
        ]
    return layer
