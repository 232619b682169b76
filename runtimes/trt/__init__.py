"""TensorRT, TensorRT-RTX: opening engines, running them, reading what they consist of."""
