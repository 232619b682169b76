"""Inspect this machine: hardware, libraries, power state, and which providers really load."""
