"""PyTorch to ONNX: BatchNorm folding, tracing, and the check of the result against PyTorch."""
