"""ONNX Runtime: sessions that run where they were asked to, checked node by node."""
