"""A lint report as SARIF 2.1.0, which code-scanning services show beside the file in a pull request.

Source: OASIS, Static Analysis Results Interchange Format (SARIF) Version 2.1.0; GitHub, "SARIF support for code
scanning" (a region is wanted even of a binary file; `partialFingerprints` keep an alert the same between commits).
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

from calibration.lint.finding import Finding, Rule
from calibration.lint.lint_report import LintReport
from calibration.lint.rule_registry import all_rules

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"

MAX_PLACES = 100
"""Logical locations per result; GitHub reads no more than 100 locations of one result."""


def sarif_log(report: LintReport, *, tool_version: str, root: Path) -> dict[str, Any]:
    """Return the log as JSON values.

    Raises:
        ValueError: If the report is of a model in memory.
    """
    if report.path is None:
        raise ValueError("SARIF needs the location of a file; lint a file, not a model in memory")
    location = {"uri": _relative_uri(report.path, root), "uriBaseId": "%SRCROOT%"}
    rules = list(all_rules())
    driver = {"name": "resnet-export", "version": tool_version, "rules": [_descriptor(rule) for rule in rules]}
    run = {
        "tool": {"driver": driver},
        "artifacts": [{"location": location, "roles": ["analysisTarget"]}],
        "columnKind": "utf16CodeUnits",
        "results": [_result(finding, rules.index(finding.rule), location) for finding in report.findings],
        "properties": {"target": report.target.name, "dialect": report.summary.dialect},
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _relative_uri(path: Path, root: Path) -> str:
    resolved = path.resolve()
    base = root.resolve()
    relative = resolved.relative_to(base) if resolved.is_relative_to(base) else Path(resolved.name)
    return quote(relative.as_posix(), errors="surrogateescape")


def _descriptor(rule: Rule) -> dict[str, Any]:
    name = "".join(word.capitalize() for word in rule.name.split("-"))
    return {
        "id": rule.id,
        "name": name,
        "shortDescription": {"text": f"{rule.summary}."},
        "fullDescription": {"text": f"{rule.summary}. {rule.remedy}."},
        "help": {"text": f"{rule.remedy}."},
        "defaultConfiguration": {"level": rule.severity.value},
        "properties": {"tags": ["onnx", "quantization"]},
    }


def _result(finding: Finding, rule_index: int, location: dict[str, str]) -> dict[str, Any]:
    where: dict[str, Any] = {"physicalLocation": {"artifactLocation": location, "region": {"startLine": 1}}}
    shown = zip(finding.places[:MAX_PLACES], finding.nodes[:MAX_PLACES], strict=True)
    if logical := [
        {"name": place, "fullyQualifiedName": node, "kind": "member"} if node else {"name": place, "kind": "member"}
        for place, node in shown
    ]:
        where["logicalLocations"] = logical
    text = finding.message if not finding.places else f"{finding.message}: {', '.join(finding.places[:MAX_PLACES])}"
    identity = "\n".join((finding.rule.id, location["uri"], *finding.nodes))
    return {
        "ruleId": finding.rule.id,
        "ruleIndex": rule_index,
        "level": finding.severity.value,
        "message": {"text": f"{text}. {finding.rule.remedy}."},
        "locations": [where],
        "partialFingerprints": {"ruleAndNodes/v1": hashlib.sha256(identity.encode()).hexdigest()},
    }
