"""The main job: a model to a bundle."""
