"""Which architecture a checkpoint was made for: by what it says, by its names and shapes, by measuring look-alikes."""
