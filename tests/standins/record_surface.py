"""Record what TensorRT's real Python bindings offer, version by version, into `surfaces/VERSION.json`.

    python tests/standins/record_surface.py            # all versions: 4.5 MB of wheels, about 10 seconds
    python tests/standins/record_surface.py 11.4       # one

Kept are the classes, members and enums that this project may use; nothing else is asked of a version.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("surfaces")

ENUMS = (
    "BuilderFlag",
    "DataType",
    "DeviceType",
    "EngineCapability",
    "HardwareCompatibilityLevel",
    "LayerInformationFormat",
    "LayerType",
    "MemoryPoolType",
    "NetworkDefinitionCreationFlag",
    "OnnxParserFlag",
    "PreviewFeature",
    "ProfilingVerbosity",
    "TensorIOMode",
    "TensorLocation",
)

CLASSES: dict[str, tuple[str, ...]] = {
    "Builder": (),
    "EngineInspector": (),
    "IBuilderConfig": (),
    "ICudaEngine": (),
    "IExecutionContext": (),
    "IHostMemory": (),
    "IInt8EntropyCalibrator2": (),
    "ILayer": (),
    "ILogger": (),
    "INetworkDefinition": ("add_", "mark_", "unmark_", "remove_"),
    "IOptimizationProfile": (),
    "IProfiler": (),
    "IProgressMonitor": (),
    "ITensor": (),
    "ITimingCache": (),
    "OnnxParser": (),
    "OnnxParserRefitter": (),
    "ParserError": (),
    "Refitter": (),
    "Runtime": (),
}
"""Class to the beginnings of members that are left out: the project parses networks and never writes them."""


def surface(trt: Any) -> dict[str, Any]:
    """Return enums (member to number) and classes (member to what it is) of an imported `tensorrt`.

    A property is "read" or "read, write"; a method is the list of its signatures, without `self`.
    """
    return {
        "version": trt.__version__,
        "enums": {
            name: {member: int(value) for member, value in sorted(getattr(trt, name).__members__.items())}
            for name in ENUMS
            if hasattr(trt, name)
        },
        "classes": {
            name: _members(getattr(trt, name), left_out) for name, left_out in CLASSES.items() if hasattr(trt, name)
        },
    }


def _members(kind: Any, left_out: tuple[str, ...]) -> dict[str, Any]:
    names = [name for name in dir(kind) if name == "__init__" or not name.startswith("_")]
    found = {name: getattr(kind, name) for name in names if not (left_out and name.startswith(left_out))}
    return {
        name: ("read, write" if member.fset else "read") if isinstance(member, property) else _signatures(name, member)
        for name, member in found.items()
        if isinstance(member, property) or (callable(member) and not isinstance(member, type))
    }


def _signatures(name: str, method: Any) -> list[str]:
    """Read pybind11's signatures off the docstring; a class without a constructor has none."""
    lines = re.findall(rf"^(?:\d+\. )?{re.escape(name)}\((.*)$", method.__doc__ or "", re.MULTILINE)
    plain = [re.sub(r"\b(?:\w+\.)+(?=\w)", "", line) for line in lines]
    return [re.sub(r"^self(?:: [\w.]+)?(?:, )?", "(", line) for line in plain]


def record(version: str, folder: Path) -> dict[str, Any]:
    """Return the surface of the real bindings in `folder`, asked in a process of its own."""
    from standins.real_bindings import LEAN_PACKAGES, PACKAGES, module_of, run_with_bindings

    done = run_with_bindings(folder, __file__, "--print", module_of(version))
    if done.returncode:
        raise RuntimeError(f"the bindings of {version} do not tell: {done.stderr}")
    return {"package": {**PACKAGES, **LEAN_PACKAGES}[version], **json.loads(done.stdout)}


def load_surface(version: str) -> dict[str, Any]:
    """Return the recorded surface of a version."""
    content: dict[str, Any] = json.loads((FOLDER / f"{version}.json").read_text())
    return content


def _text(content: dict[str, Any]) -> str:
    """Return JSON with one line a member, so that a difference between versions reads as one."""
    lines = ["{", f'  "package": {json.dumps(content["package"])},', f'  "version": {json.dumps(content["version"])},']
    for part, last in (("enums", ","), ("classes", "")):
        blocks = []
        for name, members in content[part].items():
            rows = ",\n".join(f"      {json.dumps(member)}: {json.dumps(what)}" for member, what in members.items())
            blocks.append(f"    {json.dumps(name)}: {{\n{rows}\n    }}")
        lines.append(f'  "{part}": {{\n' + ",\n".join(blocks) + f"\n  }}{last}")
    return "\n".join([*lines, "}"]) + "\n"


def main(words: list[str]) -> None:
    """Record the versions named, or all."""
    if words[:1] == ["--print"]:
        print(json.dumps(surface(importlib.import_module(words[1]))))
        return
    from standins.real_bindings import CACHE, LEAN_PACKAGES, PACKAGES, bindings_folder

    FOLDER.mkdir(exist_ok=True)
    for version in words or [*PACKAGES, *LEAN_PACKAGES]:
        content = record(version, bindings_folder(version, CACHE))
        (FOLDER / f"{version}.json").write_text(_text(content))
        print(f"{version}: {content['package']}, {len(content['classes'])} classes, {len(content['enums'])} enums")


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    main(sys.argv[1:])
