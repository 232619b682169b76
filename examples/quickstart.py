"""Say what is on pictures, with a bundle that `resnet-export` wrote. Needs NumPy, Pillow and onnxruntime.

python examples/quickstart.py BUNDLE PICTURE... [--provider cpu|cuda|tensorrt|...]
"""

from __future__ import annotations

import argparse
import sys

from runtimes import load


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("bundle")
    parser.add_argument("pictures", nargs="+")
    parser.add_argument("--provider", default="auto")
    arguments = parser.parse_args()
    with load(arguments.bundle, provider=arguments.provider) as model:
        print(model.describe(), file=sys.stderr)
        for picture, answer in zip(arguments.pictures, model.classify(arguments.pictures), strict=True):
            print(f"{picture}: {answer} (then {', '.join(map(str, answer.top[1:3]))})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
