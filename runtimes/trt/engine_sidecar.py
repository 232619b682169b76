"""`<engine>.json`: what an engine was built from and for. The engine itself stays a plain plan that any tool loads.

An engine runs only on the TensorRT version, GPU and operating system it was built for, and TensorRT's own refusal says
little. So the builder writes these facts beside the plan, and they are compared before anything is deserialized. The
same facts are the cache key: a second build with equal facts reuses the engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from runtimes.bundle.manifest import BatchRange, FileEntry
from runtimes.errors import BundleError
from runtimes.io.bounded_read import read_json_file
from runtimes.io.json_fields import JsonFields, json_fields
from runtimes.io.json_types import check_kinds, finite
from runtimes.trt.tensorrt_library import FLAVOURS, base_version

SCHEMA_VERSION = 1
_OPTIONAL = ("facts", "shares_profile")


@dataclass(frozen=True, slots=True)
class EngineFacts(JsonFields):
    """Everything that decides whether an engine may be used: the cache key.

    Attributes:
        precision: "fp32", "fp16", "int8" or "int8-fp16".
        flavor: "tensorrt" or "rtx".
        gpu: Name of the GPU it was built on; None when built without one (TensorRT-RTX).
        compute_capability: Of that GPU, such as "8.7"; None when built without one.
        cuda: The newest CUDA that the driver runs, or None without a driver.
        system: Operating system and processor, such as "Linux x86_64".
        jetpack: JetPack version on a Jetson, or None.
        batch: The optimization profile.
        flags: Every build option that is not its default, name to value.
    """

    onnx_sha256: str
    precision: str
    flavor: str
    tensorrt_version: str
    gpu: str | None
    compute_capability: str | None
    cuda: str | None
    system: str
    jetpack: str | None
    batch: BatchRange
    flags: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Refuse facts of a wrong kind."""
        text = dict.fromkeys(("onnx_sha256", "precision", "tensorrt_version", "system"), str)
        maybe = dict.fromkeys(("gpu", "compute_capability", "cuda", "jetpack"), (str, type(None)))
        check_kinds({item.name: getattr(self, item.name) for item in fields(self)}, {**text, **maybe})
        if self.flavor not in FLAVOURS:
            raise ValueError(f"flavor: got {self.flavor!r}, expected one of {', '.join(FLAVOURS)}")

    def differences(self, other: EngineFacts) -> tuple[str, ...]:
        """Return what differs, as "tensorrt_version: 10.3.0, not 10.7.0" (own value first)."""
        mine, theirs = self.to_json(), other.to_json()
        for facts in (mine, theirs):
            facts["tensorrt_version"] = base_version(facts["tensorrt_version"])
        return tuple(f"{name}: {mine[name]}, not {theirs[name]}" for name in mine if mine[name] != theirs[name])


@dataclass(frozen=True, slots=True)
class EngineSidecar(JsonFields):
    """The content of `<engine>.json`.

    Attributes:
        facts: What decides whether the engine may be used.
        warnings: What TensorRT warned of during the build.
        tool: Name and version of what built it, and when.
        shares_profile: Whether several contexts may use its profile at the same time; our builder sees to that, which
            TensorRT 8.6 would not by itself. Older sidecars do not say, so False is assumed.
    """

    facts: EngineFacts
    engine_sha256: str
    engine_size_bytes: int
    onnx_file: str
    warnings: tuple[str, ...]
    tool: Mapping[str, str]
    build_seconds: float
    shares_profile: bool = False

    def __post_init__(self) -> None:
        """Refuse values of a wrong kind."""
        FileEntry(self.engine_sha256, self.engine_size_bytes)  # raises what is wrong with either
        finite("build_seconds", self.build_seconds)
        check_kinds({"onnx_file": self.onnx_file, **self.tool}, {"onnx_file": str, **dict.fromkeys(self.tool, str)})

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        return {"schema_version": SCHEMA_VERSION, **json_fields(self)}

    @classmethod
    def from_json(cls, content: Any) -> EngineSidecar:
        """Return the sidecar that `to_json` wrote.

        Raises:
            BundleError: If the schema is another, or a key is missing or of a wrong kind.
        """
        if not isinstance(content, Mapping) or content.get("schema_version") != SCHEMA_VERSION:
            got = content.get("schema_version") if isinstance(content, Mapping) else type(content).__name__
            raise BundleError(f"engine sidecar: got schema {got!r}, this version reads {SCHEMA_VERSION}")
        try:
            facts = dict(content["facts"])
            facts["batch"] = BatchRange(**facts["batch"])
            facts["flags"] = dict(facts["flags"])
            rest = {name: content[name] for item in fields(cls) if (name := item.name) not in _OPTIONAL}
            rest["shares_profile"] = content.get("shares_profile") is True
            rest["warnings"] = tuple(map(str, rest["warnings"]))
            rest["tool"] = dict(rest["tool"])
            return cls(facts=EngineFacts(**facts), **rest)
        except (KeyError, TypeError, ValueError, OverflowError) as err:
            raise BundleError(f"engine sidecar: cannot be read: {err!r}") from err


def sidecar_path(engine: Path) -> Path:
    """Return where the sidecar of `engine` is: `model.int8.engine` -> `model.int8.engine.json`."""
    return engine.with_name(f"{engine.name}.json")


def load_sidecar(engine: Path) -> EngineSidecar:
    """Read the sidecar of an engine.

    Raises:
        BundleError: If it is missing or cannot be read.
    """
    path = sidecar_path(engine)
    try:
        content = read_json_file(path)
    except OSError as err:
        if is_zipfile(engine):
            raise BundleError(
                f"{engine}: a zip archive; of a bundle: unpack it and give the folder; of weights: export them first"
            ) from err
        raise BundleError(
            f"{engine}: expected an ONNX file, or an engine of resnet-export build with its sidecar, but {path.name} "
            f"cannot be read ({err.strerror}); build the engine again"
        ) from err
    except ValueError as err:
        raise BundleError(f"{path}: not JSON ({err}); build the engine again") from err
    return EngineSidecar.from_json(content)
