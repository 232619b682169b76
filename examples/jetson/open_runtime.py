"""What the Jetson examples share: options that name a model of a bundle, and opening it in the runtime asked for."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from runtimes.errors import MissingDependencyError
from runtimes.protocol import Runtime
from runtimes.trt.engine_sidecar import sidecar_path


def add_model_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="an ONNX file or an engine, in its bundle's folder")
    parser.add_argument("--runtime", required=True, choices=("tensorrt", "onnxruntime"), help="what runs MODEL")
    parser.add_argument("--bundle", type=Path, help="folder of manifest.json (default: MODEL's folder)")


def bundle_of(options: argparse.Namespace) -> Path:
    bundle: Path | None = options.bundle
    return bundle or options.model.parent


def open_runtime(options: argparse.Namespace) -> Runtime:
    """Open MODEL in the runtime asked for, and in no other.

    Raises:
        MissingDependencyError: If the runtime's library is not installed.
        RuntimeAdapterError: If the model does not load.
    """
    if options.runtime == "onnxruntime":
        from runtimes import OrtRuntime

        return OrtRuntime(options.model)
    try:
        from runtimes.trt.adapter import TrtRuntime
    except ImportError as err:
        raise MissingDependencyError(
            f"--runtime tensorrt needs JetPack's tensorrt ({err}); apt install python3-libnvinfer, and make the "
            "environment with --system-site-packages"
        ) from err
    has_sidecar = sidecar_path(options.model).is_file()
    if not has_sidecar:  # as with trtexec
        print(
            f"note: {sidecar_path(options.model).name} is not there, so only TensorRT checks the engine",
            file=sys.stderr,
        )
    return TrtRuntime(options.model, check_sidecar=has_sidecar)
