"""Description of a loaded model: which file, on what it really runs, and what to know about that."""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from runtimes.io.json_fields import JsonFields, json_fields
from runtimes.machine.installed_versions import installed_versions
from runtimes.protocol import TensorSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelDescription(JsonFields):
    """Description of an open model.

    Attributes:
        file: Path of the file that was loaded.
        precision: "fp32", "fp16", "int8" or "int8-fp16"; None for a file that no manifest or sidecar tells of.
        runtime: "ONNX Runtime", "TensorRT", "TensorRT-RTX", or another one's name.
        provider: What computes: ONNX Runtime's name of the provider, or of the engine's library.
        node_providers: Node to the provider that really runs it; empty where the runtime does not tell (an engine is
            one piece).
        reason: Why this file and this provider.
        batch: "any", or the engine's profile such as "1-32, more in pieces", or a file's one size.
        threads: Threads of one operator on the CPU; None where the runtime chose, or there are none.
        exact: Whether INT8 is computed as written (quantize, dequantize, float sums), as TensorRT computes it.
        may_saturate: Whether integer kernels may add in 16 bits on this CPU (`runtimes.ort.int8_kernels`).
        notes: What to know, in sentences.
    """

    file: str
    precision: str | None
    runtime: str
    provider: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    node_providers: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""
    batch: str = "any"
    threads: int | None = None
    exact: bool = False
    may_saturate: bool = False
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def nodes_per_provider(self) -> Mapping[str, int]:
        """Provider to how many nodes it runs."""
        return dict(Counter(self.node_providers.values()))

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON holds it."""
        content = json_fields(self) | {"nodes_per_provider": dict(self.nodes_per_provider)}
        for ends in ("inputs", "outputs"):
            content[ends] = {name: str(spec) for name, spec in getattr(self, ends).items()}
        return content

    def __str__(self) -> str:
        """Return a few lines for people."""
        counts = ", ".join(f"{count} nodes on {name}" for name, count in self.nodes_per_provider.items())
        lines = [
            f"file       {self.file} ({self.precision or 'precision not known'})",
            f"runs on    {self.runtime}, {self.provider}{f' ({counts})' if counts else ''}",
            f"because    {self.reason}",
            f"batch      {self.batch}",
            *(f"input      {name} {spec}" for name, spec in self.inputs.items()),
            *(f"output     {name} {spec}" for name, spec in self.outputs.items()),
            f"threads    {self.threads or 'as the runtime chooses'}",
            *(f"note       {note}" for note in self.notes),
            f"versions   {', '.join(f'{name} {version}' for name, version in self.versions.items())}",
        ]
        return "\n".join(lines)


def library_versions(**runtime: str) -> dict[str, str]:
    """Return the versions of Python, NumPy, Pillow (where it is installed) and of what is given."""
    return {"python": platform.python_version(), **installed_versions(("numpy", "pillow")), **runtime}
