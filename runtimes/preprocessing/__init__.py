"""From pictures on disk to float32 [N, C, H, W] arrays, the same pixels as in training."""
