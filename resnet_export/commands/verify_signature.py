"""`resnet-export verify-signature BUNDLE --public-key FILE`: is this bundle whole, and by the owner of that key?

Needs neither torch nor onnx, so that a device can ask before it builds or opens anything.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from resnet_export.console.put_json import put_json
from resnet_export.console.terminal import Terminal
from runtimes.bundle.described_file import load_unchanged


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what the verb takes to its parser."""
    parser.description = "Check that a bundle was signed by the owner of a key and that no file was changed since."
    parser.epilog = "The public key must have come to this machine by another way than the bundle."
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder that resnet-export wrote with --sign")
    parser.add_argument("--public-key", type=Path, required=True, metavar="FILE", help="Ed25519, PEM")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Check signature and files; return 0, or raise what does not fit."""
    manifest = load_unchanged(arguments.bundle, public_key=arguments.public_key)
    if arguments.json:
        told = {"bundle": str(arguments.bundle), "model": manifest.model["id"], "num_files": len(manifest.files)}
        put_json({**told, "signature": "valid"})
    else:
        Terminal(quiet=False).done(
            f"{arguments.bundle}: signed by the owner of {arguments.public_key}; {len(manifest.files)} files unchanged"
        )
    return 0
