"""Accuracy parity that a CI can trust: metrics over batches of logits, gates with verdicts, reports and baselines.

    LogitMeter      adds up batches of reference and candidate logits
    judge           metrics and gates -> a verdict each, with a sentence
    build_report    everything as one JSON dictionary (its shape: `runtimes.verification.report`)
    compare_baseline  that dictionary against a stored one: what moved beyond noise
    junit_xml, markdown_summary   the dictionary for test viewers and for a CI's summary page

NumPy only: a device checks itself with the code that a workstation uses.
"""

from __future__ import annotations

from runtimes.verification.gates import Gate, GateResult, Verdict, judge
from runtimes.verification.logit_comparison import ClassResult, Flip, LogitComparison
from runtimes.verification.logit_meter import LogitMeter

__all__ = ["ClassResult", "Flip", "Gate", "GateResult", "LogitComparison", "LogitMeter", "Verdict", "judge"]
