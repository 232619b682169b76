"""What this machine is: hardware, libraries, power state, and which providers really load."""
