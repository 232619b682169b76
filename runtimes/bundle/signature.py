"""Who made this bundle: an Ed25519 signature over `manifest.json`, which holds the hash of every other file.

The hashes alone find damage; whoever changes a file on purpose writes a new hash beside it. A signature that fits a
public key which the device has had all along tells that apart. It is 64 raw bytes in `manifest.sig`, over the bytes of
the manifest as they are, so that OpenSSL checks it too:

    openssl genpkey -algorithm ed25519 -out key.pem && openssl pkey -in key.pem -pubout -out key.pub
    openssl pkeyutl -verify -pubin -inkey key.pub -rawin -in manifest.json -sigfile manifest.sig

Engines are built on the device, after the signature, and are not covered: build them from a bundle that was verified.
Source: RFC 8032 (Ed25519); RFC 8410 (keys in PEM).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtimes.errors import SignatureError
from runtimes.io.bounded_read import read_plain_file
from runtimes.needed_library import needed_library

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SIGNATURE_NAME = "manifest.sig"
SIGNATURE_BYTES = 64
_MAX_KEY_BYTES = 1 << 16


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Read the key that signs: PEM (PKCS #8), without a password.

    Raises:
        SignatureError: If the file cannot be read or holds no such key.
        MissingDependencyError: If `cryptography` is not installed.
    """
    remedy = "openssl genpkey -algorithm ed25519 -out KEY makes one"
    key: Ed25519PrivateKey = _load_key(path, "private", "private key in PEM without a password", remedy)
    return key


def load_public_key(path: Path) -> Ed25519PublicKey:
    """Read the key that verifies: PEM (SubjectPublicKeyInfo).

    Raises:
        SignatureError: If the file cannot be read or holds no such key.
        MissingDependencyError: If `cryptography` is not installed.
    """
    remedy = "openssl pkey -in KEY -pubout -out KEY.pub writes it"
    key: Ed25519PublicKey = _load_key(path, "public", "public key in PEM", remedy)
    return key


def _load_key(path: Path, which: str, missing: str, remedy: str) -> Any:
    needed_library(
        "cryptography.hazmat.primitives",
        'signatures need the package cryptography ({err}); pip install "resnet-export[sign]"',
    )
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519

    password = {"password": None} if which == "private" else {}
    try:
        content = read_plain_file(path, _MAX_KEY_BYTES)
    except OSError as err:
        raise SignatureError(f"{path}: the key cannot be read ({err.strerror})") from err
    try:
        key = getattr(serialization, f"load_pem_{which}_key")(content, **password)
    except Exception as err:  # ValueError, TypeError (a password), UnsupportedAlgorithm: the library's types vary
        secret = which == "public" and b"PRIVATE KEY" in content
        why = "this is the private key, which must not leave the place that signs" if secret else err
        raise SignatureError(f"{path}: no {missing} ({why}); {remedy}") from err
    if not isinstance(key, getattr(ed25519, f"Ed25519{which.capitalize()}Key")):
        raise SignatureError(f"{path}: got a key of another kind, expected Ed25519; {remedy}")
    return key


def check_signature(bundle: Path, content: bytes, public_key: Path) -> None:
    """Raise unless `manifest.sig` in the bundle is a signature of `content` by the owner of the public key.

    Args:
        bundle: The folder.
        content: The bytes of its manifest, which the caller goes on to use: they must not be read a second time.
        public_key: A file that came to this machine by another way than the bundle.

    Raises:
        SignatureError: If there is no signature, or it does not fit.
        MissingDependencyError: If `cryptography` is not installed.
    """
    key = load_public_key(public_key)
    path = bundle / SIGNATURE_NAME
    try:
        signature = read_plain_file(path, SIGNATURE_BYTES)
    except OSError as err:
        raise SignatureError(
            f"{bundle}: a public key was given and the bundle has no signature that can be read ({path.name}: "
            f"{err.strerror}); export it with --sign KEY"
        ) from err
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(signature, content)
    except InvalidSignature as err:
        raise SignatureError(
            f"{path} does not fit the manifest and {public_key}: the bundle was changed, or another key signed it; do "
            "not use it"
        ) from err


def sign(content: bytes, key: Ed25519PrivateKey) -> bytes:
    """Return the signature of a manifest's bytes, 64 bytes."""
    signature: bytes = key.sign(content)
    return signature
