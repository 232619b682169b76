"""Does `classify` lose anything between decoding and the model? Images a second of each alone and of both together.

    python benchmarks/classify.py BUNDLE FOLDER [--decoders N] [--threads N] [--provider cpu] [--batch 32] [--repeat 5]

On a CPU give decoders and threads that fit on its cores together (1 and 1 of two cores): otherwise both share them, and
no arrangement reaches the slower one alone. The rows take turns, so that a machine that slows down slows all of them.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from runtimes import load
from runtimes.batch_inference.classify_images import ImageClassifier, cut_parts
from runtimes.inference.model import Model
from runtimes.preprocessing.image_list import list_images

PART_SIZE = 1024


def main() -> None:
    arguments = parse()
    paths = list_images(arguments.folder)[: arguments.num_images]
    with load(arguments.bundle, provider=arguments.provider, threads=arguments.threads) as model:
        preparation = model.preparation
        assert preparation is not None
        sample = [preparation.pixels(Path(path)) for path in paths[: arguments.batch]]
        classifier = ImageClassifier(model, batch_size=arguments.batch, decoders=arguments.decoders)
        ways: dict[str, Callable[[], None]] = {
            "decoding alone": lambda: decode(model, paths, arguments.decoders),
            "model alone": lambda: infer(model, sample, len(paths)),
            "classify": lambda: consume(classifier, paths),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for way in ways.values():
            way()  # warm-up: the files come from the page cache in every row
        for _ in range(arguments.repeat):
            for name, way in ways.items():
                start = time.perf_counter()
                way()
                seconds[name].append(time.perf_counter() - start)
        print(f"{model.describe()}\n{platform.processor() or platform.machine()}, {len(paths)} images\n")
    report(seconds, len(paths))


def decode(model: Model, paths: Sequence[str], decoders: int) -> None:
    preparation = model.preparation
    assert preparation is not None
    with ThreadPoolExecutor(decoders) as executor:
        for _ in executor.map(lambda path: preparation.pixels(Path(path)), paths):
            pass


def infer(model: Model, sample: list[np.ndarray], num_images: int) -> None:
    """Everything that `classify` does in its own thread: normalize, run, rank."""
    preparation = model.preparation
    assert preparation is not None
    (name,) = model.input_specs
    for start in range(0, num_images, len(sample)):
        pictures = sample[: min(len(sample), num_images - start)]
        model.classes(model.run({name: preparation.batch(pictures)}))


def consume(classifier: ImageClassifier, paths: Sequence[str]) -> None:
    for row in classifier.rows(cut_parts(paths, PART_SIZE)):
        assert row.error is None, row.error


def report(seconds: dict[str, list[float]], num_images: int) -> None:
    rates = {name: num_images / statistics.median(taken) for name, taken in seconds.items()}
    for name, taken in seconds.items():
        spread = (max(taken) - min(taken)) / statistics.median(taken)
        print(f"{name:16} {rates[name]:10.1f} images/s   spread {spread:.0%}")
    slower = min(rates["decoding alone"], rates["model alone"])
    print(f"\nclassify is {rates['classify'] / slower:.3f} of the slower one alone (target: at least 0.95)")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--provider", default="cpu")
    parser.add_argument("--decoders", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--num-images", type=int, default=None)
    return parser.parse_args()


if __name__ == "__main__":
    main()
