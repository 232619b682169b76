"""From float model and images to INT8: all steps, in order."""
