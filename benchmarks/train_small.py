"""Train a third architecture for the comparison: a small ResNeXt (grouped bottleneck blocks) on the digits.

    python benchmarks/train_small.py OUT          # about two minutes on one core; writes OUT/model.onnx, labels.txt

Bottlenecks put three convolutions between two shortcuts, and groups give every output channel few weights: both
quantize otherwise than the basic blocks of ResNet-18 and of the demo's ResNet-20. The images are the demo's; `python
examples/digits/write_images.py` writes them.
"""

# ruff: noqa: E402 - the packages are found only once the path is right
from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# Python puts this script's folder first, where `calibration` would be a benchmark and not the package.
sys.path[:] = [
    str(ROOT),
    str(ROOT / "examples" / "digits"),
    *(entry for entry in sys.path if Path(entry).resolve() != ROOT / "benchmarks"),
]

import onnx
import torch
from split import load_pictures, split_digits
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.resnet import Bottleneck, conv1x1
from train import PREPROCESSING, images_tensor, shifted, top1

from exporter.models.loaded_model import LoadedModel
from exporter.tracing.export import ExportConfig, export_loaded

PLANES = (16, 32, 64)
"""Width of each stage before the bottleneck's expansion by 4."""

GROUPS = 4
BLOCKS = 2
EPOCHS = 10
BATCH_SIZE = 64
MAX_LR = 0.1
SEED = 20


class SmallResNeXt(nn.Module):
    """A 3x3 stem, three stages of grouped bottlenecks, and a classifier; modules named as torchvision names them.

    Source: Xie et al. 2017, arXiv:1611.05431, with the widths above.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, PLANES[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(PLANES[0])
        self.relu = nn.ReLU()
        self.layer1 = _stage(PLANES[0], PLANES[0], stride=1)
        self.layer2 = _stage(4 * PLANES[0], PLANES[1], stride=2)
        self.layer3 = _stage(4 * PLANES[1], PLANES[2], stride=2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(4 * PLANES[2], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, float32 [N, num_classes], of images float32 [N, 3, H, W]."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(torch.flatten(self.avgpool(x), 1))
        return logits


def _stage(in_channels: int, planes: int, *, stride: int) -> nn.Sequential:
    shortcut = nn.Sequential(conv1x1(in_channels, 4 * planes, stride), nn.BatchNorm2d(4 * planes))
    # torchvision's base_width 64 means a width of `planes` per group.
    blocks = [Bottleneck(in_channels, planes, stride, shortcut, groups=GROUPS, base_width=64 // GROUPS)]
    blocks += [Bottleneck(4 * planes, planes, groups=GROUPS, base_width=64 // GROUPS) for _ in range(BLOCKS - 1)]
    return nn.Sequential(*blocks)


def train() -> tuple[SmallResNeXt, float]:
    """Return the model in eval mode and its top-1 on the held-out digits, 0-1."""
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # another number rounds sums otherwise, so other weights come out
    torch.manual_seed(SEED)
    generator = torch.Generator().manual_seed(SEED)
    pictures, all_labels = load_pictures()
    split = split_digits(all_labels)
    images, labels = images_tensor(pictures, split.train), torch.from_numpy(all_labels[split.train])
    val_images, val_labels = images_tensor(pictures, split.val), torch.from_numpy(all_labels[split.val])
    model = SmallResNeXt(num_classes=10)
    optimizer = torch.optim.SGD(model.parameters(), lr=MAX_LR, momentum=0.9, weight_decay=5e-4, nesterov=True)
    steps = len(labels) // BATCH_SIZE
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, MAX_LR, epochs=EPOCHS, steps_per_epoch=steps)
    for epoch in range(1, EPOCHS + 1):
        model.train()
        order = torch.randperm(len(labels), generator=generator)
        for batch in order[: steps * BATCH_SIZE].split(BATCH_SIZE):
            loss = F.cross_entropy(model(shifted(images[batch], generator)), labels[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch:2d}  loss {loss.item():.4f}", flush=True)
    return model, top1(model, val_images, val_labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for model.onnx and labels.txt")
    out: Path = parser.parse_args().out
    start = time.perf_counter()
    model, accuracy = train()
    names = tuple(str(digit) for digit in range(10))
    loaded = LoadedModel(
        module=model.eval(),
        model_id="small_resnext",
        source="benchmarks/train_small.py",
        weights="trained",
        weights_sha256="",
        preprocessing=PREPROCESSING,
        preprocessing_source="examples/digits/train.py",
        num_classes=len(names),
        labels=names,
    )
    out.mkdir(parents=True, exist_ok=True)
    onnx.save_model(export_loaded(loaded, ExportConfig()).onnx, out / "model.onnx")
    (out / "labels.txt").write_text("\n".join(names) + "\n")
    mean, std = (",".join(map(str, values)) for values in (PREPROCESSING.mean, PREPROCESSING.std))
    print(f"val top-1 {accuracy:.4f} after {time.perf_counter() - start:.0f} s; benchmark it with")
    print(f"  {out / 'model.onnx'} --labels {out / 'labels.txt'} --resize 32x32 --mean {mean} --std {std}")


if __name__ == "__main__":
    main()
