"""`manifest.json`: what a bundle holds, where it came from, and the hash of every file. Read here, on the device too.

A manifest is data from outside: names that leave the folder, files that were changed and schemas of another version
are refused before anything is loaded.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtimes.bundle.file_names import LABELS_NAME, MANIFEST_NAME, MODEL_FILES
from runtimes.bundle.precision import option_words
from runtimes.bundle.signature import check_signature
from runtimes.errors import BundleError
from runtimes.io.bounded_read import MAX_JSON_BYTES, json_from_bytes, read_plain_file
from runtimes.io.json_fields import JsonFields, json_fields
from runtimes.io.json_types import check_kinds
from runtimes.io.stand_in import stand_in_at
from runtimes.metrics.answer_kind import KEY, AnswerKind, kind_in
from runtimes.preprocessing.transform import Preprocessing, pixels, preprocess

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image

SCHEMA_VERSION = 1
_MAX_SIZE = 2**31 - 1  # of an axis; TensorRT counts in 32 bits
_DIALECTS = ("tensorrt", "onnxruntime")  # see `int8_for_tensorrt`
_AGAIN = "copy the bundle again or export anew"
EDITED = "it was changed after the export: undo that, or export anew"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of the bundle: SHA-256 of its bytes, hexadecimal, and its size in bytes."""

    sha256: str
    size_bytes: int

    def __post_init__(self) -> None:
        """Refuse what is no hash or no size."""
        if not (isinstance(self.sha256, str) and re.fullmatch("[0-9a-f]{64}", self.sha256)):
            raise ValueError(f"sha256: got {self.sha256!r}, expected 64 hexadecimal digits")
        if type(self.size_bytes) is not int or self.size_bytes < 0:
            raise ValueError(f"size_bytes: got {self.size_bytes!r}, expected a whole number >= 0")


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One input or output: `shape` holds sizes, and names for dynamic axes (`"batch"`)."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    def __post_init__(self) -> None:
        """Refuse what names no tensor."""
        check_kinds({"name": self.name, "dtype": self.dtype}, {"name": str, "dtype": str})
        for size in self.shape:
            if not (isinstance(size, str) or (type(size) is int and 0 <= size <= _MAX_SIZE)):
                raise ValueError(f"shape of {self.name!r}: got {size!r}, expected sizes and names of axes")


@dataclass(frozen=True, slots=True)
class BatchRange:
    """Smallest, most usual and largest batch that engines are built for."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        """Refuse a range that is not one; TensorRT-RTX builds for a batch of 0 without a word."""
        sizes = (self.min, self.opt, self.max)
        if any(type(size) is not int for size in sizes):
            raise TypeError(f"batch: got {self.min!r},{self.opt!r},{self.max!r}, expected whole numbers")
        if not 1 <= self.min <= self.opt <= self.max <= _MAX_SIZE:
            raise ValueError(f"batch: got {self.min},{self.opt},{self.max}, expected 1 <= MIN <= OPT <= MAX")


DEFAULT_BATCH = BatchRange(1, 8, 32)
"""Batch sizes that engines are built for by default: one image at a time, up to what fills a small GPU."""


@dataclass(frozen=True, slots=True)
class Manifest(JsonFields):
    """The content of `manifest.json`.

    Attributes:
        model: `id`, `source`, `weights` in words, `weights_sha256`, `num_classes`.
        preprocessing: How images become inputs. Where the input is uint8, the model itself holds its `mean` and `std`,
            and `prepare` leaves them out.
        batch: What engines are built for.
        tool: Name and version of what wrote the bundle, and when (UTC, ISO 8601).
        libraries: Library name to version, and the Python and machine it ran on.
        folding: Which BatchNorms were folded and which not, and why.
        quantization: How INT8 was made, or None.
        parity: Measured comparison with PyTorch, as `report.json` has it.
        files: File name to hash and size; every file but the manifest.
    """

    model: Mapping[str, Any]
    preprocessing: Preprocessing
    inputs: tuple[TensorEntry, ...]
    outputs: tuple[TensorEntry, ...]
    batch: BatchRange
    target: str
    opset: int
    ir_version: int
    tool: Mapping[str, str]
    libraries: Mapping[str, str]
    options: Mapping[str, Any]
    folding: Mapping[str, Any]
    quantization: Mapping[str, Any] | None
    parity: Mapping[str, Any]
    files: Mapping[str, FileEntry]

    @property
    def int8_for_tensorrt(self) -> bool:
        """Whether INT8 is in TensorRT's dialect, which every runtime reads, and not in ONNX Runtime's own."""
        dialect = (self.quantization or {}).get("dialect")
        return (self.target if dialect is None else dialect) != "onnxruntime"

    @property
    def answers(self) -> AnswerKind | None:
        """What the files give, a Softmax of `--softmax` counted in; None where the export did not say."""
        return kind_in(self.model, softmax=bool(self.options.get("softmax")))

    @property
    def gives_one_number(self) -> bool:
        """Whether the answer is one number, as of a regression: no class is the best, and its softmax is always 1.

        One yes or no is a class: it has a probability of its own.
        """
        first = self.outputs[0].shape
        alone = len(self.outputs) == 1 and len(first) == 2 and first[1] == 1
        return alone and self.answers is not AnswerKind.INDEPENDENT

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that the bundle has a model in, the fullest first."""
        return tuple(precision for precision, file in MODEL_FILES.items() if file in self.files)

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """Return what the model's input takes of one picture of mode RGB, as `read_image` returns.

        Returns:
            float32 [3, H, W], normalized; or, where the input is uint8, the pixels [H, W, 3], because then the model
            holds the normalization.
        """
        if self.inputs[0].dtype == "uint8":
            return pixels(self.preprocessing, image)
        return preprocess(self.preprocessing, image)

    def to_json(self) -> dict[str, Any]:
        """Return the content of the file."""
        return {"schema_version": SCHEMA_VERSION, **json_fields(self)}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Manifest:
        """Return the manifest that `to_json` wrote.

        Raises:
            BundleError: If the schema is another, a key is missing or of a wrong type, or a name leaves the folder.
        """
        if not isinstance(content, Mapping):
            raise BundleError(f"{MANIFEST_NAME}: got {type(content).__name__}, expected an object")
        if (schema := content.get("schema_version")) != SCHEMA_VERSION or type(schema) is not int:
            raise BundleError(
                f"{MANIFEST_NAME}: got schema {schema!r}, this version reads {SCHEMA_VERSION}{_what_reads(content)}"
            )
        try:
            fields = {name: content[name] for name in cls.__slots__}
            _check_kinds(fields)
            fields["preprocessing"] = Preprocessing.from_json(fields["preprocessing"])
            for ends in ("inputs", "outputs"):
                fields[ends] = tuple(TensorEntry(**{**entry, "shape": tuple(entry["shape"])}) for entry in fields[ends])
            fields["batch"] = BatchRange(**fields["batch"])
            fields["files"] = {name: FileEntry(**entry) for name, entry in fields["files"].items()}
        except KeyError as err:
            raise BundleError(f"{MANIFEST_NAME}: got no {err}, which every manifest has; {EDITED}") from err
        except (TypeError, ValueError, AttributeError, OverflowError) as err:
            raise BundleError(f"{MANIFEST_NAME}: cannot be read: {err}; {EDITED}") from err
        if not fields["inputs"] or not fields["outputs"]:
            raise BundleError(f"{MANIFEST_NAME}: got no inputs or no outputs, expected at least one of each")
        for name in fields["files"]:
            if name != Path(name).name or name in ("", ".", "..") or "\\" in name:
                raise BundleError(f"{MANIFEST_NAME}: file name {name!r} leaves the bundle")
        manifest = cls(**fields)
        _check_agrees(manifest)
        return manifest


def _check_kinds(fields: Mapping[str, Any]) -> None:
    """Raise TypeError unless the values that are kept as they are have the JSON kind they are annotated with."""
    kinds: dict[str, type | tuple[type, ...]] = {"target": str, "opset": int, "ir_version": int}
    kinds |= dict.fromkeys(("model", "tool", "libraries", "options", "folding", "parity", "files"), dict)
    check_kinds(fields, {**kinds, "inputs": list, "outputs": list, "quantization": (dict, type(None))})
    check_kinds(fields["model"], {"id": str})
    if (kind := fields["model"].get(KEY)) is not None and kind not in (known := [each.value for each in AnswerKind]):
        raise ValueError(f"model {KEY!r}: got {kind!r}, expected one of {', '.join(known)}")
    check_kinds({"softmax": None, **fields["options"]}, {"softmax": (bool, type(None))})
    if (dialect := (fields["quantization"] or {}).get("dialect")) not in (None, *_DIALECTS):
        raise ValueError(f"quantization 'dialect': got {dialect!r}, expected one of {', '.join(_DIALECTS)}")
    for name in ("tool", "libraries"):
        check_kinds(fields[name], dict.fromkeys(fields[name], str))


def _check_agrees(manifest: Manifest) -> None:
    """Refuse a manifest whose preprocessing or number of classes is not what its inputs and outputs say."""
    channels, height, width = manifest.preprocessing.input_shape
    first = manifest.inputs[0]
    prepared = (height, width, channels) if first.dtype == "uint8" else (channels, height, width)
    if len(manifest.inputs) == 1 and not may_be(first.shape[1:], prepared):
        raise BundleError(
            f"{MANIFEST_NAME}: `preprocessing` ({manifest.preprocessing.in_words}) gives {list(prepared)}, but "
            f"`inputs` says {first.name!r} {list(first.shape)}; {EDITED}"
        )
    num_classes, answers = manifest.model.get("num_classes"), manifest.outputs[0]
    if len(manifest.outputs) > 1 or len(answers.shape) != 2 or num_classes is None:
        return
    if not may_be(answers.shape[1:], (num_classes,)):
        raise BundleError(
            f"{MANIFEST_NAME}: `model.num_classes` is {num_classes!r}, but `outputs` says {answers.name!r} "
            f"{list(answers.shape)}; {EDITED}"
        )


def may_be(declared: tuple[int | str, ...], sizes: tuple[int | None, ...]) -> bool:
    """Tell whether a declared shape, in which a name may be any size, admits these sizes; None is one not known."""
    return len(declared) == len(sizes) and all(
        isinstance(want, str) or size is None or want == size for want, size in zip(declared, sizes, strict=True)
    )


def _what_reads(content: Mapping[str, Any]) -> str:
    """Return what to do about a bundle of another schema."""
    schema, tool = content.get("schema_version"), content.get("tool")
    if type(schema) is int and schema > SCHEMA_VERSION:
        version = tool.get("version") if isinstance(tool, dict) else None
        wrote = f"{version}, which wrote it, or newer" if isinstance(version, str) else "of a newer version"
        return f"; install resnet-export {wrote}: pip install --upgrade resnet-export"
    return "; export it anew"


def load_manifest(bundle: Path, *, public_key: Path | None = None) -> Manifest:
    """Read the manifest of the bundle folder `bundle`.

    Args:
        bundle: The folder.
        public_key: Ed25519 in PEM: the bundle must be signed by its owner, see `bundle.signature`. `check_files` then
            vouches for the other files.

    Raises:
        BundleError: If it is missing or cannot be read.
        SignatureError: If a public key is given and the signature is missing or does not fit.
        MissingDependencyError: If a public key is given and the package `cryptography` is not installed.
    """
    path = bundle / MANIFEST_NAME
    try:
        written = read_plain_file(path, MAX_JSON_BYTES)
    except NotADirectoryError as err:
        raise BundleError(f"{bundle} is a file, expected the folder of a bundle") from err
    except OSError as err:
        raise BundleError(f"{bundle} is not a bundle: {path.name} cannot be read ({err.strerror})") from err
    if public_key is not None:
        check_signature(bundle, written, public_key)
    try:
        content = json_from_bytes(written)
    except ValueError as err:
        raise BundleError(f"{path}: not JSON ({err}); {_AGAIN}") from err
    return Manifest.from_json(content)


def check_files(bundle: Path, manifest: Manifest) -> None:
    """Raise unless every file of the bundle is there with the recorded size and hash.

    Raises:
        BundleError: Naming the first file that differs, with got and expected.
    """
    for name, expected in manifest.files.items():
        path = bundle / name
        try:
            if path.is_symlink():
                raise BundleError(
                    f"{path}: a symbolic link, as caches of downloads keep them; copy the "
                    "bundle with what its links lead to (cp -rL)"
                )
            if not path.is_file():
                raise BundleError(f"{path}: missing or not a plain file; the manifest lists it: {_AGAIN}")
            got = file_entry(path)
        except OSError as err:  # a name that is too long, a folder that may not be searched
            raise BundleError(f"{path}: cannot be read ({err.strerror})") from err
        if got != expected:
            if told := stand_in_at(path):
                raise BundleError(f"{path}: {told}")
            raise BundleError(
                f"{path}: changed since it was written: got {got.size_bytes} bytes, SHA-256 {got.sha256[:12]}…, "
                f"expected {expected.size_bytes} bytes, {expected.sha256[:12]}…; {_AGAIN}"
            )


def check_holds(bundle: Path, manifest: Manifest, precisions: Iterable[str]) -> None:
    """Raise unless the bundle has a model in each precision.

    Raises:
        BundleError: Naming the first that is missing, those that are there, and the options that export it.
        ValueError: If there is no such precision.
    """
    for precision in precisions:
        if precision not in MODEL_FILES:
            raise ValueError(f"precision: got {precision!r}, expected one of {', '.join(MODEL_FILES)}")
        if precision not in manifest.precisions:
            raise BundleError(
                f"{bundle} holds no {precision} model, it has {', '.join(manifest.precisions)}; export with "
                f"{option_words(precision)}"
            )


def read_labels(bundle: Path, manifest: Manifest) -> tuple[str, ...] | None:
    """Return the class names of a bundle, in index order; None where it has none: its outputs are no classes.

    Raises:
        BundleError: If the file is not UTF-8.
    """
    if LABELS_NAME not in manifest.files:
        return None
    try:
        text = (bundle / LABELS_NAME).read_text(encoding="utf-8")
    except UnicodeDecodeError as err:
        raise BundleError(f"{bundle / LABELS_NAME}: not UTF-8 ({err}); {_AGAIN}") from err
    return tuple(text.split("\n")[:-1])


def class_names(bundle: Path, manifest: Manifest) -> tuple[str, ...] | None:
    """Return the names that somebody gave to the classes; None where `labels.txt` only numbers them."""
    labels = read_labels(bundle, manifest)
    if labels == tuple(map(str, range(len(labels or ())))) and not manifest.model.get("classes_named"):
        return None
    return labels


def file_entry(path: Path) -> FileEntry:
    """Return hash and size of a file, read in pieces."""
    digest = hashlib.sha256()
    size = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
            size += len(piece)
    return FileEntry(digest.hexdigest(), size)
