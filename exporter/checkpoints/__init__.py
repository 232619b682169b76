"""Read checkpoints without running them, and fit their weights to a network."""
