"""From what the user calls a model to a module with weights: one `*_source` module per kind."""
