"""PyTorch ResNet -> folded, checked float32 ONNX: the first verb of the Python interface."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.models.load_model import load_model
from exporter.models.loaded_model import DEFAULT_WEIGHTS, LoadedModel, ModelRequest
from exporter.target import TARGETS, Target, check_opset
from exporter.version import __version__

if TYPE_CHECKING:
    from onnx import ModelProto
    from torch import nn

    from exporter.passes.fold_affine import FoldReport
    from runtimes.preprocessing.transform import Preprocessing


@dataclass(frozen=True, slots=True)
class ExportConfig:
    """Where the file must load, and in which opset; None takes the target's."""

    target: Target = TARGETS["tensorrt"]
    opset: int | None = None

    def __post_init__(self) -> None:
        """Refuse an opset that the target does not read.

        Raises:
            UnsupportedOpsetError: With the target's range.
        """
        check_opset(self.target, self.resolved_opset)

    @property
    def resolved_opset(self) -> int:
        """The opset that is written."""
        return self.target.opset if self.opset is None else self.opset


@dataclass(frozen=True, slots=True, eq=False)
class ExportedModel:
    """A float32 ONNX model and the PyTorch model it came from.

    Attributes:
        onnx: BatchNorm folded, batch axis symbolic, names after the modules; passes `onnx.checker`.
        loaded: The unfolded PyTorch model, its preprocessing and labels: the reference.
    """

    onnx: ModelProto
    loaded: LoadedModel
    folding: FoldReport
    config: ExportConfig

    @property
    def module(self) -> nn.Module:
        """The unfolded PyTorch model, in evaluation mode."""
        return self.loaded.module

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are prepared."""
        return self.loaded.preprocessing


def export_resnet(name: str, config: ExportConfig | None = None, *, weights: str = DEFAULT_WEIGHTS) -> ExportedModel:
    """Load a ResNet by name and export it.

    Args:
        name: One of `exporter.models.model_names.MODEL_NAMES`.
        config: Target and opset.
        weights: "DEFAULT", "random", a torchvision weights enum member, or a checkpoint file.

    Raises:
        ExportError: Unknown model, unfit weights, or a graph that does not export; see `exporter.errors`.
    """
    return export_loaded(load_model(ModelRequest(name, weights)), config or ExportConfig())


def export_loaded(loaded: LoadedModel, config: ExportConfig) -> ExportedModel:
    """Export a model that is loaded already: trace, tidy, fold, convert, check the graph.

    The numeric check against PyTorch is `exporter.tracing.check_export.check_against_pytorch`; it needs a runtime.
    """
    import torch

    from exporter.models.onnx_source import LoadedOnnx
    from exporter.tracing.normalize_onnx import tidied_onnx
    from exporter.tracing.trace import trace

    if isinstance(loaded, LoadedOnnx):
        assert loaded.file is not None
        size = loaded.preprocessing.input_size
        model, report = tidied_onnx(
            loaded.file, input_size=size, opset=config.resolved_opset, takes_bgr=loaded.takes_bgr
        )
        return ExportedModel(onnx=model, loaded=loaded, folding=report, config=config)
    example = torch.zeros(2, *loaded.preprocessing.input_shape)
    model, report = trace(
        loaded.module, example, opset=config.resolved_opset, producer_version=__version__, outputs=loaded.outputs
    )
    return ExportedModel(onnx=model, loaded=loaded, folding=report, config=config)
