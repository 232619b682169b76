"""Files that serving programs read: Triton's model repository, DeepStream's nvinfer."""
