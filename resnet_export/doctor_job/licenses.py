"""`resnet-export doctor --licenses`: what of other people is installed for this tool, and under which license.

Read from the metadata of the installed packages, without a network and without importing any of them: what this tool
asks for, with all its extras, and what those ask for in turn, as far as it is installed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import Any

from exporter.errors import ExportError
from exporter.version import __version__
from resnet_export.console.terminal import print_table
from runtimes.machine.installed_versions import installed_versions

OWN_NAME = "resnet-export"
UNKNOWN = "unknown"

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
"""A package's name at the start of a requirement. Source: PEP 508."""


@dataclass(frozen=True, slots=True)
class Component:
    """One installed package.

    Attributes:
        license: SPDX expression where the package gives one, else its words, else "unknown".
        is_expression: Whether `license` is an SPDX expression.
        needs: Names of the installed packages that it asks for, normalized.
    """

    name: str
    version: str
    license: str
    is_expression: bool
    needs: tuple[str, ...]


def installed_components() -> tuple[Component, ...]:
    """Return every package that is installed for this tool, by name.

    Raises:
        ExportError: If this tool itself is not installed as a package, so that nothing says what it asks for.
    """
    try:
        waiting = list(_required(metadata.distribution(OWN_NAME), with_extras=True))
    except metadata.PackageNotFoundError as err:
        raise ExportError(
            f"{OWN_NAME} is not installed as a package, so what it depends on is not known; pip install it"
        ) from err
    found: dict[str, Component] = {}
    while waiting:
        name = waiting.pop()
        if name in found or name == OWN_NAME:
            continue
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # an extra, or for another system
            continue
        needs = tuple(sorted(set(_required(distribution, with_extras=False))))
        found[name] = _component(distribution, needs)
        waiting += needs
    return tuple(found[name] for name in sorted(found))


def _required(distribution: metadata.Distribution, *, with_extras: bool) -> Iterator[str]:
    """Yield the normalized names of what a package asks for, also what it asks for on other systems only."""
    for requirement in distribution.requires or ():
        wanted, _, marker = requirement.partition(";")
        name = _NAME.match(wanted.strip())
        if name is not None and (with_extras or "extra" not in marker):
            yield _normalized(name.group())


def _normalized(name: str) -> str:
    """Return a name as indexes compare it. Source: PEP 503."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _component(distribution: metadata.Distribution, needs: Sequence[str]) -> Component:
    told = distribution.metadata
    expression = _field(told, "License-Expression")
    classifiers = [
        words.rpartition(" :: ")[2] for words in told.get_all("Classifier") or () if words.startswith("License ::")
    ]
    text = _field(told, "License") or ""
    short = text if text and "\n" not in text and len(text) < 100 else ""  # some put the whole license there
    words = expression or short or " AND ".join(classifiers) or UNKNOWN
    return Component(
        told["Name"], distribution.version, words, expression is not None, tuple(installed_versions(needs))
    )


def _field(told: metadata.PackageMetadata, name: str) -> str | None:
    return told[name].strip() if name in told else None


def print_licenses(components: Sequence[Component]) -> None:
    """Print one line per package."""
    rows = [(item.name, item.version, item.license) for item in components]
    print_table("installed for resnet-export", ("package", "version", "license"), rows, [])


def bill_of_materials(components: Sequence[Component]) -> dict[str, Any]:
    """Return the packages as a CycloneDX bill of materials.

    Source: CycloneDX 1.6, JSON reference (ECMA-424); package URLs: purl-spec, type "pypi".
    """
    own = f"pkg:pypi/{OWN_NAME}@{__version__}"
    references = {_normalized(item.name): _package_url(item) for item in components}
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": {
                "type": "application",
                "bom-ref": own,
                "name": OWN_NAME,
                "version": __version__,
                "licenses": [{"expression": "Apache-2.0"}],
                "purl": own,
            }
        },
        "components": [
            {
                "type": "library",
                "bom-ref": _package_url(item),
                "name": item.name,
                "version": item.version,
                "licenses": _licenses(item),
                "purl": _package_url(item),
            }
            for item in components
        ],
        "dependencies": [
            {"ref": _package_url(item), "dependsOn": [references[name] for name in item.needs if name in references]}
            for item in components
        ],
    }


def _package_url(item: Component) -> str:
    return f"pkg:pypi/{_normalized(item.name)}@{item.version.replace('+', '%2B')}"


def _licenses(item: Component) -> list[dict[str, Any]]:
    if item.license == UNKNOWN:
        return []
    return [{"expression": item.license}] if item.is_expression else [{"license": {"name": item.license}}]
