"""Run a bundle's golden inputs on this device and compare with PyTorch's logits, recorded when it was exported.

    python check_golden.py BUNDLE/model.int8.engine --runtime tensorrt --tolerance 0.2

The tolerance is relative to the largest |logit|. The bundle's report.json has what to expect: `max_abs_diff` of the
same precision, measured on the workstation in absolute logits.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from open_runtime import add_model_options, bundle_of, open_runtime

from runtimes.bundle.manifest import Manifest, check_files, load_manifest
from runtimes.errors import NotAClassifierError, RuntimeAdapterError
from runtimes.io.npz import load_npz
from runtimes.metrics.answer_kind import AnswerKind


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare a model on this device with PyTorch's recorded logits.")
    add_model_options(parser)
    parser.add_argument("--tolerance", type=float, required=True, help="relative to the largest |logit|, such as 1e-3")
    options = parser.parse_args()
    if not (math.isfinite(options.tolerance) and options.tolerance > 0):
        parser.error(f"--tolerance: got {options.tolerance}, expected a number > 0")
    try:
        bundle = bundle_of(options)
        manifest = load_manifest(bundle)
        check_files(bundle, manifest)
        golden = load_npz(bundle / "golden.npz")
        with open_runtime(options) as model:
            images, expected = golden["input"], expected_scores(manifest, golden)
            name, output = manifest.inputs[0].name, manifest.outputs[0].name
            got = np.concatenate([model.run({name: image[np.newaxis]})[output] for image in images])
    except RuntimeAdapterError as err:
        print(f"check_golden.py: {err}", file=sys.stderr)
        return 2
    same = int((got.argmax(axis=1) == expected.argmax(axis=1)).sum())
    difference = float(np.abs(got - expected).max() / np.abs(expected).max())
    what = "probability" if manifest.options.get("softmax") else "logit"
    agreed = f"same class as PyTorch: {same} of {len(expected)}"
    print(f"{agreed}; largest difference {difference:.2g} of the largest {what}")
    if not difference <= options.tolerance:  # NaN fails too
        print(f"check_golden.py: {difference:.2g} is larger than {options.tolerance}", file=sys.stderr)
        return 1
    return 0


def expected_scores(manifest: Manifest, golden: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    """Return what PyTorch would give where the file gives it: logits, or with --softmax probabilities.

    Raises:
        NotAClassifierError: Of a file that gives features, or the best K classes only.
    """
    if "logits" not in golden or len(manifest.outputs) != 1:
        names = ", ".join(output.name for output in manifest.outputs)
        raise NotAClassifierError(
            f"the files give {names}, which stored logits do not compare with; resnet-export verify judges the "
            "best classes, report.json has the figures of features"
        )
    softmax = manifest.options.get("softmax")
    return AnswerKind.LOGITS.probabilities(golden["logits"]) if softmax else golden["logits"]


if __name__ == "__main__":
    sys.exit(main())
