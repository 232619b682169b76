"""Train CifarResNet(20) on the digits and write the demo's checkpoint.

    python examples/digits/train.py          # about three minutes on two cores

The images go through the preprocessing that calibration, evaluation and the device use, and the checkpoint's
header says what it was. The `demo` extra must be installed.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save
from split import load_pictures, split_digits
from torch import Tensor, nn
from torch.nn import functional as F

from exporter.networks.cifar_resnet import CifarResNet
from runtimes.preprocessing.decode import rgb_from_image
from runtimes.preprocessing.transform import Interpolation, Preprocessing, preprocess

CHECKPOINT = Path(__file__).with_name("resnet20_digits.safetensors")

PREPROCESSING = Preprocessing(
    resize=(32, 32),
    crop=None,
    interpolation=Interpolation.BILINEAR,
    mean=(0.306, 0.306, 0.306),  # measured over the 1437 training images after the resize: 0.3060
    std=(0.324, 0.324, 0.324),  # likewise: 0.3237
)

MAX_SHIFT = 3
"""Pixels of the 32x32 picture that an image is moved by at most, each way, in training. Our choice."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the model is trained; the defaults are the committed checkpoint's.

    Attributes:
        epochs: Passes over the 1437 training images.
        batch_size: Images per step; a last, smaller batch is left out of its epoch.
        max_lr: Peak of the one-cycle learning rate, reached after 30 % of the steps.
        momentum: Of SGD with Nesterov's form.
        weight_decay: L2 penalty on all parameters.
        label_smoothing: Share of the target spread over all classes.
        seed: Of the initial weights, the order of the images and their shifts.
        threads: Torch's CPU threads; another number rounds sums otherwise, so other weights come out.
    """

    epochs: int = 24
    batch_size: int = 64
    max_lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    seed: int = 20
    threads: int = 2


def images_tensor(pictures: list[Image.Image], indices: NDArray[np.int64]) -> Tensor:
    """Return the pictures at `indices` as the model's input, float32 [len(indices), 3, 32, 32]."""
    arrays = [preprocess(PREPROCESSING, rgb_from_image(pictures[index])) for index in indices]
    return torch.from_numpy(np.stack(arrays))


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Return the images, each moved by up to `MAX_SHIFT` pixels in x and in y; black comes in at the edge.

    Args:
        images: float32 [N, 3, H, W], normalized.
        generator: Where the shifts are drawn from.
    """
    black = -PREPROCESSING.mean[0] / PREPROCESSING.std[0]
    padded = F.pad(images, (MAX_SHIFT,) * 4, value=black)
    height, width = images.shape[2:]
    offsets = torch.randint(2 * MAX_SHIFT + 1, (len(images), 2), generator=generator).tolist()
    rows = [image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, offsets, strict=True)]
    return torch.stack(rows)


@torch.inference_mode()
def top1(model: nn.Module, images: Tensor, labels: Tensor) -> float:
    """Return the share of images, 0-1, that `model` in eval mode gets right."""
    model.eval()
    return float((model(images).argmax(1) == labels).float().mean())


def train(recipe: Recipe) -> tuple[CifarResNet, float]:
    """Train by `recipe`, printing each epoch; return the model in eval mode and its top-1 on val, 0-1."""
    torch.set_num_threads(recipe.threads)
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)

    pictures, all_labels = load_pictures()
    split = split_digits(all_labels)
    images, labels = images_tensor(pictures, split.train), torch.from_numpy(all_labels[split.train])
    val_images, val_labels = images_tensor(pictures, split.val), torch.from_numpy(all_labels[split.val])

    model = CifarResNet(20, num_classes=10)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=recipe.max_lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=True,
    )
    steps = len(labels) // recipe.batch_size
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.max_lr, epochs=recipe.epochs, steps_per_epoch=steps
    )
    accuracy = 0.0
    for epoch in range(1, recipe.epochs + 1):
        model.train()
        order = torch.randperm(len(labels), generator=generator)
        losses = []
        for batch in order[: steps * recipe.batch_size].split(recipe.batch_size):
            logits = model(shifted(images[batch], generator))
            loss = F.cross_entropy(logits, labels[batch], label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        accuracy = top1(model, val_images, val_labels)
        print(f"epoch {epoch:2d}  loss {np.mean(losses):.4f}  val top-1 {accuracy:.4f}", flush=True)
    return model, accuracy


def save_checkpoint(model: nn.Module, accuracy: float, recipe: Recipe, path: Path) -> None:
    """Write the weights, with what is needed to use them in the header, to a sibling file and rename it."""
    training = (
        f"scikit-learn digits, 1437 images; SGD with Nesterov momentum, one-cycle; {recipe}; shifts of up to "
        f"{MAX_SHIFT} px; val top-1 {accuracy:.4f} of 360; torch {torch.__version__}"
    )
    metadata = {
        "model": "cifar_resnet20",
        "num_classes": "10",
        "labels": json.dumps([str(digit) for digit in range(10)]),
        "preprocessing": json.dumps(PREPROCESSING.to_json()),
        "training": training,
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(save(model.state_dict(), metadata=metadata))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train CifarResNet(20) on the digits; writes a checkpoint.")
    parser.add_argument("--out", type=Path, default=CHECKPOINT, help="the file to write (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=Recipe().epochs, help="default: %(default)s")
    arguments = parser.parse_args()
    recipe = Recipe(epochs=arguments.epochs)
    start = time.perf_counter()
    model, accuracy = train(recipe)
    save_checkpoint(model, accuracy, recipe, arguments.out)
    print(f"wrote {arguments.out} after {time.perf_counter() - start:.0f} s, val top-1 {accuracy:.4f}")


if __name__ == "__main__":
    main()
