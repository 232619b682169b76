"""How pictures were prepared in training, where that is written down beside the weights."""
