"""GPU memory, streams and graphs without torch or pycuda."""
