"""Read a bundle: its manifest, its files by precision, its signature."""
