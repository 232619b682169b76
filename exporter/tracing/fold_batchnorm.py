"""Fold BatchNorm into the convolution or linear layer before it, on the PyTorch module, in float64.

In evaluation mode BatchNorm is the affine map  y = gamma * (x - mean) / sqrt(var + eps) + beta  per channel.
After a convolution x = W * u + b (zero padding included, the map is applied after it):

    s  = gamma / sqrt(var + eps)
    W' = s W                    (per output channel)
    b' = s (b - mean) + beta

All of it is computed in float64 and cast once, at the end, to the weight's own type.
Source: Jacob et al. 2018, arXiv:1712.05877, section 3.2 (batch normalization folding).

Which BatchNorm follows which convolution is read from the data flow that `torch.export` sees, not from module order:
only there can one tell that the convolution's output goes nowhere else.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

from exporter.errors import ExportError, UnstableAnswerError, WeightsError

if TYPE_CHECKING:
    from exporter.passes.fold_affine import AffineFolds

_FOLDABLE_OPS = {
    torch.ops.aten.conv1d.default,
    torch.ops.aten.conv2d.default,
    torch.ops.aten.conv3d.default,
    torch.ops.aten.conv1d.padding,  # padding="same"
    torch.ops.aten.conv2d.padding,
    torch.ops.aten.conv3d.padding,
    torch.ops.aten.linear.default,
}
_BATCHNORM_TYPES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
_WITH_ACTIVATION = ("BatchNormAct2d",)
"""timm's BatchNorm that then drops and activates (`timm.layers.norm_act`), known by name: timm is not imported here."""


@dataclass(frozen=True, slots=True)
class FoldedBatchNorm:
    """One fold: BatchNorm module `batchnorm` went into module `layer` (both are module paths)."""

    batchnorm: str
    layer: str


@dataclass(frozen=True, slots=True)
class KeptBatchNorm:
    """One BatchNorm that stays, and why."""

    batchnorm: str
    reason: str


@dataclass(frozen=True, slots=True)
class FoldReport:
    """Lists of folded and kept BatchNorms."""

    folded: tuple[FoldedBatchNorm, ...]
    kept: tuple[KeptBatchNorm, ...]

    def after_tracing(self, folds: AffineFolds) -> FoldReport:
        """Return the report with what the graph allowed that the module did not: a computed weight, a layer behind.

        Args:
            folds: What `exporter.passes.fold_affine` did to the traced graph, whose nodes are named after the modules.
        """
        on_graph = dict(folds.folded)
        left = {name for name, _ in folds.kept}
        folded, kept = list(self.folded), []
        for batchnorm in self.kept:
            path = batchnorm.batchnorm
            if path in left or any(name.startswith(f"{path}_") for name in left):  # path_1: a second call
                kept.append(batchnorm)
            else:
                folded.append(FoldedBatchNorm(path, on_graph.get(path, "its layer, by torch.onnx in float32")))
        return FoldReport(tuple(folded), tuple(kept))


def fold_batchnorm(module: nn.Module, example: Tensor) -> tuple[nn.Module, FoldReport]:
    """Return a copy of `module` with every foldable BatchNorm folded; `module` itself is unchanged.

    Args:
        module: A network in evaluation mode.
        example: An input, float32 [N, C, H, W] with N >= 2; only its shape matters.

    Returns:
        The folded copy and the report. A folded BatchNorm is replaced by `nn.Identity`, timm's `BatchNormAct2d` by its
        activation.

    Raises:
        ValueError: If the module, or one inside it, is in training mode.
        ExportError: If `torch.export` cannot trace the module.
        UnstableAnswerError: If a BatchNorm uses the statistics of its batch; the message names it.
        WeightsError: If a folded weight is not finite; the message names the layer.
    """
    if training := [path for path, child in module.named_modules() if child.training]:
        raise ValueError(
            f"fold_batchnorm needs evaluation mode, {training[0] or type(module).__name__!r} is in training mode; "
            "call module.eval() first"
        )
    if not any(isinstance(child, _BATCHNORM_TYPES) for child in module.modules()):
        return copy.deepcopy(module), FoldReport((), ())
    folded, kept = _match(module, example)
    result = copy.deepcopy(module)
    for pair in folded:
        _fold_pair(result, pair)
    return result, FoldReport(tuple(folded), tuple(kept))


def folded_weight_and_bias(
    weight: Tensor,
    bias: Tensor | None,
    *,
    gamma: Tensor | None,
    beta: Tensor | None,
    mean: Tensor,
    var: Tensor,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Return W' and b' of the module docstring, in float64.

    Args:
        weight: [O, ...], output channels first.
        bias: [O] or None for zero.
        gamma: BatchNorm weight [O] or None for one.
        beta: BatchNorm bias [O] or None for zero.
        mean: Running mean [O].
        var: Running variance [O].
        eps: Added to the variance.
    """
    scale = (var.double() + eps).rsqrt()
    if gamma is not None:
        scale = scale * gamma.double()
    shift = -mean.double() if bias is None else bias.double() - mean.double()
    new_bias = scale * shift
    if beta is not None:
        new_bias = new_bias + beta.double()
    return weight.double() * scale.reshape(-1, *[1] * (weight.ndim - 1)), new_bias


def _match(module: nn.Module, example: Tensor) -> tuple[list[FoldedBatchNorm], list[KeptBatchNorm]]:
    """Find, in data-flow order, which BatchNorms can be folded into what, and why the others cannot."""
    try:
        program = torch.export.export(module, (example,))
    except Exception as err:  # torch.export raises many unrelated types; all mean that the module cannot be traced
        raise ExportError(f"torch.export cannot trace {type(module).__name__}: {err}") from err
    signature = program.graph_signature
    path_of = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    folded: list[FoldedBatchNorm] = []
    kept: list[KeptBatchNorm] = []
    for node in program.graph.nodes:
        if node.op != "call_function" or "batch_norm" not in str(node.target):
            continue
        path = _calling_module(node)
        if _normalizes_by_the_batch(node):
            raise UnstableAnswerError(
                f"{path or node.name!r} normalizes by the batch that it is given, in evaluation mode too, so that an "
                "answer depends on the other pictures of its batch; train it with track_running_stats=True, or "
                "normalize by the picture (GroupNorm, InstanceNorm)"
            )
        layer, reason = _foldable_layer(module, path, node, path_of)
        if layer is None:
            kept.append(KeptBatchNorm(path or node.name, reason))
        else:
            folded.append(FoldedBatchNorm(path, layer))
    return folded, kept


def _normalizes_by_the_batch(node: fx.Node) -> bool:
    """Tell whether a batch_norm uses the batch's own statistics: argument `training`, or none are stored."""
    named = dict(zip(("input", "weight", "bias", "mean", "var", "training"), node.args, strict=False)) | node.kwargs
    return bool(named.get("training")) or named.get("mean") is None or named.get("var") is None


def _calling_module(node: fx.Node) -> str:
    """Return the path of the innermost module whose forward made `node`; "" is the root."""
    stack: dict[str, tuple[str, Any]] = node.meta.get("nn_module_stack") or {}
    path = next(reversed(stack.values()))[0] if stack else ""
    return ".".join(step.partition("@")[0] for step in path.split("."))  # a repeated call's path ends in "@1"


def _foldable_layer(module: nn.Module, path: str, node: fx.Node, path_of: dict[str, str]) -> tuple[str | None, str]:
    """Return the layer that BatchNorm `node` folds into, or None and the reason."""
    batchnorm: Any = _submodule(module, path)
    if type(batchnorm) not in _BATCHNORM_TYPES and not _has_activation(batchnorm):
        return None, f"it is computed by a {type(batchnorm).__name__}, which does more than BatchNorm"
    if batchnorm._forward_hooks or batchnorm._forward_pre_hooks:
        return None, "a hook is registered on it"
    num_calls = max(len(argument.users) for argument in node.args[3:5] if isinstance(argument, fx.Node))
    if num_calls != 1:
        return None, f"it is called {num_calls} times"
    source = node.args[0]
    if not isinstance(source, fx.Node) or source.target not in _FOLDABLE_OPS:
        found = str(source.target if isinstance(source, fx.Node) else source)
        return None, f"its input comes from {found}, not from a convolution or linear layer"
    if len(source.users) > 1:
        return None, f"the output of {source.name} is also read by {len(source.users) - 1} other operation(s)"
    return _plain_layer(module, source, path_of)


def _plain_layer(module: nn.Module, source: fx.Node, path_of: dict[str, str]) -> tuple[str | None, str]:
    """Return the module that computes `source` from its own weight and bias alone, or None and the reason."""
    path = _calling_module(source)
    layer: Any = _submodule(module, path)
    if type(layer) not in (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear):
        return None, f"{source.name} is computed by a {type(layer).__name__}, not by a plain layer"
    for name, argument in zip(("weight", "bias"), source.args[1:3], strict=False):
        if not isinstance(argument, fx.Node):
            continue
        if argument.name not in path_of or attrgetter(path_of[argument.name])(module) is not getattr(layer, name):
            return None, f"the {name} of {source.name} is computed, not the parameter of {path}"
        if len(argument.users) != 1:
            return None, f"the {name} of {path} is used {len(argument.users)} times"
    num_axes = source.meta["val"].ndim
    if num_axes != layer.weight.ndim:
        return None, f"the output of {path} has {num_axes} axes, and axis 1, which BatchNorm takes, is not its channels"
    return path, ""


def _has_activation(batchnorm: Any) -> bool:
    """Tell whether this is BatchNorm, then the modules `drop` and `act`, and nothing else."""
    kind = type(batchnorm)
    return kind.__name__ in _WITH_ACTIVATION and kind.__module__.startswith("timm.layers.")


def _remainder(batchnorm: Any) -> nn.Module:
    """Return what a folded BatchNorm still does."""
    if not _has_activation(batchnorm):
        return nn.Identity()
    return nn.Sequential(OrderedDict(drop=batchnorm.drop, act=batchnorm.act))  # names of nodes stay


def _submodule(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _fold_pair(module: nn.Module, pair: FoldedBatchNorm) -> None:
    """Fold one pair in place."""
    batchnorm: Any = module.get_submodule(pair.batchnorm)
    layer: Any = module.get_submodule(pair.layer)
    weight, bias = folded_weight_and_bias(
        layer.weight.detach(),
        None if layer.bias is None else layer.bias.detach(),
        gamma=None if batchnorm.weight is None else batchnorm.weight.detach(),
        beta=None if batchnorm.bias is None else batchnorm.bias.detach(),
        mean=batchnorm.running_mean,
        var=batchnorm.running_var,
        eps=batchnorm.eps,
    )
    dtype = layer.weight.dtype
    layer.weight = nn.Parameter(weight.to(dtype), requires_grad=False)
    layer.bias = nn.Parameter(bias.to(dtype), requires_grad=False)
    for name, tensor in (("weight", layer.weight), ("bias", layer.bias)):
        if not bool(torch.isfinite(tensor).all()):
            raise WeightsError(
                f"folding {pair.batchnorm} into {pair.layer} gives NaN or Inf in its {name}; "
                f"the least running variance of {pair.batchnorm} is {float(batchnorm.running_var.min()):g} "
                f"and eps is {batchnorm.eps:g}: the checkpoint is damaged or was never trained"
            )
    for path, child in list(module.named_modules(remove_duplicate=False)):  # it may be registered under several names
        if child is batchnorm:
            module.set_submodule(path, _remainder(batchnorm))
