"""Triton's own `model_config.proto`, as tritonclient ships it. Its package would import grpc, which is not needed."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def model_config_proto() -> ModuleType:
    """Return tritonclient's generated module, or skip where tritonclient is not installed."""
    name = "triton_model_config_pb2"
    if name not in sys.modules:
        found = importlib.util.find_spec("tritonclient")
        if found is None or not found.submodule_search_locations:
            pytest.skip("tritonclient is not installed; the [dev] extra brings it")
        path = Path(next(iter(found.submodule_search_locations))) / "grpc" / "model_config_pb2.py"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[name] = module
    return sys.modules[name]


def parse_model_config(text: str) -> Any:
    """Return the ModelConfig; raises what protobuf raises on unknown fields, enum values and wrong types."""
    from google.protobuf import text_format

    return text_format.Parse(text, model_config_proto().ModelConfig())
