"""What a bundle holds: its manifest, its files by precision, its signature."""
