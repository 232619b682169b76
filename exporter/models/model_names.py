"""The names that MODEL takes, known without importing torch, and which source makes each.

A name is one of the families below, an alias, or says its source itself: `torchvision:NAME`, `timm:NAME`,
`package.module:callable`. The word `auto` leaves it to the checkpoint.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from exporter.errors import UnknownModelError
from runtimes.registry import Registry

TORCHVISION = "torchvision"
OWN = "resnet-export"
TIMM = "timm"
PYTHON_OBJECT = "python"
AUTO = "auto"
ONNX_FILE = "onnx"


@dataclass(frozen=True, slots=True)
class Family:
    """Models of one kind.

    Attributes:
        name: As `resnet-export models --family` takes it.
        title: As the field writes it.
        source: Who defines them: TORCHVISION, OWN, TIMM, or the name of another package.
        models: Their names.
        architecture: Name -> `exporter.models.architecture.Architecture`; None where the source builds it. Imports
            torch when it is called, not before: names are also listed where torch is not installed.
    """

    name: str
    title: str
    source: str
    models: tuple[str, ...]
    architecture: Callable[[str], Any] | None = None


_CIFAR_DEPTHS = (20, 32, 44, 56, 110, 1202)

_FAMILIES = (
    Family("resnet", "ResNet", TORCHVISION, ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152")),
    Family("wide_resnet", "Wide ResNet", TORCHVISION, ("wide_resnet50_2", "wide_resnet101_2")),
    Family("resnext", "ResNeXt", TORCHVISION, ("resnext50_32x4d", "resnext101_32x8d", "resnext101_64x4d")),
    Family(
        "cifar_resnet",
        "CIFAR ResNet (shortcut option B; _a and _c: options A and C)",
        OWN,
        tuple(f"cifar_resnet{depth}{option}" for option in ("", "_a", "_c") for depth in _CIFAR_DEPTHS),
    ),
    Family(
        "preact_resnet",
        "Pre-activation ResNet",
        OWN,
        ("preact_resnet18", "preact_resnet50", "preact_resnet110", "preact_resnet164", "preact_resnet1001"),
    ),
    Family("resnetv2", "Pre-activation ResNet of timm", TIMM, ("resnetv2_50", "resnetv2_101")),
    Family("plain", "plain network without shortcuts", OWN, ("plain18", "plain34")),
    Family(
        "modern_resnet",
        "ResNet with attention, other stems or recipes",
        TIMM,
        (
            "seresnet50",
            "seresnext50_32x4d",
            "ecaresnet50d",
            "ecaresnet50t",
            "resnet50d",
            "resnet50t",
            "resnetrs50",
            "resnest50d",
            "skresnet34",
            "skresnet50",
            "res2net50_26w_4s",
            "resnet50.a1_in1k",
        ),
    ),
    Family("densenet", "DenseNet", TORCHVISION, ("densenet121", "densenet161", "densenet169", "densenet201")),
    Family("convnext", "ConvNeXt", TORCHVISION, ("convnext_tiny", "convnext_small", "convnext_base")),
    Family("convnextv2", "ConvNeXt V2", TIMM, ("convnextv2_tiny", "convnextv2_small", "convnextv2_base")),
    Family("efficientnet", "EfficientNet", TORCHVISION, ("efficientnet_b0", "efficientnet_b4")),
    Family("efficientnet_lite", "EfficientNet-Lite", TIMM, ("efficientnet_lite0",)),
    Family("mobilenet_v3", "MobileNetV3", TORCHVISION, ("mobilenet_v3_small", "mobilenet_v3_large")),
    Family("regnet", "RegNet", TORCHVISION, ("regnet_y_400mf", "regnet_y_8gf")),
    Family("vgg", "VGG", TORCHVISION, ("vgg16_bn", "vgg19_bn")),
    Family("googlenet", "GoogLeNet", TORCHVISION, ("googlenet",)),
    Family("hiera", "Hiera", TIMM, ("hiera_tiny_224",)),
)

FAMILIES: Registry[Family] = Registry(
    "model family", Family, group="resnet_export.model_families", builtin={family.name: family for family in _FAMILIES}
)
"""By name; one from outside is registered by `FAMILIES.register`, or declared as an entry point of the group
"resnet_export.model_families"."""

MODEL_NAMES = tuple(name for family in _FAMILIES for name in family.models)
"""Of the package's own families."""

_FAMILY_OF: Mapping[str, Family] = {name: family for family in _FAMILIES for name in family.models}

ALIASES: Mapping[str, str] = {
    **{f"resnet{depth}": f"cifar_resnet{depth}" for depth in _CIFAR_DEPTHS},
    **{f"cifar_resnet{depth}_b": f"cifar_resnet{depth}" for depth in _CIFAR_DEPTHS},
    "hiera_tiny": "hiera_tiny_224",
}
"""Other spellings. ImageNet has no ResNet-20, -32, -44, -56, -110 or -1202, so these names can only mean CIFAR's."""

_OBJECT_PATTERN = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_ANY_SOURCE = "any other as torchvision:NAME, timm:NAME or package.module:callable; resnet-export models lists all"


@dataclass(frozen=True, slots=True)
class ModelReference:
    """Source and name that a MODEL stands for.

    Attributes:
        source: TORCHVISION, OWN, TIMM, PYTHON_OBJECT, AUTO, ONNX_FILE, or another family's source.
        name: What the source calls it; of a Python object "package.module:callable".
    """

    source: str
    name: str

    @property
    def model_id(self) -> str:
        """A name for folders and the manifest: the last part of a path, nothing that a file name cannot hold."""
        if self.source == ONNX_FILE:
            return re.sub(r"[^\w.+-]", "_", PurePath(self.name).stem).strip(".") or self.source
        last = self.name.replace(":", ".") if self.source == PYTHON_OBJECT else re.split(r"[/\\:]", self.name)[-1]
        return re.sub(r"[^\w.+-]", "_", last).strip(".") or self.source


def family_of(name: str) -> Family | None:
    """Return the family that a model's name belongs to, None where there is none."""
    if name in _FAMILY_OF:
        return _FAMILY_OF[name]
    return next((family for family in FAMILIES.values() if name in family.models), None)


def parse_model(text: str) -> ModelReference:
    """Return which source makes MODEL and what it is called there.

    Raises:
        UnknownModelError: With up to three near names, or the families when none is near.
    """
    if text == AUTO:
        return ModelReference(AUTO, AUTO)
    if text.lower().endswith(".onnx"):
        return ModelReference(ONNX_FILE, text)
    if text.lower().endswith(_FILE_SUFFIXES):
        raise UnknownModelError(_file_as_model(text))
    name = ALIASES.get(text, text)
    if name in _FAMILY_OF:
        return ModelReference(_FAMILY_OF[name].source, name)
    prefix, colon, rest = text.partition(":")
    if colon and prefix in (TORCHVISION, TIMM):
        if not rest.strip():
            raise UnknownModelError(f"{text!r} names no model; write {prefix}:NAME, such as {prefix}:resnet50")
        return ModelReference(prefix, rest)
    if colon or text.endswith(".py"):
        return _python_object(text, prefix)
    if (family := family_of(name)) is not None:
        return ModelReference(family.source, name)
    if text and Path(text).is_dir():
        raise UnknownModelError(
            f"{text!r} is a folder, expected a model; of a bundle give its model.onnx, of a package of weights the "
            "network's name with --weights FILE, or auto"
        )
    near = _near(text, (*(name for family in FAMILIES.values() for name in family.models), AUTO))
    families = ", ".join(FAMILIES)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known families: {families};"
    raise UnknownModelError(f"unknown model {text!r}; {hint} {_ANY_SOURCE}")


_WEIGHTS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".pth.tar")
_PROGRAMS = (".pt2", ".ts", ".torchscript", ".jit")
_FILE_SUFFIXES = (*_WEIGHTS, *_PROGRAMS)


def _file_as_model(text: str) -> str:
    """Return what to do about a file of PyTorch as MODEL: weights name no code, and programs are converted first."""
    exported = (
        f'torch.onnx.export(torch.export.load("{text}").module(), (torch.zeros(2, 3, 224, 224),), "model.onnx", '
        'dynamo=True, dynamic_shapes=({0: "batch"},))'
    )
    scripted = (
        f'torch.onnx.export(torch.jit.load("{text}").eval(), (torch.zeros(2, 3, 224, 224),), "model.onnx", '
        'dynamo=False, input_names=["input"], dynamic_axes={"input": {0: "batch"}})'
    )
    if text.lower().endswith(".pt2"):
        return f"{text} is a program of torch.export; convert it where you trust it, then give model.onnx: {exported}"
    weights = ""
    if not text.lower().endswith(_PROGRAMS):
        weights = f"weights go to --weights (resnet-export auto --weights {text} reads the architecture off them); "
    program = f"a TorchScript program is converted where you trust it, then give model.onnx: {scripted}"
    return f"{text} is a file: {weights}{program}"


def _near(text: str, known: Sequence[str]) -> list[str]:
    """Return up to three names that begin with `text` or are spelled like it."""
    typed = text.lower()
    begin = [name for name in known if typed and name.startswith(typed)]
    alike = difflib.get_close_matches(typed, known, n=3, cutoff=0.6)
    return list(dict.fromkeys([*begin, *alike]))[:3]


def _python_object(text: str, prefix: str) -> ModelReference:
    if meant := difflib.get_close_matches(prefix.lower(), (TORCHVISION, TIMM), n=1, cutoff=0.75):
        raise UnknownModelError(f"unknown source {prefix!r} in {text!r}; did you mean {meant[0]}:?")
    if not _OBJECT_PATTERN.fullmatch(text) or prefix.endswith(".py"):
        raise UnknownModelError(
            f"unknown model {text!r}; a colon separates source and name (torchvision:NAME, timm:NAME) or a Python "
            "module and the callable in it (package.module:callable, without .py)"
        )
    return ModelReference(PYTHON_OBJECT, text)


def folder_name(text: str, weights: str) -> str:
    """Return a name for the folder of MODEL's bundle; MODEL auto takes the weights file's."""
    try:
        reference = parse_model(text)
    except UnknownModelError:
        return text
    return PurePath(weights).stem if reference.source == AUTO else reference.model_id


def check_family(name: str) -> None:
    """Raise unless `name` is a family.

    Raises:
        UnknownModelError: With near names, or all of them.
    """
    families = list(FAMILIES)
    if name in families:
        return
    near = _near(name, families)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known families: {', '.join(families)}"
    raise UnknownModelError(f"unknown family {name!r}; {hint}")
