"""Explain TensorRT's error messages: their most likely meaning, and what to do."""

from __future__ import annotations

CAUSES: tuple[tuple[str, str], ...] = (
    (
        "CUDA initialization failure",
        "no usable GPU or driver; TensorRT needs one to build, TensorRT-RTX does not",
    ),
    ("cudaError", "the GPU or its driver does not answer; see nvidia-smi"),
    ("No importer registered", "an operator is unknown to this version; export with a --target that fits it"),
    ("Unsupported ONNX", "the opset is too new for this version; export with a --target that fits it"),
    ("OutOfMemory", "memory ran out; lower --workspace or the largest --batch, or close other programs"),
    ("out of memory", "memory ran out; lower --workspace or the largest --batch, or close other programs"),
    ("dynamic or shape inputs, but no optimization profile", "the file has a dynamic axis that no profile covers"),
    ("Failed to parse ONNX model", "the file is no ONNX model, or is damaged"),
    ("Failed to parse the ONNX model", "the file is no ONNX model, or is damaged"),
    ("libnvinfer_lean", "this flavor has no lean runtime; build without --version-compat"),
)
"""Words in TensorRT's messages, and what they most likely mean; the first that occurs is told."""


def explained(words: str) -> str:
    """Return TensorRT's words, with the likely cause where one is known."""
    cause = next((cause for sign, cause in CAUSES if sign in words), None)
    return words if cause is None else f"{words}. Likely cause: {cause}"
