"""The house as it stands: which folder imports which, measured from the code; `python tests/rooms.py` prints it.

    python tests/rooms.py             rooms, modules, arrows, circles
    python tests/rooms.py --write     put the drawing into docs/architecture.md

Every import counts, those under TYPE_CHECKING and inside functions too.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
ORDER = ("runtimes", "exporter", "calibration", "resnet_export")
"""The top level; each package may import what stands left of it, and itself."""
MAX_MODULES = 15
"""Modules of one folder, `__init__` not counted."""
DRAWING = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- rooms: begin -->", "<!-- rooms: end -->"


def find_modules() -> dict[str, Path]:
    """Return dotted name -> file of every module of the four packages."""
    found = {}
    for package in ORDER:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = find_modules()


def imports_of(path: Path, *, module_level: bool = False) -> set[str]:
    """Return the modules of this project that a file imports; a name that is itself a module counts as that module."""
    return set(_imports(ast.parse(path.read_text(encoding="utf-8")), module_level=module_level))


def _imports(node: ast.AST, *, module_level: bool) -> Iterator[str]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names if alias.name.split(".")[0] in ORDER)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative import"
            if child.module and child.module.split(".")[0] in ORDER:
                for alias in child.names:
                    inner = f"{child.module}.{alias.name}"
                    yield inner if inner in MODULES else child.module
        elif module_level and (isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)) or _is_type_checking(child)):
            continue
        else:
            yield from _imports(child, module_level=module_level)


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def is_package(module: str) -> bool:
    """Whether a module is a folder's `__init__`."""
    return MODULES[module].name == "__init__.py"


def room_of(module: str) -> str:
    """Return the folder of a module, dotted."""
    return module if is_package(module) else module.rpartition(".")[0]


def file_arrows() -> dict[str, set[str]]:
    """Return module -> modules that it imports.

    The front doors (`runtimes`, `exporter`, `calibration`, `resnet_export` themselves) name the modules behind them
    so that users need not; inside the house nobody enters through the front door.
    """
    return {name: imports_of(path) - {name} for name, path in MODULES.items() if name not in ORDER}


def room_arrows() -> dict[str, Counter[str]]:
    """Return room -> rooms that its modules import, with the number of imports."""
    arrows: dict[str, Counter[str]] = {room_of(name): Counter() for name in MODULES if name not in ORDER}
    for name, targets in file_arrows().items():
        for target in targets:
            if room_of(target) != room_of(name):
                arrows[room_of(name)][room_of(target)] += 1
    return arrows


def find_circle(arrows: Mapping[str, object]) -> list[str]:
    """Return one circle of `arrows` as a list of names, first and last alike; empty if there is none."""
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name not in done:
            for target in sorted(arrows.get(name, ())):  # type: ignore[call-overload]
                if circle := visit(target, (*way, name)):
                    return circle
            done.add(name)
        return []

    return next((circle for name in sorted(arrows) if (circle := visit(name, ()))), [])


def module_counts() -> Counter[str]:
    """Return room -> number of its modules, `__init__` not counted."""
    return Counter(room_of(name) for name in MODULES if not is_package(name))


def drawing() -> str:
    """Return the rooms and their arrows as a Mermaid flowchart, one box per top-level package."""
    counts, arrows = module_counts(), room_arrows()
    lines = ["```mermaid", "flowchart LR"]
    for package in ORDER:
        lines.append(f"  subgraph {package}")
        for room in sorted(room for room in arrows if room.split(".")[0] == package):
            label = room.partition(".")[2] or package
            lines.append(f'    {room.replace(".", "_")}_room["{label} ({counts[room]})"]')
        lines.append("  end")
    packages: Counter[tuple[str, str]] = Counter()
    for room, targets in arrows.items():
        for target, count in targets.items():
            if room.split(".")[0] != target.split(".")[0]:
                packages[room.split(".")[0], target.split(".")[0]] += count
    lines += [f"  {start} -->|{count}| {end}" for (start, end), count in sorted(packages.items())]
    return "\n".join([*lines, "```"])


def report() -> str:
    """Return rooms, modules and arrows as text."""
    counts, lines = module_counts(), []
    for room, targets in sorted(room_arrows().items()):
        named = ", ".join(f"{target} ({count})" for target, count in sorted(targets.items()))
        lines.append(f"{room:38} {counts[room]:2} modules -> {named or 'nothing'}")
    for what, arrows in (("files", file_arrows()), ("folders", room_arrows())):
        circle = find_circle(arrows)
        lines.append(f"circle of {what}: {' -> '.join(circle) if circle else 'none'}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description="print the house: rooms, arrows, circles")
    parser.add_argument("--write", action="store_true", help=f"put the drawing into {DRAWING.relative_to(ROOT)}")
    if parser.parse_args().write:
        text = DRAWING.read_text(encoding="utf-8")
        head, rest = text.split(BEGIN)
        DRAWING.write_text(f"{head}{BEGIN}\n{drawing()}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    print(report())
    return 0


if __name__ == "__main__":
    sys.exit(main())
