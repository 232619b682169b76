"""The version of resnet-export, as pyproject.toml says it."""

__version__ = "0.1.0"
