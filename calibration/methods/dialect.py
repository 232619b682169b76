"""The two ways to write INT8 in ONNX, told apart by who will run the file.

TENSORRT      signed activations around zero, float bias, Q/DQ on the inputs of layers and on shortcuts; what
              TensorRT 8.6 to 11 fuses. Every runtime reads it.
ONNXRUNTIME   unsigned activations with a zero point, INT32 bias, Q/DQ on every tensor between integer kernels;
              what ONNX Runtime's CPU provider fuses. TensorRT's parser refuses it (INT32 bias, UINT8).
"""

from __future__ import annotations

from enum import Enum


class Dialect(Enum):
    """Who the Q/DQ file is for; the value is the word in `exporter.target.Target` and `calibration.json`."""

    TENSORRT = "tensorrt"
    ONNXRUNTIME = "onnxruntime"


class ZeroPoints(Enum):
    """What takes the zero points of activations in TensorRT's dialect, which has none; the value is the command's word.

    NONE    nothing: activations are symmetric
    BIASES  biases, where no layer pads what it reads: nothing is added to the network
    PADS    biases everywhere; a layer that pads reads a Pad of the level of 0, which costs time when the network runs
    """

    NONE = "none"
    BIASES = "biases"
    PADS = "pads"
