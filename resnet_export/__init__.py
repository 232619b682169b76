"""ResNets from PyTorch to INT8/FP16 on an edge device, with proof that they still answer the same."""
