"""The files of a bundle beside FP32 and INT8: FP16, finished inputs and outputs, DLA."""
