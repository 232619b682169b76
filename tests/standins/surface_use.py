"""What the code that calls TensorRT uses of it, read off its source, and which of that a version does not have.

The source is walked as a version would run it: `hasattr` on the library is answered from the version's recorded
surface, and what its branches exclude is left out. So a call without its guard is found without running anything.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

MODULE_NAMES = ("trt", "module")
"""Variables and attributes that hold the imported library."""

CLASS_OF_NAME = {
    "builder": "Builder",
    "calibrator": "IInt8EntropyCalibrator2",
    "config": "IBuilderConfig",
    "context": "IExecutionContext",
    "_context": "IExecutionContext",
    "engine": "ICudaEngine",
    "meanwhile": "ITimingCache",
    "inspector": "EngineInspector",
    "layer": "ILayer",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "parser_refitter": "OnnxParserRefitter",
    "profile": "IOptimizationProfile",
    "refitter": "Refitter",
    "runtime": "Runtime",
    "tensor": "ITensor",
    "timing_cache": "ITimingCache",
}
"""Variables and attributes of the code to the class of what they hold."""

NESTED = {("ILogger", "Severity")}
"""What a class holds that is neither method nor property."""


@dataclass(frozen=True)
class Misuse:
    """One thing that a version does not have."""

    line: int
    what: str

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}"


def misuses(source: str, surface: dict[str, Any]) -> list[Misuse]:
    """Return what the source uses and the surface lacks, in order."""
    return sorted(_Walk(surface).statements(ast.parse(source).body), key=lambda found: found.line)


def parameters(signature: str) -> list[tuple[str, bool]]:
    """Return (name, has a default) of each parameter of a recorded signature, without `self`."""
    depth, start, parts = 0, 1, []
    for place, character in enumerate(signature):
        depth += (character in "([") - (character in ")]")
        if (character == "," and depth == 1) or depth == 0:
            parts.append(signature[start:place])
            start = place + 1
        if depth == 0:
            break
    named = [part.strip() for part in parts if part.strip()]
    return [(part.split(":")[0].split("=")[0].strip(), "=" in part) for part in named]


class _Walk:
    def __init__(self, surface: dict[str, Any]) -> None:
        self.enums, self.classes = surface["enums"], surface["classes"]

    def statements(self, body: Sequence[ast.stmt]) -> Iterator[Misuse]:
        for statement in body:
            if isinstance(statement, ast.If):
                answer = self.answer(statement.test)
                yield from self.node(statement.test)
                if answer is not False:
                    yield from self.statements(statement.body)
                if answer is not True:
                    yield from self.statements(statement.orelse)
                taken = statement.body if answer else statement.orelse
                if answer is not None and taken and isinstance(taken[-1], ast.Return | ast.Raise | ast.Continue):
                    return
            else:
                yield from self.node(statement)

    def node(self, node: ast.AST) -> Iterator[Misuse]:
        """Look at an expression or statement and all inside it."""
        if isinstance(node, ast.IfExp):
            answer = self.answer(node.test)
            parts = [node.test, *([node.body] * (answer is not False)), *([node.orelse] * (answer is not True))]
        elif isinstance(node, ast.BoolOp):
            parts = list(self.asked_in(node))
        else:
            if isinstance(node, ast.Attribute):
                yield from self.attribute(node)
            elif isinstance(node, ast.Call):
                yield from self.call(node)
            parts = [child for name, child in ast.iter_fields(node) if isinstance(child, ast.AST)]
            for _, value in ast.iter_fields(node):
                if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                    yield from self.statements(value)
                elif isinstance(value, list):
                    parts.extend(item for item in value if isinstance(item, ast.AST))
        for part in parts:
            yield from self.node(part)

    def asked_in(self, node: ast.BoolOp) -> Iterator[ast.expr]:
        """Return the operands that are reached."""
        decided = isinstance(node.op, ast.Or)
        for value in node.values:
            yield value
            if self.answer(value) is decided:
                return

    def answer(self, test: ast.expr) -> bool | None:
        """Return what a test of `hasattr` gives in this version; None where it depends on something else."""
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            inner = self.answer(test.operand)
            return None if inner is None else not inner
        if isinstance(test, ast.BoolOp):
            answers = [self.answer(value) for value in test.values]
            decided = isinstance(test.op, ast.Or)
            return decided if decided in answers else None if None in answers else not decided
        if isinstance(test, ast.Call) and isinstance(test.func, ast.Name) and test.func.id == "hasattr":
            owner, name = test.args
            members = self.members(owner)
            return None if members is None or not isinstance(name, ast.Constant) else name.value in members
        return None

    def members(self, owner: ast.expr) -> Any:
        """Return the members of what an expression holds: a dict by name, or None where that is nothing of TensorRT."""
        last = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else None
        if last in MODULE_NAMES:
            return {**self.enums, **self.classes}
        if isinstance(owner, ast.Attribute) and self._is_module(owner.value):
            return {**self.enums, **self.classes}.get(owner.attr)
        return self.classes.get(CLASS_OF_NAME.get(last or "", ""))

    @staticmethod
    def _is_module(node: ast.expr) -> bool:
        name = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else None
        return name in MODULE_NAMES

    def attribute(self, node: ast.Attribute) -> Iterator[Misuse]:
        members = self.members(node.value)
        if members is None or node.attr.startswith("__"):
            return
        if isinstance(node.value, ast.Attribute) and (node.value.attr, node.attr) in NESTED:
            return
        if node.attr not in members:
            known = self._is_module(node.value) and node.attr in ("EngineValidity", "ComputeCapability")
            if not known:  # TensorRT-RTX's own; that they are guarded is tested on TensorRT-RTX
                yield Misuse(node.lineno, f"no {ast.unparse(node)}")
        elif isinstance(node.ctx, ast.Store) and members[node.attr] != "read, write":
            yield Misuse(node.lineno, f"{ast.unparse(node)} cannot be set")

    def call(self, node: ast.Call) -> Iterator[Misuse]:
        if not isinstance(node.func, ast.Attribute) or node.func.attr == "__init__":
            return  # a subclass hands itself to the constructor
        members = self.members(node.func.value)
        signatures = (members or {}).get(node.func.attr)
        if isinstance(signatures, dict):
            signatures = signatures.get("__init__")
        if not isinstance(signatures, list) or not signatures or any(isinstance(a, ast.Starred) for a in node.args):
            return
        if not any(self.fits(node, parameters(signature)) for signature in signatures):
            yield Misuse(node.lineno, f"{ast.unparse(node)} does not fit {' or '.join(signatures)}")

    @staticmethod
    def fits(node: ast.Call, expected: list[tuple[str, bool]]) -> bool:
        given = {word.arg for word in node.keywords}
        names = [name for name, _ in expected]
        if len(node.args) > len(names) or not given <= set(names[len(node.args) :]):
            return False
        return all(default or name in given for name, default in expected[len(node.args) :])
