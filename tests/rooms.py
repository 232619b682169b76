"""The house as it stands: which folder imports which, measured from the code; `python tests/rooms.py` prints it.

    python tests/rooms.py             rooms, modules, arrows, circles
    python tests/rooms.py --write     draw them: docs/rooms.svg, of the architecture page

Every import counts, those under TYPE_CHECKING and inside functions too.
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
ORDER = ("runtimes", "exporter", "calibration", "resnet_export")
"""The top level; each package may import what stands left of it, and itself."""
MAX_MODULES = 15
"""Modules of one folder, `__init__` not counted."""
DRAWING = ROOT / "docs" / "rooms.svg"


def find_modules() -> dict[str, Path]:
    """Return dotted name -> file of every module of the four packages."""
    found = {}
    for package in ORDER:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


MODULES = find_modules()


@cache
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


COLUMN, BOX, ROW, TOP = 250, 196, 34, 74
"""Pixels: width of a package's column and of a room's box, height of a row, and of what stands above the rooms."""
FILLS = ("#cfe8dc", "#d7e3f4", "#f4e3cf", "#e6d9ee")


def drawing() -> str:
    """Return the house as SVG: a column per package, a box per room, an arrow per import between rooms.

    Arrows between packages are drawn once, above the columns, with the number of imports; they all point to the left.
    Arrows to a package itself (its errors) are left out.
    The colors are readable on white and on black.
    """
    arrows, counts = room_arrows(), module_counts()
    columns = [sorted(room for room in arrows if room.split(".")[0] == package) for package in ORDER]
    place = {room: (x, y) for x, rooms in enumerate(columns) for y, room in enumerate(rooms)}
    height = TOP + ROW * max(map(len, columns)) + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {COLUMN * len(ORDER)} {height}" '
        'font-family="sans-serif" font-size="13">',
        '<defs><marker id="tip" markerWidth="7" markerHeight="7" refX="6" refY="3.5" orient="auto">'
        '<path d="M0,0 L7,3.5 L0,7 z" fill="#888"/></marker></defs>',
    ]
    for room, targets in sorted(arrows.items()):
        inside = [target for target in sorted(targets) if "." in target and place[target][0] == place[room][0]]
        parts += [_arrow(place[room], place[target]) for target in inside]
    for room, (x, y) in place.items():
        label = room.partition(".")[2] or "(the package itself)"
        left, upper = COLUMN * x + 6, TOP + ROW * y
        parts.append(f'<rect x="{left}" y="{upper}" width="{BOX}" height="{ROW - 10}" rx="4" fill="{FILLS[x]}"/>')
        parts.append(f'<text x="{left + 8}" y="{upper + 16}" fill="#222">{label}</text>')
        parts.append(f'<text x="{left + BOX - 8}" y="{upper + 16}" fill="#555" text-anchor="end">{counts[room]}</text>')
    for x, package in enumerate(ORDER):
        parts.append(f'<text x="{COLUMN * x + 6}" y="{TOP - 12}" fill="#888" font-size="17">{package}</text>')
    parts += _arrows_between_packages(arrows)
    return "\n".join([*parts, "</svg>", ""])


def _arrow(start: tuple[int, int], end: tuple[int, int]) -> str:
    """Return an arrow beside a column, from one of its rooms to another."""
    x, first, last = COLUMN * start[0] + 6 + BOX, TOP + ROW * start[1] + 12, TOP + ROW * end[1] + 12
    bulge = 8 + 5 * abs(start[1] - end[1])
    path = f"M{x},{first} C{x + bulge},{first} {x + bulge},{last} {x},{last}"
    return f'<path d="{path}" fill="none" stroke="#888" stroke-opacity="0.55" marker-end="url(#tip)"/>'


def _arrows_between_packages(arrows: Mapping[str, Counter[str]]) -> Iterator[str]:
    """Yield, above the columns, an arrow for each pair of packages, with the number of imports."""
    between: Counter[tuple[int, int]] = Counter()
    for room, targets in arrows.items():
        for target, count in targets.items():
            pair = ORDER.index(room.split(".")[0]), ORDER.index(target.split(".")[0])
            between[pair] += count if pair[0] != pair[1] else 0
    for (start, end), count in sorted(between.items()):
        if not count:
            continue
        y, left, right = 10 + 14 * (start - end - 1), COLUMN * end + 150 + 9 * start, COLUMN * start + 40 - 9 * end
        yield f'<path d="M{right},{y} L{left},{y}" stroke="#888" marker-end="url(#tip)"/>'
        yield f'<text x="{right + 4}" y="{y + 4}" fill="#888" font-size="11">{count}</text>'


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
    parser.add_argument("--write", action="store_true", help=f"draw them: {DRAWING.relative_to(ROOT)}")
    if parser.parse_args().write:
        DRAWING.write_text(drawing(), encoding="utf-8")
    print(report())
    return 0


if __name__ == "__main__":
    sys.exit(main())
