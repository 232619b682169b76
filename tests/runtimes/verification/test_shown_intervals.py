"""One number has one interval: pages show the one by which the gates judged."""

import re

import pytest
from verify_reports import comparison, report

from runtimes.verification.markdown import markdown_summary
from runtimes.verification.shown_intervals import agreement_interval, drop_interval_pp


@pytest.mark.parametrize("num_flips", [0, 1, 3, 40])
def test_the_page_and_the_summary_show_the_interval_of_the_gate(num_flips):
    told = report(comparison(0.1, num_flips=num_flips))
    (file,) = told["files"]
    gates = {gate["name"]: gate for gate in file["gates"] if gate["interval"] is not None}
    metrics = file["comparisons"][0]["metrics"]
    assert agreement_interval(metrics) == pytest.approx(tuple(gates["agreement"]["interval"]))
    if "top1_drop_pp" in gates:
        assert drop_interval_pp(metrics) == pytest.approx(tuple(gates["top1_drop_pp"]["interval"]))
    low, high = (f"{100 * end:.2f} %" for end in gates["agreement"]["interval"])
    text = markdown_summary(told)
    assert f"({low} to {high})" in text
    html = pytest.importorskip("runtimes.verification.html.page").html_report(told)
    assert f"<small>{low} to {high}</small>" in re.sub(r"\s+", " ", html)
    others = {f"{100 * end:.2f} %" for end in metrics["agreement_interval"]} - {low, high}
    assert not any(f"{other} to" in html or f"to {other}" in html for other in others)


def test_there_is_none_where_answers_are_broken_or_missing():
    metrics = comparison(0.1).to_json()
    assert agreement_interval({**metrics, "num_nonfinite_candidate": 1}) is None
    assert drop_interval_pp({**metrics, "num_nonfinite_reference": 1}) is None
    assert drop_interval_pp({**metrics, "top1_drop_pp": None}) is None
    assert agreement_interval({**metrics, "num_images": 0, "num_flips": None}) is None


def test_no_class_name_is_cut_so_that_two_look_alike():
    """What the style does to names; how it looks was seen in Chromium."""
    page = pytest.importorskip("runtimes.verification.html.page").html_report(report(comparison(0.1, num_flips=3)))
    assert "text-overflow" not in page
