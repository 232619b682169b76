"""The bill of materials against what pip says and against invented packages."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from exporter.errors import ExportError
from resnet_export.doctor_job.licenses import bill_of_materials, installed_components


def write(folder, name, *lines):
    info = folder / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *lines]) + "\n")


@pytest.fixture
def invented(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    requires = ('Alpha_One>=1; extra == "x"', "beta (>=2)", "not-installed", 'resnet-export[x]; extra == "all"')
    write(tmp_path, "resnet-export", *(f"Requires-Dist: {words}" for words in requires))
    write(tmp_path, "alpha-one", "License-Expression: MIT OR Apache-2.0", "Requires-Dist: gamma; python_version>='3'")
    write(tmp_path, "beta", "License: BSD", 'Requires-Dist: unrelated; extra == "dev"')
    write(tmp_path, "gamma", "Classifier: License :: OSI Approved :: MIT License", "Requires-Dist: alpha.one")
    write(tmp_path, "unrelated", "License: GPL")
    return tmp_path


def test_what_is_asked_for_and_installed_with_its_licence(invented):
    found = {item.name: item.license for item in installed_components()}
    assert found == {"alpha-one": "MIT OR Apache-2.0", "beta": "BSD", "gamma": "MIT License"}


def test_the_bill_of_materials(invented):
    bill = bill_of_materials(installed_components())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.6")
    alpha, beta, gamma = bill["components"]
    assert alpha["purl"] == "pkg:pypi/alpha-one@1.0"
    assert alpha["licenses"] == [{"expression": "MIT OR Apache-2.0"}]
    assert beta["licenses"] == [{"license": {"name": "BSD"}}]
    assert bill["dependencies"][0] == {"ref": alpha["bom-ref"], "dependsOn": [gamma["bom-ref"]]}


def test_without_an_installed_package_nothing_is_known(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ExportError, match="not installed as a package"):
        installed_components()


def test_versions_are_those_that_pip_lists():
    # In a process of its own: Ray, once imported, puts packages of its own on the path, which pip does not list.
    command = "import sys; from resnet_export.main import main; sys.exit(main(['doctor', '--licenses', '--json']))"
    bill = json.loads(
        subprocess.run([sys.executable, "-c", command], capture_output=True, check=True, text=True).stdout
    )
    words = [sys.executable, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check"]
    listed = json.loads(subprocess.run(words, capture_output=True, check=True, text=True).stdout)
    versions = {entry["name"].lower().replace("_", "-").replace(".", "-"): entry["version"] for entry in listed}
    found = {item["purl"].partition("/")[2].partition("@")[0]: item["version"] for item in bill["components"]}
    assert {"numpy", "pillow", "rich", "torch"} <= found.keys()
    assert found == {name: versions[name] for name in found}
