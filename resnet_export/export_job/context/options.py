"""Options of the main job as one checked value. Imports no framework."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from calibration.methods.builtin_methods import MeanSquaredError
from calibration.methods.effort import DEFAULT_EFFORT, Effort, steps_of
from calibration.methods.method import Method, describe
from calibration.mixed_precision.accuracy_budget import AccuracyBudget
from exporter.errors import OptionError
from exporter.models.loaded_model import DEFAULT_WEIGHTS, HEAD_ACTIVATIONS
from exporter.models.model_names import folder_name
from exporter.preprocessing.options import PreprocessingOptions
from exporter.target import MIN_FLOAT16_SCALE_OPSET, TARGETS, Target
from resnet_export.images.image_set import ImageSource, said_of_no_images
from runtimes.bundle.manifest import DEFAULT_BATCH, BatchRange
from runtimes.inference.model_in_memory import OtherRuntime, other_runtime
from runtimes.inference.runtime_registry import RUNTIMES

DEFAULT_NUM_CALIB = 512
"""Calibration images used, at most."""

CALIB_PROVIDERS = ("cpu", "cuda")
INPUT_TYPES = ("float32", "uint8")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExportOptions:
    """Options of the main job, as `resnet_export.export` takes them; every field but `model` has the default there."""

    model: Any
    weights: str = DEFAULT_WEIGHTS
    checkpoint_key: str | None = None
    head_activation: str | None = None
    num_classes: int | None = None
    labels: Path | tuple[str, ...] | None = None
    preprocessing: PreprocessingOptions = field(default_factory=PreprocessingOptions)
    features: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    input_type: str = "float32"
    softmax: bool = False
    topk: int | None = None
    int8: bool = False
    fp16: bool = False
    calib: ImageSource | None = None
    num_calib: int = DEFAULT_NUM_CALIB
    calib_cache: str | None = None
    calib_provider: str = "cpu"
    method: Method = field(default_factory=MeanSquaredError)
    effort: int = DEFAULT_EFFORT
    zero_points: str | None = None
    keep_float: tuple[str, ...] = ()
    target: Target = TARGETS["tensorrt"]
    opset: int | None = None
    batch: BatchRange = DEFAULT_BATCH
    engine: bool = False
    rtx: bool = False
    dla: bool = False
    val: ImageSource | None = None
    val_labels: tuple[int, ...] | None = None
    num_val: int | None = None
    measure_on: tuple[str, ...] = ()
    max_top1_drop: float | None = None
    min_agreement: float | None = None
    output: Path | None = None
    sign: Path | None = None
    force: bool = False

    def __post_init__(self) -> None:
        """Raise an `OptionError` where options contradict each other; it names them as the command spells them."""
        if reason := next(_contradictions(self), None):
            raise OptionError(reason)

    @property
    def precision(self) -> str:
        """The lowest precision asked for: "int8", "fp16" or "fp32"."""
        return "int8" if self.int8 else "fp16" if self.fp16 else "fp32"

    @property
    def steps(self) -> Effort:
        """What is done for the accuracy of INT8."""
        return steps_of(self.effort, self.zero_points, dla=self.dla)

    @property
    def has_int8_float16(self) -> bool:
        """Whether the bundle holds INT8 with FP16 around it: both were asked for, and the target reads FP16 scales."""
        opset = self.target.opset if self.opset is None else self.opset
        return self.int8 and self.fp16 and self.target.dialect == "tensorrt" and opset >= MIN_FLOAT16_SCALE_OPSET

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions of the bundle's files, lowest first, which `engine` builds; keys of `MODEL_FILES`."""
        written = {"int8-fp16": self.has_int8_float16, "int8": self.int8, "fp16": self.fp16, "fp32": True}
        return tuple(precision for precision, is_written in written.items() if is_written)

    @property
    def other_runtimes(self) -> tuple[OtherRuntime, ...]:
        """What `measure_on` names, each with the file that it would run."""
        for_tensorrt = self.target.dialect == "tensorrt"
        return tuple(other_runtime(name, self.precisions, for_tensorrt=for_tensorrt) for name in self.measure_on)

    @property
    def budget(self) -> AccuracyBudget | None:
        """The accuracy that INT8 must keep, or None where nothing was asked for."""
        if self.max_top1_drop is None and self.min_agreement is None:
            return None
        return AccuracyBudget(self.max_top1_drop, self.min_agreement)

    @property
    def model_name(self) -> str:
        """`model` in words: its name, path, or class."""
        return str(self.model) if isinstance(self.model, (str, Path)) else type(self.model).__name__

    @property
    def folder(self) -> Path:
        """Where the bundle goes: `output`, or ./MODEL-PRECISION."""
        return self.output or Path(f"{folder_name(self.model_name, self.weights)}-{self.precision}")

    def to_json(self) -> dict[str, Any]:
        """Return what decided the result, as JSON can hold it."""
        shown = {name: getattr(self, name) for name in self.__slots__ if name not in _NO_RESULT}
        shown |= {"model": self.model_name, "output": str(self.folder), "method": describe(self.method)}
        shown |= {"target": self.target.name, "batch": [self.batch.min, self.batch.opt, self.batch.max]}
        shown |= {name: None if shown[name] is None else shown[name].shown for name in ("calib", "val")}
        shown |= self.preprocessing.to_json()
        return {name: str(value) if isinstance(value, Path) else value for name, value in shown.items()}


_NO_RESULT = frozenset({"preprocessing", "force", "calib_cache", "sign", "val_labels"})


def _contradictions(options: ExportOptions) -> Iterator[str]:
    """Yield why the options cannot be followed, what is said of one option before what is said of several."""
    yield from _unknown_words(options)
    yield from _int8_alone(options)
    yield from said_of_no_images(options.val, options.val_labels, options.num_val)
    target = options.target
    if options.measure_on:
        known = [name for name, kind in RUNTIMES.items() if kind.engine_flavor is None and name != "cpu"]
        if unknown := [name for name in options.measure_on if name not in known]:
            yield (
                f"--measure-on: got {unknown[0]!r}, expected some of {', '.join(known)}; ONNX Runtime's CPU is "
                "measured anyhow, engines by verify"
            )
    if options.int8 and options.calib is None:
        yield (
            "--int8 needs --calib DIR with images like those the model will see: there is never a default data set, "
            "because INT8 ranges from other images fail silently"
        )
    if options.rtx and not options.engine:
        yield "--rtx says which engine --engine builds; give both, or neither"
    if options.engine and options.int8 and target.dialect != "tensorrt":
        yield (
            f"--target {target.name} writes INT8 that TensorRT does not read (UINT8 activations, INT32 bias); leave "
            "out --engine, or choose a TensorRT target"
        )
    if options.dla and not target.has_dla:
        yield (
            f"--target {target.name} has no DLA that this tool builds for (TensorRT 8.5 to 10.7 on Orin and Xavier "
            "do); leave out --dla, or choose --target jetpack6"
        )
    if options.dla and not (options.int8 or options.fp16):
        yield "--dla needs --int8 or --fp16: a DLA computes in nothing else"
    if twice := [name for place, name in enumerate(options.outputs) if name in options.outputs[:place]]:
        yield f"--outputs: {twice[0]!r} is given twice"
    if options.features and options.outputs:
        yield "--features gives feature maps instead of the outputs; leave out --features or --outputs"
    if options.features and (options.softmax or options.topk is not None):
        yield "--features gives feature maps instead of logits; --softmax and --topk need logits"
    if options.features and options.budget is not None:
        yield "--features gives feature maps; --max-top1-drop and --min-agreement compare answers, which need logits"
    if options.budget is not None and not options.int8:
        yield "--max-top1-drop and --min-agreement are budgets of INT8; give --int8 --calib DIR too"
    if options.max_top1_drop is not None and options.val is None:
        yield (
            "--max-top1-drop needs --val DIR with labelled images, one folder per class; without labels, "
            "--min-agreement SHARE compares INT8 with FP32 on images held out of --calib"
        )


def _unknown_words(options: ExportOptions) -> Iterator[str]:
    choices: dict[str, Collection[object]] = {"calib_provider": CALIB_PROVIDERS, "input_type": INPUT_TYPES}
    if options.head_activation is not None:
        choices["head_activation"] = HEAD_ACTIVATIONS
    for name, known in choices.items():
        if (got := getattr(options, name)) not in known:
            yield f"{name}: got {got!r}, expected one of {', '.join(map(str, known))}"
    try:
        steps_of(options.effort, options.zero_points)
    except ValueError as err:
        yield str(err)


def _int8_alone(options: ExportOptions) -> Iterator[str]:
    """Yield what is said of INT8 where there is none, or where its file takes none of it."""
    said = {
        "--calib-provider says where INT8 is calibrated": options.calib_provider != "cpu",
        "--keep-float names layers that INT8 leaves in float": options.keep_float,
        f"--effort {options.effort} is how much is done for INT8's accuracy": options.effort != DEFAULT_EFFORT,
        "--method is how INT8's ranges are chosen": describe(options.method) != describe(MeanSquaredError()),
        "--zero-points says what takes those of INT8 activations": options.zero_points is not None,
    }
    if not options.int8:
        yield from (f"{what}; give --int8 --calib DIR too" for what, is_said in said.items() if is_said)
    if options.zero_points is not None and options.target.dialect != "tensorrt":
        yield f"--zero-points is for TensorRT's files; --target {options.target.name} has zero points of its own"
    if options.zero_points not in (None, "none") and options.dla:
        yield f"--zero-points {options.zero_points}: a DLA's ranges are symmetric; leave out --dla, or give none"
