"""onnxruntime-web's files for a page of ours: from npm, one version, checked against its hash; kept in the cache."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from exporter.errors import ExportError
from runtimes.io.cache_dir import user_cache_folder, write_cache_file

VERSION = "1.30.0"
SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package's archive, in base64. Source: npm's `dist.integrity` of onnxruntime-web 1.30.0, seen 2026-11-29."""

FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""Files of the package's `dist` that a page needs to run on the CPU."""

_TIMEOUT_S = 300


def onnxruntime_web(package: Path | None = None) -> dict[str, bytes]:
    """Return name to content of `FILES`.

    Args:
        package: The package's archive, as `npm pack onnxruntime-web@VERSION` writes it; fetched by npm when None.

    Raises:
        ExportError: If npm is missing or fails, or the archive is not the known one.
    """
    cached = user_cache_folder() / f"onnxruntime-web-{VERSION}.tgz"
    if package is None and not cached.is_file():
        write_cache_file(cached, _checked(_fetched(), "what npm gave"))
    source = package or cached
    try:
        content = source.read_bytes()
    except OSError as err:
        raise ExportError(f"{source} cannot be read: {err.strerror}") from err
    with tarfile.open(fileobj=io.BytesIO(_checked(content, str(source)))) as archive:
        return {name: _member(archive, f"package/dist/{name}") for name in FILES}


def _fetched() -> bytes:
    npm = shutil.which("npm")
    if npm is None:
        raise ExportError(
            f"onnxruntime-web {VERSION} comes from npm, which is not installed; where it is: npm pack "
            f"onnxruntime-web@{VERSION}, and here: --onnxruntime-web onnxruntime-web-{VERSION}.tgz"
        )
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"onnxruntime-web@{VERSION}", "--silent"]
        try:
            done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as err:
            raise ExportError(f"npm did not fetch onnxruntime-web {VERSION} within {_TIMEOUT_S} s") from err
        found = sorted(Path(folder).glob("*.tgz"))
        if done.returncode or not found:
            told = [line for line in done.stderr.splitlines() if line.strip()]
            raise ExportError(f"npm does not fetch onnxruntime-web {VERSION}: {told[0] if told else 'no archive'}")
        return found[0].read_bytes()


def _checked(content: bytes, name: str) -> bytes:
    got = base64.b64encode(hashlib.sha512(content).digest()).decode()
    if got != SHA512:
        raise ExportError(
            f"{name} is not onnxruntime-web {VERSION}: got sha512-{got}, expected sha512-{SHA512}; nothing was written"
        )
    return content


def _member(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None  # the archive's hash is known
    return file.read()
