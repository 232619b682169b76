"""Open a bundle, an ONNX file or an engine for an application: run, classify, batch."""
