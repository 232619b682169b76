"""Signed bundles: what OpenSSL signs is accepted, what we sign OpenSSL accepts, and nothing else is."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from resnet_export.main import main
from runtimes.bundle.file_names import MANIFEST_NAME
from runtimes.bundle.manifest import load_manifest
from runtimes.bundle.signature import SIGNATURE_NAME, load_private_key, load_public_key, sign
from runtimes.errors import MissingDependencyError, SignatureError

ROOT = Path(__file__).parents[3]
TINY = ROOT / "tests" / "data" / "bundle-schema-1"

needs_cryptography = pytest.mark.skipif(
    importlib.util.find_spec("cryptography") is None, reason="cryptography is not installed"
)
needs_openssl = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


def openssl(*words: object) -> None:
    subprocess.run(["openssl", *map(str, words)], check=True, capture_output=True)


@pytest.fixture
def keys(tmp_path):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    for name in ("ours", "theirs"):
        openssl("genpkey", "-algorithm", "ed25519", "-out", tmp_path / f"{name}.pem")
        openssl("pkey", "-in", tmp_path / f"{name}.pem", "-pubout", "-out", tmp_path / f"{name}.pub")
    return tmp_path


@pytest.fixture
def bundle(tmp_path):
    return shutil.copytree(TINY, tmp_path / "bundle")


@pytest.fixture
def signed(bundle, keys):
    """Signed by OpenSSL, not by us."""
    words = ["pkeyutl", "-sign", "-rawin", "-inkey", keys / "ours.pem", "-in", bundle / MANIFEST_NAME]
    openssl(*words, "-out", bundle / SIGNATURE_NAME)
    return bundle


@needs_cryptography
def test_what_openssl_signed_is_accepted(signed, keys):
    assert load_manifest(signed, public_key=keys / "ours.pub") == load_manifest(signed)


@needs_cryptography
def test_what_we_sign_openssl_accepts(bundle, keys):
    key = load_private_key(keys / "ours.pem")
    (bundle / SIGNATURE_NAME).write_bytes(sign((bundle / MANIFEST_NAME).read_bytes(), key))
    words = ["pkeyutl", "-verify", "-pubin", "-inkey", keys / "ours.pub", "-rawin", "-in", bundle / MANIFEST_NAME]
    openssl(*words, "-sigfile", bundle / SIGNATURE_NAME)


@needs_cryptography
@pytest.mark.parametrize("change", ["manifest", "signature", "short", "long", "missing", "other key"])
def test_whatever_does_not_fit_is_refused_before_anything_is_read(signed, keys, change):
    manifest, signature = signed / MANIFEST_NAME, signed / SIGNATURE_NAME
    if change == "manifest":
        manifest.write_bytes(b"not even JSON")
    elif change == "signature":
        signature.write_bytes(bytes(64))
    elif change in ("short", "long"):
        signature.write_bytes(signature.read_bytes()[:63] if change == "short" else signature.read_bytes() + b"x")
    elif change == "missing":
        signature.unlink()
    with pytest.raises(SignatureError, match=r"signature|does not fit"):
        load_manifest(signed, public_key=keys / ("theirs.pub" if change == "other key" else "ours.pub"))


@needs_cryptography
def test_keys_that_are_none(tmp_path, keys, bundle):
    openssl("genpkey", "-algorithm", "rsa", "-pkeyopt", "rsa_keygen_bits:2048", "-out", tmp_path / "rsa.pem")
    openssl("pkey", "-in", tmp_path / "rsa.pem", "-pubout", "-out", tmp_path / "rsa.pub")
    openssl("pkey", "-in", keys / "ours.pem", "-aes256", "-passout", "pass:x", "-out", tmp_path / "locked.pem")
    (tmp_path / "text").write_text("key")
    for name in ("rsa.pem", "locked.pem", "text", "ours.pub", "missing"):
        with pytest.raises(SignatureError):
            load_private_key(tmp_path / name)
    for name in ("rsa.pub", "text", "missing"):
        with pytest.raises(SignatureError):
            load_public_key(tmp_path / name)
    with pytest.raises(SignatureError, match="must not leave the place that signs"):
        load_public_key(keys / "ours.pem")


def test_without_the_library_nothing_passes_for_verified(bundle, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    (tmp_path / "key.pub").write_text("x")
    with pytest.raises(MissingDependencyError, match=r"resnet-export\[sign\]"):
        load_manifest(bundle, public_key=tmp_path / "key.pub")


@needs_cryptography
def test_the_commands(signed, keys, capsys):
    words = ["verify-signature", str(signed), "--public-key", str(keys / "ours.pub")]
    assert main(words) == 0
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["signature"] == "valid"
    (signed / "labels.txt").write_text("changed")
    assert main(words) == 2
    assert "changed since it was written" in capsys.readouterr().err
    (signed / SIGNATURE_NAME).unlink()
    assert main(["build", str(signed), "--rtx", "--public-key", str(keys / "ours.pub")]) == 2
    assert "no signature that can be read" in capsys.readouterr().err


@needs_cryptography
def test_load_takes_the_key_too(signed, keys):
    from runtimes.inference.load import load

    with load(signed, provider="cpu", public_key=keys / "ours.pub") as model:
        assert model.classify(ROOT / "exporter" / "models" / "check_photos" / "chelsea.jpg") is not None
    with pytest.raises(SignatureError):
        load(signed, provider="cpu", public_key=keys / "theirs.pub")
    shutil.copy(signed / "model.onnx", keys / "alone.onnx")
    with pytest.raises(SignatureError, match="only bundles are signed"):
        load(keys / "alone.onnx", provider="cpu", public_key=keys / "ours.pub")
