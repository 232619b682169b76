"""Passes over ONNX graphs: each takes a model and returns a `PassResult`."""
