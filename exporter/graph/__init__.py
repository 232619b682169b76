"""Helpers on ONNX graphs that every pass uses."""
