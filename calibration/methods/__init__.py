"""Numbers only: histograms, amax, scales, quantized weights and biases; arrays in, arrays out."""
