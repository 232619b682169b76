"""Raise INT8 accuracy: equalize channels, round weights, correct biases, choose ranges."""
