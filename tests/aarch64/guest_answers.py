"""Inside the root: run a bundle's golden inputs one by one and keep the logits.

python3 guest_answers.py BUNDLE FILE OUT.npz [COUNT]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from runtimes import load


def main(bundle: str, file: str, out: str, count: str | None = None) -> None:
    """Write `logits`, float32 [n, classes]."""
    images = np.load(Path(bundle) / "golden.npz")["input"][: None if count is None else int(count)]
    with load(bundle, file=file, provider="cpu") as model:
        name = next(iter(model.input_specs))
        output = next(iter(model.output_specs))
        logits = np.concatenate([model.run({name: image[np.newaxis]})[output] for image in images])
    np.savez(out, logits=logits)


if __name__ == "__main__":
    main(*sys.argv[1:])
