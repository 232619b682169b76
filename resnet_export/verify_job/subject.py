"""Read the subject of `verify`, a bundle, an ONNX file or an engine: files to judge, how images are prepared.

Reads and checks; runs nothing. A bundle, and an engine in one, need neither torch nor onnx.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exporter.errors import ExportError
from exporter.passes.pre_post_options import Finish
from runtimes.bundle.described_file import load_unchanged
from runtimes.bundle.file_names import GOLDEN_NAME, MANIFEST_NAME, MODEL_FILES
from runtimes.bundle.manifest import Manifest, check_holds, class_names, file_entry, load_manifest
from runtimes.bundle.precision import option_words
from runtimes.errors import BundleError
from runtimes.inference.runtime_registry import RUNTIMES, word_of_flavor
from runtimes.io.npz import load_npz
from runtimes.metrics.answer_kind import AnswerKind
from runtimes.preprocessing.transform import Preprocessing
from runtimes.trt.engine_sidecar import EngineSidecar

if TYPE_CHECKING:
    from onnx import ModelProto

PRECISIONS = tuple(MODEL_FILES)
TORCH = "torch"
"""Word of `--provider` beside those of the registry: the model of --against is tested, by the bundle's answers."""
ENGINE_SUFFIXES = (".engine", ".plan")
ENGINE_ENDINGS = (".engine", ".rtx.engine", ".plan")
"""Behind the ONNX file's stem, where `resnet-export build` and trtexec's users put engines."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One file to judge.

    Attributes:
        precision: A key of `MODEL_FILES`.
        exact_qdq: Whether its Q/DQ is in TensorRT's dialect, so that ONNX Runtime computes it as written.
        built_from: The ONNX file an engine was built from, where it lies there unchanged.
        sha256: Of the file.
    """

    path: Path
    precision: str
    is_engine: bool
    exact_qdq: bool
    sha256: str
    built_from: Path | None = None

    @property
    def name(self) -> str:
        """The file's name."""
        return self.path.name


@dataclass(frozen=True, slots=True, eq=False)
class Golden:
    """The bundle's stored inputs, as its files take them, [n, ...], and PyTorch's logits, float32 [n, num_classes].

    `hard_inputs` and `hard_logits` are the same of frames that are no photographs; None in bundles of older versions.
    """

    inputs: NDArray[Any]
    logits: NDArray[np.float32]
    hard_inputs: NDArray[Any] | None = None
    hard_logits: NDArray[np.float32] | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """A bundle or file to verify.

    Attributes:
        path: As given.
        kind: "bundle", "onnx" or "engine".
        model: The model's name, or None.
        candidates: Files to judge, fp32 first.
        folder: The bundle folder that the files are in, or None.
        manifest: That bundle's manifest.
        preprocessing: How images are prepared, where the bundle or the file says.
        labels: Class names; None where nobody named them.
        finish: What the files have beside the network.
        golden: Stored inputs and answers.
        ends_in_softmax: Of a file alone: whether its last layer is a Softmax, which nobody says is the network's.
        provider: The runtime that the files are opened on.
    """

    path: Path
    kind: str
    model: str | None
    candidates: tuple[Candidate, ...]
    folder: Path | None = None
    manifest: Manifest | None = None
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    finish: Finish = field(default_factory=Finish)
    golden: Golden | None = None
    ends_in_softmax: bool = False
    provider: str = "cpu"

    @property
    def fp32(self) -> Path | None:
        """The bundle's FP32 file."""
        return None if self.folder is None else self.folder / MODEL_FILES["fp32"]

    def to_json(self) -> dict[str, Any]:
        """Return `subject` of the report."""
        return {"path": str(self.path), "kind": self.kind, "model": self.model}


def is_alone(path: Path) -> bool:
    """Tell whether a file lies in no bundle, so that nothing says how it has to answer."""
    return path.suffix in (".onnx", *ENGINE_SUFFIXES) and not (path.parent / MANIFEST_NAME).is_file()


def read_subject(path: Path, precisions: tuple[str, ...], *, provider: str | None = None) -> Subject:
    """Read what `path` is; a file inside a bundle is that bundle with this file only.

    Args:
        path: BUNDLE, MODEL.onnx or ENGINE.
        precisions: Which files of a bundle; () for all.
        provider: Word of `--provider`; one that runs engines judges those of the bundle instead of its ONNX files. None
            takes the CPU, and of an engine the runtime that it was built for.

    Raises:
        BundleError: If a bundle is damaged or lacks what was asked for, or an engine has no sidecar.
        ExportError: If it is none of the three.
    """
    if path.suffix in ENGINE_SUFFIXES:
        return _on_own_runtime(_engine_alone(path), provider)
    word = "cpu" if provider in (None, TORCH) else provider
    flavor = RUNTIMES[word].engine_flavor
    if path.suffix == ".onnx":
        if not path.is_file():
            raise ExportError(f"{path}: got no such file, expected a bundle folder, a .onnx file or an engine")
        folder = path.parent
        if (folder / MANIFEST_NAME).is_file() and path.name in load_manifest(folder).files:
            precision = next((name for name, file in MODEL_FILES.items() if file == path.name), None)
            if precision is not None:
                return replace(_bundle(folder, (precision,), flavor=flavor), path=path, provider=word)
        if flavor is not None:
            raise BundleError(f"{path} is an ONNX model, {word} runs engines; build one first")
        return replace(_onnx_alone(path), provider=word)
    if not path.is_dir():
        raise ExportError(f"{path}: expected a bundle folder, a .onnx file or an engine (.engine, .plan)")
    return replace(_bundle(path, precisions, flavor=flavor), provider=word)


def _on_own_runtime(subject: Subject, provider: str | None) -> Subject:
    """Return an engine with the runtime that it was built for; refuse another one, and an engine that none runs."""
    (candidate,) = subject.candidates
    flavor = _sidecar(candidate.path).facts.flavor
    word = word_of_flavor(flavor)
    if word is None or provider not in (None, word):
        raise BundleError(
            f"{subject.path} is an engine for {word or flavor}, asked for {provider}; leave --provider out"
        )
    return replace(subject, provider=word)


def _bundle(folder: Path, precisions: tuple[str, ...], *, flavor: str | None) -> Subject:
    manifest = load_unchanged(folder)
    if manifest.options.get("features") or manifest.answers is AnswerKind.FEATURES:
        raise ExportError(
            f"{folder} gives features ({', '.join(entry.name for entry in manifest.outputs)}); verify compares "
            "answers of classes, and there are none: report.json has the features' SQNR and cosine"
        )
    check_holds(folder, manifest, precisions)
    chosen = tuple(name for name in manifest.precisions if not precisions or name in precisions)
    exact, options = manifest.int8_for_tensorrt, manifest.options
    if flavor is not None:
        beside = [_engine_beside(folder, MODEL_FILES[name], manifest, flavor, exact=exact) for name in chosen]
        candidates = tuple(engine for engine in beside if engine is not None)
        if not candidates or (precisions and len(candidates) < len(chosen)):
            raise BundleError(
                f"{folder} holds no engine of {' or '.join(chosen)} for {word_of_flavor(flavor)}; make it with "
                f"resnet-export build {quote(str(folder))} {option_words(chosen[-1])}"
                f"{' --rtx' if flavor == 'rtx' else ''}"
            )
    else:
        candidates = tuple(
            Candidate(folder / MODEL_FILES[name], name, False, exact, manifest.files[MODEL_FILES[name]].sha256)
            for name in chosen
        )
    return Subject(
        path=folder,
        kind="bundle",
        model=str(manifest.model.get("id")),
        candidates=candidates,
        folder=folder,
        manifest=manifest,
        preprocessing=manifest.preprocessing,
        labels=class_names(folder, manifest),
        finish=Finish(manifest.inputs[0].dtype == "uint8", bool(options.get("softmax")), options.get("topk")),
        golden=_golden(folder, manifest),
    )


def _golden(folder: Path, manifest: Manifest) -> Golden:
    path = folder / GOLDEN_NAME
    if path.name not in manifest.files:
        raise BundleError(f"{folder} has no golden.npz; export it anew")
    arrays = load_npz(path)
    if missing := {"input", "logits"} - arrays.keys():
        raise BundleError(f"{path} holds no {' and no '.join(sorted(missing))}; export the bundle anew")
    inputs, logits = arrays["input"], arrays["logits"]
    if logits.ndim != 2 or len(inputs) != len(logits) or not len(logits):
        raise BundleError(
            f"{path}: got inputs {list(inputs.shape)} and logits {list(logits.shape)}, expected as many of both"
        )
    hard = arrays.get("hard_input"), arrays.get("hard_logits")
    fits = hard[0] is not None and hard[1] is not None and hard[1].shape == (len(hard[0]), logits.shape[1])
    if not fits and any(part is not None for part in hard):
        raise BundleError(f"{path}: hard_input and hard_logits do not fit each other; export the bundle anew")
    return Golden(inputs, logits, *hard)


def _engine_beside(folder: Path, file: str, manifest: Manifest, flavor: str, *, exact: bool) -> Candidate | None:
    """Return the engine of one of the bundle's files, built from that very file; None where there is none."""
    stem = Path(file).stem
    paths = [folder / f"{stem}{end}" for end in ENGINE_ENDINGS if (folder / f"{stem}{end}").is_file()]
    found = next((one for one in ((path, _sidecar(path)) for path in paths) if one[1].facts.flavor == flavor), None)
    if found is None:
        return None
    path, sidecar = found
    if sidecar.facts.onnx_sha256 != manifest.files[file].sha256:
        raise BundleError(
            f"{path} was built from another file than {file} is now; resnet-export build {quote(str(folder))} "
            f"{option_words(sidecar.facts.precision)} builds it anew"
        )
    return Candidate(path, sidecar.facts.precision, True, exact, sidecar.engine_sha256, folder / file)


def _sidecar(path: Path) -> EngineSidecar:
    from runtimes.trt.compatibility import check_is_no_onnx, read_sidecar

    check_is_no_onnx(path)
    sidecar = read_sidecar(path, required=True, flavor=None)
    assert sidecar is not None  # required
    if sidecar.facts.precision not in PRECISIONS:
        raise BundleError(
            f"{path}: its sidecar says precision {sidecar.facts.precision!r}, expected one of {PRECISIONS}"
        )
    return sidecar


def _engine_alone(path: Path) -> Subject:
    """Return an engine; with its bundle's preprocessing and golden outputs where it lies in the bundle."""
    sidecar = _sidecar(path)
    folder = path.parent
    if (folder / MANIFEST_NAME).is_file():
        manifest = load_manifest(folder)
        file = MODEL_FILES[sidecar.facts.precision]
        if file in manifest.files and sidecar.facts.onnx_sha256 == manifest.files[file].sha256:
            bundle = _bundle(folder, (sidecar.facts.precision,), flavor=None)
            (built_from,) = bundle.candidates
            engine = replace(
                built_from, path=path, is_engine=True, sha256=sidecar.engine_sha256, built_from=built_from.path
            )
            return replace(bundle, path=path, kind="engine", candidates=(engine,))
    built_from_file = folder / Path(sidecar.onnx_file).name
    same = built_from_file.is_file() and file_entry(built_from_file).sha256 == sidecar.facts.onnx_sha256
    candidate = Candidate(
        path, sidecar.facts.precision, True, True, sidecar.engine_sha256, built_from_file if same else None
    )
    return Subject(path, "engine", None, (candidate,))


def _onnx_alone(path: Path) -> Subject:
    """Return an ONNX file that lies in no bundle; what it says about itself is read from its metadata."""
    import onnx

    from exporter.graph.output_kind import ends_in_softmax
    from exporter.graph.read_model import read_model

    model = read_model(path)
    metadata = _metadata(model)
    try:
        said = metadata.get("preprocessing")
        preprocessing = None if said is None else Preprocessing.from_json(said)
    except (TypeError, ValueError) as err:
        raise ExportError(f"{path}: its metadata says how images are prepared, but not readably: {err}") from err
    labels = metadata.get("labels")
    takes_pixels = model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    precision, exact = _precision(model)
    return Subject(
        path=path,
        kind="onnx",
        model=metadata.get("model"),
        candidates=(Candidate(path, precision, False, exact, file_entry(path).sha256),),
        preprocessing=preprocessing,
        labels=tuple(map(str, labels)) if isinstance(labels, list) else None,
        finish=replace(_added(model), uint8_input=takes_pixels),
        ends_in_softmax=ends_in_softmax(model.graph),
    )


def _added(model: ModelProto) -> Finish:
    """Return what `--softmax` and `--topk` added to a file, by the names that they give."""
    from exporter.passes.add_pre_post import INDICES, PROBABILITIES, SCORES

    outputs = {info.name: info for info in model.graph.output}
    made = {name for node in model.graph.node for name in node.output}
    if not {SCORES, INDICES} <= outputs.keys():
        return Finish(softmax=PROBABILITIES in outputs)
    topk = outputs[SCORES].type.tensor_type.shape.dim[1].dim_value
    return Finish(softmax=PROBABILITIES in made, topk=topk or None)


def _metadata(model: ModelProto) -> dict[str, Any]:
    """Return the file's own metadata: values are JSON where this tool wrote them."""
    found: dict[str, Any] = {}
    for entry in model.metadata_props:
        try:
            found[entry.key] = json.loads(entry.value)
        except ValueError:
            continue
    return found


def _precision(model: ModelProto) -> tuple[str, bool]:
    """Return precision and whether the Q/DQ is TensorRT's: INT8 activations, float biases."""
    import onnx

    ops = {node.op_type for node in model.graph.node}
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    if ops & {"QuantizeLinear", "DequantizeLinear", "QLinearConv"}:
        quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear" and len(node.input) > 2]
        signed = all(types.get(node.input[2]) == onnx.TensorProto.INT8 for node in quantizers)
        whole_bias = any(
            node.op_type == "DequantizeLinear" and types.get(node.input[0]) == onnx.TensorProto.INT32
            for node in model.graph.node
        )
        scales = {types.get(node.input[1]) for node in quantizers}
        name = "int8-fp16" if onnx.TensorProto.FLOAT16 in scales else "int8"
        return name, signed and not whole_bias and "QLinearConv" not in ops
    return ("fp16" if onnx.TensorProto.FLOAT16 in types.values() else "fp32"), True
