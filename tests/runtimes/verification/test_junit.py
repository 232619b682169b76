"""JUnit files against junit-10.xsd of Jenkins' xUnit plugin (MIT; the copy that pytest's own tests use)."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from verify_reports import check, comparison, report

from runtimes.verification import Verdict
from runtimes.verification.junit import junit_xml
from runtimes.verification.report import with_baseline

SCHEMA = Path(__file__).with_name("junit-10.xsd")


@pytest.fixture(scope="module")
def schema():
    import xmlschema

    return xmlschema.XMLSchema(SCHEMA)


def reports():
    ill_formed = "a control character \x00, markup <b> & 'quotes', \ud800"
    yield report(comparison(0.05))
    yield report(comparison(0.05, num_flips=100), causes=[{"file": "x", "sentence": ill_formed}])
    yield report(comparison(0.05, num_images=20))
    yield report(comparison(0.05), checks=(check(Verdict.SKIPPED, ill_formed), check(Verdict.FAIL, ill_formed)))
    change = {"file": "x", "on": "val", "metric": "kl", "before": 1, "now": 2, "verdict": "worse", "sentence": "worse"}
    baseline = {"path": "b", "created": "", "verdict": "fail", "statement": "worse", "changes": [change]}
    yield with_baseline(report(comparison(0.05)), baseline)


@pytest.mark.parametrize("content", list(reports()))
def test_every_report_is_valid(schema, content, tmp_path):
    path = tmp_path / "verify.xml"
    path.write_text(junit_xml(content), encoding="utf-8")
    schema.validate(str(path))


def test_the_schema_refuses_what_is_no_junit(schema):
    assert not schema.is_valid("<testsuites><testsuite name='x'><test/></testsuite></testsuites>")


def test_one_test_case_per_file_and_gate_with_its_verdict():
    content = report(comparison(0.05, num_images=20, num_flips=1), checks=(check(Verdict.SKIPPED),))
    (suite,) = ElementTree.fromstring(junit_xml(content))
    cases = {case.get("name"): [child.tag for child in case] for case in suite.iter("testcase")}
    assert cases == {"sqnr_db": ["failure"], "agreement": ["error"], "top1_drop_pp": ["error"], "blocks": ["skipped"]}
    assert [suite.get(count) for count in ("tests", "failures", "errors", "skipped")] == ["4", "1", "2", "1"]
    message = suite.find("testcase/failure").get("message")
    assert message == content["files"][0]["gates"][0]["sentence"]


def test_what_moved_since_the_baseline_is_a_test_too():
    *_, content = reports()
    (suite,) = ElementTree.fromstring(junit_xml(content))
    case = suite.findall("testcase")[-1]
    assert (case.get("classname"), case.get("name"), case.find("failure").get("message")) == (
        "x.val.baseline",
        "kl",
        "worse",
    )
