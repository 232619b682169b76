"""The families of rules, in the order in which their findings are shown; one from outside comes last.

A family is a module with its rules and one function that looks for all of them. Another one is registered by
`RULE_FAMILIES.register`, or declared as an entry point of the group "resnet_export.lint_rules"; see docs/extending.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from calibration.lint.finding import Finding, LintTarget, Rule
from calibration.lint.quantized_graph import QuantizedGraph
from runtimes.registry import Registry


@dataclass(frozen=True, slots=True)
class BatchNormFate:
    """BatchNormalizations by first output: to the layer that folding would put them in, or to why it leaves them."""

    folded: Mapping[str, str]
    kept: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class LintSubject:
    """Input of every rule.

    Attributes:
        graph: The file.
        target: Where it shall run.
        batchnorms: What folding would do; None where nobody was asked, or there is no BatchNormalization.
        checker_problem: What onnx's checker refuses, or "".
    """

    graph: QuantizedGraph
    target: LintTarget
    batchnorms: BatchNormFate | None = None
    checker_problem: str = ""


@dataclass(frozen=True, slots=True)
class RuleFamily:
    """Rules that are looked for together.

    Attributes:
        rules: All of them; their ids and names are given once among all families.
        check: Yields what was found. It gets any file that can be walked, also one that onnx's checker refuses.
    """

    rules: tuple[Rule, ...]
    check: Callable[[LintSubject], Iterable[Finding]]


def rules_in(names: Mapping[str, object]) -> tuple[Rule, ...]:
    """Return the rules among a module's names, in the order in which they are written."""
    return tuple(value for value in names.values() if isinstance(value, Rule))


RULE_FAMILIES: Registry[RuleFamily] = Registry(
    "family of lint rules",
    RuleFamily,
    group="resnet_export.lint_rules",
    builtin={
        "dialect": "calibration.lint.dialect_rules:FAMILY",
        "residual": "calibration.lint.residual_rules:FAMILY",
        "coverage": "calibration.lint.coverage_rules:FAMILY",
        "scale": "calibration.lint.scale_rules:FAMILY",
        "session": "calibration.lint.session_rules:FAMILY",
        "target": "calibration.lint.target_rules:FAMILY",
        "interface": "calibration.lint.interface_rules:FAMILY",
        "batchnorm": "calibration.lint.batchnorm_rules:FAMILY",
    },
)
"""Family to its rules."""


def all_rules() -> tuple[Rule, ...]:
    """Return every rule, in the order in which findings are shown."""
    return tuple(rule for family in RULE_FAMILIES.values() for rule in family.rules)
