"""The report as JUnit XML: one test suite, a test case per file and gate. Test viewers of CI servers read it.

    pass          a test case without children
    fail          <failure>
    inconclusive  <error>: the test could not decide; viewers show it as not passed
    skipped       <skipped>

Source of the format: junit-10.xsd of Jenkins' xUnit plugin, which the tests validate against.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

SUITE = "resnet-export verify"

_ELEMENTS = {"fail": "failure", "inconclusive": "error", "skipped": "skipped"}

_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Characters that XML 1.0 cannot hold. Source: Extensible Markup Language (XML) 1.0, production 2."""


def junit_xml(report: Mapping[str, Any]) -> str:
    """Return the XML text of a report (`runtimes.verification.report`)."""
    suites = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(suites, "testsuite", name=SUITE)
    counts = {"tests": 0, "failure": 0, "error": 0, "skipped": 0}
    for file in report["files"]:
        for gate in file["gates"]:
            place, told = f"{file['name']}.{gate['on']}", gate["sentence"]
            _add_case(suite, counts, place, gate["name"], verdict=gate["verdict"], sentence=told)
    baseline = report["baseline"]
    for change in () if baseline is None else baseline["changes"]:
        verdict = "fail" if change["verdict"] in ("worse", "missing") else "pass"
        name = f"{change['file']}.{change['on']}.baseline"
        _add_case(suite, counts, name, change["metric"], verdict=verdict, sentence=change["sentence"])
    suite.set("tests", str(counts["tests"]))
    suite.set("failures", str(counts["failure"]))
    suite.set("errors", str(counts["error"]))
    suite.set("skipped", str(counts["skipped"]))
    suite.set("timestamp", str(report["tool"]["created"])[:19])
    if causes := [f"{cause['file']}: {cause['sentence']}" for cause in report["causes"]]:
        ElementTree.SubElement(suite, "system-out").text = _text("\n".join(causes))
    ElementTree.indent(suites)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def _add_case(
    suite: ElementTree.Element, counts: dict[str, int], classname: str, name: str, *, verdict: str, sentence: str
) -> None:
    case = ElementTree.SubElement(suite, "testcase", classname=_text(classname), name=_text(name), time="0")
    counts["tests"] += 1
    if (element := _ELEMENTS.get(verdict)) is None:
        return
    counts[element] += 1
    ElementTree.SubElement(case, element, message=_text(sentence), type=verdict)


def _text(text: str) -> str:
    return _NOT_XML.sub("\ufffd", text)
