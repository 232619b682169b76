"""The main job makes no connection and starts no installer; a signed bundle is whole and verified."""

from __future__ import annotations

import importlib.util
import shutil
import socket
import subprocess

import pytest
from cli_runs import export_small

from resnet_export.main import main


@pytest.fixture
def signing(tmp_path):
    """The options that sign and the words that verify, or none where that cannot be done here."""
    if importlib.util.find_spec("cryptography") is None or shutil.which("openssl") is None:
        return [], []
    steps = [["genpkey", "-algorithm", "ed25519", "-out", "key"], ["pkey", "-in", "key", "-pubout", "-out", "pub"]]
    for step in steps:
        subprocess.run(["openssl", *step], cwd=tmp_path, check=True, capture_output=True)
    return ["--sign", tmp_path / "key"], ["--public-key", str(tmp_path / "pub")]


def test_the_main_job_without_sockets(small_weights, digits_folder, tmp_path, monkeypatch, signing):
    opened, started = [], []

    class NoSocket(socket.socket):
        def __init__(self, *args, **kwargs):
            opened.append(args)
            raise OSError("no network in this test")

    def refuse(*args, **kwargs):
        opened.append(args)
        raise OSError("no network in this test")

    class Recorded(subprocess.Popen):
        def __init__(self, words, *args, **kwargs):
            started.append(str(words))
            super().__init__(words, *args, **kwargs)

    monkeypatch.setattr(socket, "socket", NoSocket)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(subprocess, "Popen", Recorded)
    sign, verify = signing
    words = ["--int8", "--fp16", "--effort", "0", "--num-calib", "32", "--quiet", "--calib-cache", "off", *sign]
    assert export_small(small_weights, digits_folder, tmp_path / "bundle", *words) == 0
    assert opened == []
    assert not [words for words in started if any(name in words for name in ("pip", "conda", "apt", "curl", "wget"))]
    if verify:
        assert main(["verify-signature", str(tmp_path / "bundle"), *verify]) == 0
        assert str(tmp_path / "key") not in (tmp_path / "bundle" / "manifest.json").read_text()


def test_a_key_that_is_none_is_told_before_any_work(tmp_path, capsys):
    words = ["cifar_resnet20", "--weights", "random", "--sign", tmp_path / "none", "-o", tmp_path / "b"]
    assert main([str(word) for word in words]) == 2
    assert "key" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()
