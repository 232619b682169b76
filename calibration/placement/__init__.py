"""Decide which tensors are quantized, for TensorRT or for ONNX Runtime."""
