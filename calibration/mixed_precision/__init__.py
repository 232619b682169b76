"""Which layers cost INT8 its accuracy, and which to leave in float."""
