"""Accuracy parity that a CI can trust: metrics over batches of logits, gates with verdicts, reports and baselines.

    LogitMeter      adds up batches of reference and candidate logits
    judge           metrics and gates -> a verdict each, with a sentence
    .gate_options   thresholds from words and TOML files
    .report         everything as one JSON dictionary; its shape stands there
    .baseline       that dictionary against a stored one: what moved beyond noise
    .junit, .markdown   the dictionary for test viewers and for a CI's summary page

NumPy only: a device checks itself with the code that a workstation uses.
"""

from __future__ import annotations

from runtimes.metrics.logit_comparison import ClassResult, Flip, LogitComparison
from runtimes.metrics.logit_meter import LogitMeter
from runtimes.verification.gates import Gate, GateResult, Verdict, judge

__all__ = ["ClassResult", "Flip", "Gate", "GateResult", "LogitComparison", "LogitMeter", "Verdict", "judge"]
