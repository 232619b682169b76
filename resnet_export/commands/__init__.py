"""The smaller verbs of the command, one module each."""
