"""Classify what a camera, a video or an image shows, with a bundle on a Jetson. Needs neither torch nor onnx.

    python camera.py BUNDLE/model.int8.engine --runtime tensorrt --source 0
    python camera.py BUNDLE/model.int8.engine --runtime tensorrt --source "nvarguscamerasrc ! ... ! appsink"
    python camera.py BUNDLE/model.onnx --runtime onnxruntime --image photo.jpg

`--image` reads the file with Pillow, as calibration and evaluation did, and does not need OpenCV.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from open_runtime import add_model_options, bundle_of, open_runtime
from PIL import Image

from runtimes.bundle.manifest import check_files, load_manifest, read_labels
from runtimes.errors import MissingDependencyError, RuntimeAdapterError
from runtimes.inference.classification import Classification, head_from_outputs
from runtimes.metrics.answer_kind import AnswerKind
from runtimes.preprocessing.decode import read_image


class SourceError(RuntimeAdapterError):
    """A camera, pipeline or video cannot be opened, or gives no frame."""


def main() -> int:
    options = parse_options()
    try:
        bundle = bundle_of(options)
        manifest = load_manifest(bundle)
        check_files(bundle, manifest)
        with open_runtime(options) as model:
            head = head_from_outputs(
                model.output_specs, labels=read_labels(bundle, manifest), kind=manifest.answers or AnswerKind.LOGITS
            )
            start = time.perf_counter()
            for number, frame in enumerate(frames(options), start=1):
                outputs = model.run({manifest.inputs[0].name: manifest.prepare(frame)[np.newaxis]})
                (answer,) = head.classes(outputs, top=options.top)
                now = time.perf_counter()  # reading, preparing and running, which is what a camera sees
                print(f"frame {number}: {1 / (now - start):.1f} fps")
                print_top(answer)
                start = time.perf_counter()
    except RuntimeAdapterError as err:
        print(f"camera.py: {err}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Classify a camera, a video or an image with a bundle.")
    add_model_options(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--image", type=Path, help="one image file, read with Pillow")
    source.add_argument("--source", help="V4L2 number such as 0, GStreamer pipeline (with ' ! '), or video file")
    parser.add_argument("--frames", type=positive, help="stop after this many (default: when the source ends)")
    parser.add_argument("--top", type=positive, default=5, help="classes to print (default: 5)")
    return parser.parse_args()


def positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, expected a whole number > 0")
    return int(text)


def print_top(answer: Classification) -> None:
    """Print the likeliest classes, in percent where that can be known: of the best K logits it cannot."""
    for scored in answer.top:
        chance = f"{100 * scored.probability:.1f} %" if scored.probability is not None else f"logit {scored.score:.2f}"
        print(f"  {scored.label}  {chance}")


def frames(options: argparse.Namespace) -> Iterator[Image.Image]:
    """Give RGB pictures until the source ends or `--frames` are given."""
    if options.image is not None:
        yield read_image(options.image)
        return
    capture = open_capture(options.source)
    number = 0
    try:
        while options.frames is None or number < options.frames:
            arrived, frame = capture.read()
            if not arrived:
                break
            number += 1
            yield Image.fromarray(np.ascontiguousarray(frame[..., ::-1]))  # OpenCV gives B, G, R
    finally:
        capture.release()
    if number == 0:
        raise SourceError(f"{options.source!r} opened but gave no frame; check the cable, the pipeline or the file")


def open_capture(source: str) -> Any:
    """Open a camera, a pipeline or a file with OpenCV."""
    try:
        import cv2
    except ImportError as err:
        raise MissingDependencyError(
            f"--source needs OpenCV ({err}); apt install python3-opencv (JetPack's has GStreamer), or use --image FILE"
        ) from err
    if source.isdecimal():
        capture, advice = cv2.VideoCapture(int(source), cv2.CAP_V4L2), f"is there a /dev/video{source}?"
    elif " ! " in source:
        capture = cv2.VideoCapture(source, cv2.CAP_GSTREAMER)
        advice = "try it with gst-launch-1.0; cv2.getBuildInformation() says whether this OpenCV has GStreamer"
    else:
        if not Path(source).is_file():
            raise SourceError(f"there is no file {source!r}; give a camera's number, a pipeline or a video file")
        capture, advice = cv2.VideoCapture(source), "is it a video that this OpenCV can decode?"
    if not capture.isOpened():
        raise SourceError(f"cannot open {source!r}; {advice}")
    return capture


if __name__ == "__main__":
    sys.exit(main())
