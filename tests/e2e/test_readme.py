"""README's commands and code are run, so that newcomers can copy them."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import ROOT

import resnet_export as rx

README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.fixture(scope="module")
def demo_folder(main_bundle: Path, few_digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like the clone after `make demo`, with some of its images."""
    folder = tmp_path_factory.mktemp("clone")
    (folder / "examples").symlink_to(ROOT / "examples")
    (folder / "demo").mkdir()
    (folder / "demo" / "digits").symlink_to(few_digits)
    (folder / "demo" / main_bundle.name).symlink_to(main_bundle)
    return folder


def run(code: str, folder: Path) -> str:
    result = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_there_are_two_examples() -> None:
    assert len(PYTHON_BLOCKS) == 2


def test_five_lines_of_python(
    demo_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """At effort 0: what more effort does to this network is asserted of the demo's bundle in test_main_job."""
    monkeypatch.chdir(demo_folder)
    monkeypatch.setattr(rx, "export", functools.partial(rx.export, effort=0))
    exec(compile(PYTHON_BLOCKS[0], "README.md", "exec"), {})
    output = capsys.readouterr().out
    agreement = re.search(r"agreement=([0-9.]+)", output)
    assert agreement is not None, output
    assert float(agreement[1]) > 0.98


def test_embedding_needs_neither_torch_nor_onnx(demo_folder: Path) -> None:
    guard = "import sys\nsys.modules['torch'] = sys.modules['onnx'] = sys.modules['torchvision'] = None\n"
    output = run(guard + PYTHON_BLOCKS[1], demo_folder)
    assert len(re.findall(r"\.png is a 7", output)) == 3, output


def test_the_page_of_the_runtimes(demo_folder: Path) -> None:
    page = (ROOT / "docs" / "runtimes.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    guard = "import sys\nsys.modules['torch'] = sys.modules['onnx'] = sys.modules['rich'] = None\n"
    first, second = (run(guard + block, demo_folder) for block in blocks)
    assert re.search(r"^7 0\.9", first, flags=re.MULTILINE), first
    assert second.strip() == "(1, 10)"


def test_every_option_named_in_the_readme_exists() -> None:
    command = (
        "from resnet_export.main import VERBS, main\n"
        "for words in ([], *([verb] for verb in VERBS)):\n"
        "    try: main([*words, '--help'])\n"
        "    except SystemExit: pass"
    )
    printed = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True).stdout
    documented = set(re.findall(r"`(--[a-z0-9-]+)", README))
    assert documented
    assert not {option for option in documented if option not in printed}


def test_every_linked_file_exists() -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert not [link for link in links if not (ROOT / link).exists()]


def test_make_targets_named_in_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make ([a-z]+)", README)):
        assert re.search(rf"^{target}:", makefile, flags=re.MULTILINE), target
