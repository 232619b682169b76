"""`--features layer2,layer3`: the outputs of named modules instead of the logits, for detectors and the like.

The class of a copy of the network is replaced by one whose forward runs the network with hooks on the named modules
and returns what they gave. So every path in the module tree, and with it every name in the export, stays as it was;
what lies behind the last feature is not exported, because nothing of it is read.
"""

from __future__ import annotations

import copy
import difflib
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from exporter.errors import FeatureError
from exporter.models.loaded_model import LoadedModel


def with_features(loaded: LoadedModel, names: tuple[str, ...]) -> LoadedModel:
    """Return `loaded` giving a tuple of what the modules at paths `names` give, float32 [N, ...] each.

    Raises:
        FeatureError: If a path names no module or is given twice, or the model is an ONNX file.
    """
    if loaded.source == "onnx":
        raise FeatureError("--features takes paths of PyTorch modules; an ONNX file has none")
    paths = [path for path, _ in loaded.module.named_modules() if path]
    for name in names:
        if name not in paths:
            near = difflib.get_close_matches(name, paths, n=3)
            top = [path for path, _ in loaded.module.named_children()]
            hint = f"did you mean {' or '.join(near)}?" if near else f"its children: {', '.join(top)}"
            raise FeatureError(f"--features: {loaded.model_id} has no module {name!r}; {hint}")
    if twice := [name for place, name in enumerate(names) if name in names[:place]]:
        raise FeatureError(f"--features: {twice[0]!r} is given twice")
    module = copy.deepcopy(loaded.module)
    module.__class__ = _class_with_features(type(module), names)
    return replace(loaded, module=module, outputs=names, labels=None, gives_logits=False)


def _class_with_features(base: type[nn.Module], names: tuple[str, ...]) -> type[nn.Module]:
    def forward(self: nn.Module, images: Tensor) -> Any:
        found: dict[str, Tensor] = {}
        handles = [_keep_output(self, name, found) for name in names]
        try:
            base.forward(self, images)
        finally:
            for handle in handles:
                handle.remove()
        if missing := [name for name in names if name not in found]:
            raise FeatureError(f"--features: module {missing[0]!r} does not run when an image is classified")
        features = tuple(found[name] for name in names)
        return features if len(features) > 1 else features[0]

    return type(base.__name__, (base,), {"forward": forward})


def _keep_output(module: nn.Module, name: str, found: dict[str, Tensor]) -> RemovableHandle:
    def keep(child: nn.Module, inputs: Any, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise FeatureError(f"--features: module {name!r} gives a {type(output).__name__}, not a tensor")
        if name in found:
            raise FeatureError(f"--features: module {name!r} runs several times; name one that runs once")
        found[name] = output.clone()  # what comes next may work in place

    return module.get_submodule(name).register_forward_hook(keep)
