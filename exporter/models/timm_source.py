"""timm's models (`timm:NAME`, `timm:hf-hub:ORG/NAME`, `timm:local-dir:FOLDER`), prepared as their data config says.

Nothing is downloaded unless the weights ask for it; a model on the hub has its configuration there, so it always asks.
"""

from __future__ import annotations

import difflib
from functools import partial
from pathlib import Path
from typing import Any

import timm
import timm.data
import timm.models
from torch import nn

from exporter.checkpoints.checkpoint import check_finite, state_dict_sha256
from exporter.checkpoints.training_record import TIMM as TIMM_SCRIPT
from exporter.checkpoints.training_record import TrainingRecord
from exporter.checkpoints.weight_layout import without_values
from exporter.errors import UnknownModelError, WeightsError
from exporter.models.architecture import Architecture, load_file, load_random
from exporter.models.loaded_model import DEFAULT_WEIGHTS, RANDOM_WEIGHTS, LoadedModel, ModelRequest, is_weights_file
from exporter.models.model_names import parse_model
from exporter.preprocessing.timm_data_config import preprocessing_from_data_config
from runtimes.preprocessing.transform import Preprocessing

_HUB = "hf-hub:"
_LOCAL = "local-dir:"


def load(request: ModelRequest) -> LoadedModel:
    """Build a timm model and load its weights; see `exporter.models.load_model.load_model`."""
    if request.weights == RANDOM_WEIGHTS:
        return load_random(architecture_for(request), request)
    if is_weights_file(request.weights):
        return load_file(architecture_for(request), request)
    name = request.reference.name
    if request.weights != DEFAULT_WEIGHTS:
        name = f"{name.partition('.')[0]}.{request.weights}"
    return _load_published(name, request)


def architecture_for(request: ModelRequest) -> Architecture:
    """Return the architecture with the preprocessing of its default weights, which is then an assumption.

    Raises:
        UnknownModelError: If timm has no such model, or no such weights of it.
        WeightsError: If the configuration of a model on the hub cannot be had.
    """
    name = request.reference.name
    reference, config = _described(name)
    return Architecture(
        model_id=request.reference.model_id,
        source="timm",
        build=partial(_build, name, _fixed_side(config, request)),
        num_classes=int(config.get("num_classes") or 1000),
        preprocessing=preprocessing_from_data_config(timm.data.resolve_model_data_config(reference)),
        preprocessing_source=f"assumed: timm's data config of {_full_name(name, config)} (the weights do not say)",
        trained=partial(_preprocessing_of_training, reference),
    )


def _preprocessing_of_training(reference: nn.Module, record: TrainingRecord) -> tuple[Preprocessing, str] | None:
    """Return how timm's script prepared validation images, from its stored arguments; None for other scripts.

    Source: timm 1.0.31, train.py: `resolve_data_config(vars(args), model=model)`; its loaders crop the center.
    """
    if record.script != TIMM_SCRIPT or "model" not in record.arguments:
        return None
    config = timm.data.resolve_data_config(dict(record.arguments), model=reference)
    preprocessing = preprocessing_from_data_config({**config, "crop_mode": "center"})
    return preprocessing, "the checkpoint's training arguments (timm's script)"


def _check_name(name: str) -> None:
    """Raise unless timm has this architecture and, if one is named, this tag."""
    architecture, dot, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture.lower(), timm.list_models(), n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(f'timm:{other}' for other in near)}?" if near else "see timm.list_models()"
        raise UnknownModelError(f"timm {timm.__version__} has no model {architecture!r}; {hint}")
    if not dot:
        return
    tags = [full.partition(".")[2] for full in timm.list_models(f"{architecture}.*", pretrained=True)]
    if tag not in tags:
        raise UnknownModelError(
            f"timm {timm.__version__} has no weights {tag!r} of {architecture}; it has {', '.join(tags) or 'none'}; "
            "or give a file (.pth, .pt, .safetensors), DEFAULT or random"
        )


def _described(name: str) -> tuple[nn.Module, dict[str, Any]]:
    """Return the model without values, for its configuration, and that configuration."""
    if not name.startswith((_HUB, _LOCAL)):
        _check_name(name)
    try:
        module: Any = without_values(lambda _: _build(name, None, None), 0)
    except Exception as err:  # what httpx, huggingface_hub, json and timm raise has no common base
        # Of a name that was checked nothing fails here; a hub or folder does.
        raise _unreachable(name, err) from err
    config = dict(module.pretrained_cfg) if isinstance(getattr(module, "pretrained_cfg", None), dict) else {}
    return module, config


def _build(
    name: str, side: int | tuple[int, int] | None, num_classes: int | None, *, pretrained: bool = False
) -> nn.Module:
    """Build; `side` is the input's in pixels, for networks that are built for one size."""
    module: nn.Module = timm.create_model(
        name, pretrained=pretrained, num_classes=num_classes, img_size=side, exportable=True
    )  # timm drops options that are None
    return module


def _fixed_side(config: dict[str, Any], request: ModelRequest) -> int | tuple[int, int] | None:
    """Return the input size asked for, where the network must be built for it."""
    return request.preprocessing.input_size if config.get("fixed_input_size") else None


def _load_published(name: str, request: ModelRequest) -> LoadedModel:
    _, config = _described(name)
    if not config.get("num_classes", 1000):
        raise WeightsError(
            f"timm's weights of {_full_name(name, config)} have no classifier (num_classes 0), so there are no logits "
            "to export; choose a fine-tuned variant, or give your own weights with --weights FILE"
        )
    num_classes = int(config.get("num_classes") or 1000)
    if request.num_classes not in (None, num_classes):
        raise WeightsError(
            f"timm's weights of {_full_name(name, config)} have {num_classes} classes, --num-classes asks for "
            f"{request.num_classes}; give your own weights with --weights FILE, or --weights random"
        )
    try:
        module = _build(name, _fixed_side(config, request), None, pretrained=True).eval()
    except Exception as err:  # httpx, huggingface_hub, safetensors, pickle and timm raise unrelated types
        # No network, a damaged cache, a missing file: all mean that these weights cannot be had.
        raise _unreachable(_full_name(name, config), err) from err
    check_finite(module)
    return LoadedModel(
        module=module,
        model_id=parse_model(f"timm:{name}").model_id,
        source="timm",
        weights=f"timm {_full_name(name, config)}",
        weights_sha256=state_dict_sha256(module.state_dict()),
        preprocessing=preprocessing_from_data_config(timm.data.resolve_model_data_config(module)),
        preprocessing_source="timm's data config of these weights",
        num_classes=num_classes,
        labels=_labels(config, num_classes),
        notes=_other_size_note(config),
    )


def _full_name(name: str, config: dict[str, Any]) -> str:
    """Return the name with the tag of its default weights, such as "resnet50.a1_in1k"."""
    tag = config.get("tag")
    if name.startswith((_HUB, _LOCAL)) or "." in name or not tag:
        return name
    return f"{name}.{tag}"


def _labels(config: dict[str, Any], num_classes: int) -> tuple[str, ...] | None:
    names = config.get("label_names")
    if isinstance(names, (list, tuple)) and len(names) == num_classes:
        return tuple(map(str, names))
    subset = timm.data.infer_imagenet_subset({"num_classes": num_classes})
    if subset is None:
        return None
    info = timm.data.ImageNetInfo(subset)
    return tuple(info.index_to_description(index) for index in range(num_classes))


def _other_size_note(config: dict[str, Any]) -> tuple[str, ...]:
    """Tell when timm's own figures for these weights are at another size than its data config's."""
    tested = config.get("test_input_size")
    if tested is None or tuple(tested) == tuple(config["input_size"]):
        return ()
    return (
        f"timm reports the accuracy of these weights at {tested[1]}x{tested[2]} (crop_pct "
        f"{config.get('test_crop_pct') or config['crop_pct']}); this is its training size, --input-size chooses",
    )


def _unreachable(name: str, err: Exception) -> WeightsError:
    reason = (str(err).strip().splitlines() or [type(err).__name__])[0]
    if name.startswith(_LOCAL):
        folder = Path(name.removeprefix(_LOCAL))
        return WeightsError(
            f"{folder} cannot be loaded ({reason}); expected a folder with config.json and model.safetensors, as "
            "timm.models.save_for_hf writes it"
        )
    way = "fetch the file on a machine with network and pass --weights FILE, or use --weights random to try it out"
    if name.startswith(_HUB):
        way = f"download the repository on a machine with network and pass timm:{_LOCAL}FOLDER"
    return WeightsError(f"timm's {name} is not in the cache and cannot be downloaded ({reason}); {way}")
