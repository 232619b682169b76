"""Read and write files safely: bounded reads, atomic writes, checked JSON and NPZ, the user's cache folder."""
