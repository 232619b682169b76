"""An architecture that can be built for any number of classes, filled from a checkpoint file or at random.

A `.safetensors` header may carry `model`, `labels` (a JSON list) and `preprocessing` (JSON of
`Preprocessing.to_json`), as the demo's checkpoint does: such a file needs no further option.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from exporter.checkpoints.checkpoint import Checkpoint, check_finite, load_checkpoint, load_into, state_dict_sha256
from exporter.checkpoints.computed_weights import with_whole_weights
from exporter.checkpoints.network_prefix import Caution
from exporter.checkpoints.replaced_head import find_head, with_head
from exporter.checkpoints.training_record import TrainingRecord
from exporter.checkpoints.weight_layout import layout_of, without_draws
from exporter.checkpoints.weight_names import find_network
from exporter.errors import PreprocessingError, WeightsError
from exporter.models.check_images import load_check_images, load_hard_frames
from exporter.models.input_channels import RGB, channels_in, with_channels
from exporter.models.loaded_model import RANDOM_SEED, RANDOM_WEIGHTS, LoadedModel, ModelRequest
from exporter.networks.random_weights import settle_batchnorm_for, switch_on
from exporter.preprocessing.config_files import labels_beside, preprocessing_beside, unread_beside
from exporter.preprocessing.options import unknown_channels, wrong_channels
from exporter.preprocessing.training_arguments import preprocessing_of_reference
from runtimes.preprocessing.transform import IMAGENET_MEAN, IMAGENET_STD, Interpolation, Preprocessing

IMAGENET_PREPROCESSING = Preprocessing(
    resize=256, crop=(224, 224), interpolation=Interpolation.BILINEAR, mean=IMAGENET_MEAN, std=IMAGENET_STD
)
"""Source: torchvision's V1 weights of every ResNet, `weights.transforms()`."""

_NUM_SETTLING = 2  # photographs that random weights get their BatchNorm statistics from, where these do
_EVERY = 4  # views of one photograph; the first of each says whether they do

CIFAR_PREPROCESSING = Preprocessing(
    resize=(32, 32),
    crop=None,
    interpolation=Interpolation.BILINEAR,
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
)
"""Mean and per-pixel standard deviation of CIFAR-10's training images, as the field rounds them."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """How to build one network, and what holds when its weights say nothing.

    Attributes:
        build: Number of classes -> module.
        num_classes: When neither the request nor the weights say.
        preprocessing: When the weights do not say; None where nothing may be assumed.
        preprocessing_source: What that assumption is, in words; why there is none, where there is none.
        undecided: Why mean and std may not be assumed although the rest may; empty where they may.
        ignored_prefixes: Weights with such names are left out: heads that only training uses.
        adapt: Returns the variant of this architecture that a checkpoint was made for, given its weights under this
            architecture's names; None where there is only one.
        trained: What a training script's record in the checkpoint says about the preprocessing, or None.
    """

    model_id: str
    source: str
    build: Callable[[int], nn.Module]
    num_classes: int
    preprocessing: Preprocessing | None
    preprocessing_source: str
    undecided: str = ""
    ignored_prefixes: tuple[str, ...] = ()
    adapt: Callable[[Architecture, Mapping[str, Tensor]], Architecture] | None = None
    notes: tuple[str, ...] = ()
    trained: Callable[[TrainingRecord], tuple[Preprocessing, str] | None] = preprocessing_of_reference

    def seeded(self, num_classes: int) -> nn.Module:
        """Build with the fixed seed, in evaluation mode, without touching the caller's random state."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(RANDOM_SEED)
            return self.build(num_classes).eval()

    def to_be_filled(self, num_classes: int) -> nn.Module:
        """Build as `seeded` does, for weights that fill every parameter: a library's network is not drawn first."""
        if self.preprocessing is not None:  # a user's own code may compute with what it drew
            with torch.random.fork_rng(devices=[]):
                if (module := without_draws(self.build, num_classes)) is not None:
                    return module
        return self.seeded(num_classes)

    def assumed_preprocessing(self, request: ModelRequest, channels: int = RGB) -> tuple[Preprocessing, str]:
        """Return the preprocessing for weights that say none, and its source in words.

        Raises:
            PreprocessingError: If nothing may be assumed and the options do not say everything, or say it of another
                number of channels.
        """
        options = request.preprocessing
        if channels != RGB and self.preprocessing is not None:
            if options.mean is None or options.std is None:
                raise PreprocessingError(unknown_channels("the network", channels))
            if options.channels is not None and options.channels != channels:
                raise PreprocessingError(wrong_channels(self.model_id, channels, options.channels))
            return replace(self.preprocessing, mean=options.mean, std=options.std), self.preprocessing_source
        if self.preprocessing is None:
            return options.complete(self.preprocessing_source), "the command line"
        if self.undecided and (options.mean is None or options.std is None):
            raise PreprocessingError(f"{self.undecided}; say which with --mean and --std")
        return self.preprocessing, self.preprocessing_source


def load_random(architecture: Architecture, request: ModelRequest) -> LoadedModel:
    """Return the network as it is built with the fixed seed; of weights "random" every layer counts, too.

    Raises:
        PreprocessingError: If nothing tells how images are prepared.
    """
    num_classes = request.num_classes or architecture.num_classes
    channels = request.preprocessing.channels or RGB
    if channels != RGB and architecture.preprocessing is not None:  # a user's own code takes what it takes
        architecture = _of_channels(architecture, channels)
    preprocessing, preprocessing_source = architecture.assumed_preprocessing(request, channels)
    module = architecture.seeded(num_classes)
    if request.weights == RANDOM_WEIGHTS:
        applied = request.preprocessing.applied_to(preprocessing)
        photographs, hard = torch.from_numpy(load_check_images(applied)), torch.from_numpy(load_hard_frames(applied))
        switch_on(module, RANDOM_SEED)
        settle_batchnorm_for(
            module,
            (photographs[:_NUM_SETTLING], photographs, torch.cat([photographs, hard])),
            torch.cat([photographs[_EVERY::_EVERY], hard[:2]]),  # the black frame and the white one
        )
    return LoadedModel(
        module=module,
        model_id=architecture.model_id,
        source=architecture.source,
        weights=f"random (seed {RANDOM_SEED})",
        weights_sha256=state_dict_sha256(module.state_dict()),
        preprocessing=preprocessing,
        preprocessing_source=preprocessing_source,
        num_classes=num_classes,
        labels=None,
        notes=(*architecture.notes, "random weights: sizes and latency mean something, accuracy figures do not"),
    )


def load_file(architecture: Architecture, request: ModelRequest) -> LoadedModel:
    """Return the network with the weights of the file `request.weights`.

    Raises:
        WeightsError: If the file cannot be read, was made for another model, does not fit, or holds NaN or Inf.
        PreprocessingError: If nothing tells how images are prepared.
    """
    checkpoint = load_checkpoint(Path(request.weights), key=request.checkpoint_key)
    header = _read_header(checkpoint.metadata, request.weights, architecture.model_id)
    layout = layout_of(architecture.build)
    checkpoint = with_whole_weights(checkpoint, layout.shapes)
    network = find_network(checkpoint.state_dict, layout.shapes, ignored_prefixes=architecture.ignored_prefixes)
    checkpoint = checkpoint.with_weights(network.state_dict, network.notes)
    if architecture.adapt is not None:
        architecture = architecture.adapt(architecture, checkpoint.state_dict)
        layout = layout_of(architecture.build)
    channels = channels_in(checkpoint.state_dict, layout) or RGB
    if channels != RGB:
        architecture = _of_channels(architecture, channels)
        layout = layout_of(architecture.build)
    head = find_head(checkpoint.state_dict, network.aside, layout, request.head_activation)
    if head is not None:
        rest = {name: tensor for name, tensor in checkpoint.state_dict.items() if name not in head.taken}
        checkpoint = checkpoint.with_weights({**rest, **head.weights}, head.notes)
    stated = _stated_preprocessing(checkpoint, header, architecture, Path(request.weights))
    if stated is not None and stated[0].channels != channels:
        stated = None
    preprocessing, preprocessing_source = stated or architecture.assumed_preprocessing(request, channels)
    in_file = layout.num_classes_of(checkpoint.state_dict) if head is None else head.num_classes
    if request.num_classes is not None and in_file not in (None, request.num_classes):
        raise WeightsError(
            f"{request.weights}: got --num-classes {request.num_classes}, but the file's classifier has {in_file} "
            f"classes: pass --num-classes {in_file}, or leave it out"
        )
    num_classes = in_file or request.num_classes or architecture.num_classes
    module = architecture.to_be_filled(num_classes)
    cautions = tuple(note for note in checkpoint.notes if isinstance(note, Caution))
    unread = None if header.preprocessing and header.labels else unread_beside(Path(request.weights))
    try:
        load_into(module if head is None else with_head(module, head), checkpoint)
    except WeightsError as err:
        raise WeightsError("; ".join((str(err), *cautions))) from err
    check_finite(module)
    return LoadedModel(
        module=module,
        model_id=architecture.model_id,
        source=architecture.source,
        weights=Path(request.weights).name,
        weights_sha256=checkpoint.sha256,
        preprocessing=preprocessing,
        preprocessing_source=preprocessing_source,
        num_classes=num_classes,
        labels=header.labels or labels_beside(Path(request.weights), num_classes),
        notes=(*(note for note in checkpoint.notes if note not in cautions), *architecture.notes),
        warnings=(*cautions, *(() if head is None else head.warnings), *filter(None, (unread,))),
    )


def _stated_preprocessing(
    checkpoint: Checkpoint, header: _Header, architecture: Architecture, weights: Path
) -> tuple[Preprocessing, str] | None:
    """Return the preprocessing that the file or a configuration beside it says, and where; None where none does."""
    if header.preprocessing is not None:
        return header.preprocessing, "the checkpoint's header"
    return architecture.trained(checkpoint.training) or preprocessing_beside(weights)


def _of_channels(architecture: Architecture, channels: int) -> Architecture:
    build = architecture.build
    words = "1 channel, grey" if channels == 1 else f"{channels} channels"
    return replace(
        architecture,
        build=lambda num_classes: with_channels(build(num_classes), channels),
        notes=(*architecture.notes, f"the first convolution takes {words}"),
    )


@dataclass(frozen=True, slots=True)
class _Header:
    labels: tuple[str, ...] | None
    preprocessing: Preprocessing | None


def _read_header(metadata: Mapping[str, str], weights: str, model_id: str) -> _Header:
    made_for = metadata.get("model", model_id)
    if made_for != model_id:
        raise WeightsError(f"{weights}: its header says model {made_for!r}, expected {model_id!r}")
    try:
        labels = json.loads(metadata["labels"]) if "labels" in metadata else None
        stored = json.loads(metadata["preprocessing"]) if "preprocessing" in metadata else None
        return _Header(
            labels=None if labels is None else _labels_from_json(labels),
            preprocessing=None if stored is None else Preprocessing.from_json(stored),
        )
    except (ValueError, TypeError, RecursionError) as err:
        raise WeightsError(f"{weights}: its header cannot be read: {err}") from err


def _labels_from_json(labels: object) -> tuple[str, ...]:
    if not isinstance(labels, list):
        raise TypeError(f"labels: got {type(labels).__name__}, expected a list")
    return tuple(map(str, labels))
