"""From a training script's own checkpoint to a bundle in one command, with the top-1 that the training logged.

    python benchmarks/training_scripts.py --train FOLDER --val FOLDER [--epochs 2] [--side 96] [--script timm]

Both folders hold one folder of pictures per class. The network is trained from scratch with the loop, the transforms
and above all the saver of each of the two scripts that most checkpoints come from:

    timm          timm.utils.CheckpointSaver (model_best.pth.tar: arch, args, optimizer, EMA, metric)
    torchvision   references/classification/train.py's dict (model, optimizer, lr_scheduler, epoch, args, model_ema)

Then `resnet-export auto --weights FILE --val FOLDER` runs on that file without any other word about the network or its
pictures, and the top-1 of PyTorch and of the ONNX file in its report are compared with the training log's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import timm.data
import timm.utils
import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import InterpolationMode

IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
ARCHITECTURE = "resnet18"


def main() -> int:
    """Train, save, export and compare; exit with 1 where a figure differs."""
    words = _words()
    scripts: Mapping[str, Callable[[argparse.Namespace, Path], tuple[Path, float]]] = {
        "timm": train_like_timm,
        "torchvision": train_like_torchvision,
    }
    failed = 0
    for name in words.script or scripts:
        with tempfile.TemporaryDirectory() as folder:
            file, top1 = scripts[name](words, Path(folder))
            rows = exported_top1(file, words.val, Path(folder) / "bundle")
            print(
                f"{name}: {file.name}, training log {top1:.2f} %, "
                + ", ".join(f"{k} {v:.2f} %" for k, v in rows.items())
            )
            failed += any(abs(value - top1) > words.tolerance for value in rows.values())
    return int(failed > 0)


def _words() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--val", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--script", action="append", choices=("timm", "torchvision"))
    parser.add_argument("--tolerance", type=float, default=0.01, help="in percentage points")
    return parser.parse_args()


def train_like_timm(words: argparse.Namespace, folder: Path) -> tuple[Path, float]:
    """Return the file that timm's saver calls the best, and its logged top-1 in percent."""
    torch.manual_seed(0)
    args = argparse.Namespace(
        model=ARCHITECTURE, img_size=words.side, input_size=None, in_chans=None, crop_pct=0.9, mean=None, std=None,
        interpolation="", crop_mode=None, lr=0.05, epochs=words.epochs, data_dir=str(words.train), output=folder,
    )  # fmt: skip
    classes = ImageFolder(words.train).classes
    model = timm.create_model(ARCHITECTURE, pretrained=False, num_classes=len(classes))
    config = timm.data.resolve_data_config(vars(args), model=model)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9)
    averaged = timm.utils.ModelEmaV2(model, decay=0.9)
    saver = timm.utils.CheckpointSaver(
        model, optimizer, args=args, model_ema=averaged, checkpoint_dir=str(folder), recovery_dir=str(folder)
    )
    training = timm.data.create_transform(config["input_size"], is_training=True, no_aug=True, interpolation="bicubic")
    evaluation = timm.data.create_transform(**config)
    for epoch in range(words.epochs):
        _one_epoch(model, optimizer, _loader(words.train, training, shuffle=True))
        averaged.update(model)
        top1 = _top1(model, _loader(words.val, evaluation))
        print(f"timm epoch {epoch}: top-1 {top1:.2f} %", file=sys.stderr)
        best, _ = saver.save_checkpoint(epoch, metric=top1)
    return folder / "model_best.pth.tar", float(best)


def train_like_torchvision(words: argparse.Namespace, folder: Path) -> tuple[Path, float]:
    """Return the last checkpoint in the layout of torchvision's references, and its logged top-1 in percent.

    Source: torchvision 0.29, references/classification/train.py, main, and presets.py.
    """
    torch.manual_seed(0)
    args = argparse.Namespace(
        model=ARCHITECTURE, data_path=str(words.train), val_resize_size=words.side + 8, val_crop_size=words.side,
        train_crop_size=words.side, interpolation="bilinear", lr=0.05, epochs=words.epochs, output_dir=folder,
        model_ema=True, amp=False, backend="PIL",
    )  # fmt: skip
    interpolation = InterpolationMode(args.interpolation)
    model = torchvision.models.get_model(ARCHITECTURE, weights=None, num_classes=len(ImageFolder(words.train).classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, weight_decay=1e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    averaged = torch.optim.swa_utils.AveragedModel(model)
    training = _preset(transforms.Resize((words.side, words.side), interpolation))
    evaluation = _preset(
        transforms.Resize(args.val_resize_size, interpolation), transforms.CenterCrop(args.val_crop_size)
    )
    top1 = 0.0
    for epoch in range(words.epochs):
        _one_epoch(model, optimizer, _loader(words.train, training, shuffle=True))
        scheduler.step()
        averaged.update_parameters(model)
        top1 = _top1(model, _loader(words.val, evaluation))
        print(f"torchvision epoch {epoch}: top-1 {top1:.2f} %", file=sys.stderr)
        checkpoint = {
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "lr_scheduler": scheduler.state_dict(),
            "epoch": epoch,
            "args": args,
            "model_ema": averaged.state_dict(),
        }
        torch.save(checkpoint, folder / "checkpoint.pth")
    return folder / "checkpoint.pth", top1


def _preset(*steps: nn.Module) -> transforms.Compose:
    return transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(*IMAGENET)])


def _loader(folder: Path, transform: Callable[..., torch.Tensor], *, shuffle: bool = False) -> DataLoader:  # type: ignore[type-arg]
    return DataLoader(ImageFolder(folder, transform), batch_size=32, shuffle=shuffle)


def _one_epoch(model: nn.Module, optimizer: torch.optim.Optimizer, batches: DataLoader) -> None:  # type: ignore[type-arg]
    model.train()
    for images, labels in batches:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()


def _top1(model: nn.Module, batches: DataLoader) -> float:  # type: ignore[type-arg]
    """Return top-1 in percent."""
    model.eval()
    right = total = 0
    with torch.inference_mode():
        for images, labels in batches:
            right += int((model(images).argmax(1) == labels).sum())
            total += len(labels)
    return 100 * right / total


def exported_top1(file: Path, val: Path, bundle: Path) -> dict[str, float]:
    """Export with one command and return the report's top-1 of each row in percent."""
    command = [sys.executable, "-m", "resnet_export", "auto", "--weights", str(file), "--val", str(val)]
    run = subprocess.run([*command, "-o", str(bundle), "--json"], capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(f"{' '.join(command)}: exit {run.returncode}\n{run.stderr}")
    print("\n".join(f"  {line}" for line in json.loads(run.stdout)["steps"][:5]), file=sys.stderr)
    report = json.loads(run.stdout)
    return {row["name"]: 100 * row["parity"]["top1_candidate"] for row in report["rows"]}


if __name__ == "__main__":
    sys.exit(main())
