"""Networks that no library ships: CIFAR, pre-activation and plain ResNets."""
