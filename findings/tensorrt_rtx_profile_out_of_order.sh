#!/usr/bin/env bash
# TensorRT-RTX 1.7.1.116 (and the bindings of TensorRT 11.4.0.106 on its builder): an optimization profile with
# MIN > OPT or OPT > MAX is no error when it is set.
#
# One would guess: IOptimizationProfile.set_shape refuses shapes out of order, as it refuses a negative size
# ("Shape provided for min is inconsistent with other shapes.").
# What happens: set_shape returns None and get_shape gives the shapes back; IBuilderConfig.add_optimization_profile
# then returns -1, without an exception. Who does not look at its result builds without a profile.
#
# Output seen, 2026-11-29, Linux x86-64, no GPU:
#   set_shape (3, 2) (2, 2) (4, 2): None, kept as [(3, 2), (2, 2), (4, 2)], add_optimization_profile -1
#   set_shape (1, 2) (5, 2) (4, 2): None, kept as [(1, 2), (5, 2), (4, 2)], add_optimization_profile -1
#   set_shape (1, 2) (2, 2) (4, 2): None, kept as [(1, 2), (2, 2), (4, 2)], add_optimization_profile 0
#   set_shape (-1, 2) (2, 2) (4, 2): RuntimeError
#
# Exits with 1 if that changes. Needs pip, Python 3.11 and 115 MB of downloads.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --no-deps --target "$folder" \
    tensorrt-rtx-cu13-libs==1.7.1.116 tensorrt-rtx-cu13-bindings==1.7.1.116
PYTHONPATH="$folder" python3 - <<'PYTHON'
import sys

import tensorrt_rtx_bindings as trt


class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)

    def log(self, severity, message):
        pass


logger = Logger()
builder = trt.Builder(logger)
config = builder.create_builder_config()
answers = []
for shapes in [((3, 2), (2, 2), (4, 2)), ((1, 2), (5, 2), (4, 2)), ((1, 2), (2, 2), (4, 2)), ((-1, 2), (2, 2), (4, 2))]:
    profile = builder.create_optimization_profile()
    words = " ".join(map(str, shapes))
    try:
        told = profile.set_shape("input", *shapes)
        kept = [tuple(shape) for shape in profile.get_shape("input")]
        answers.append(config.add_optimization_profile(profile))
        print(f"set_shape {words}: {told}, kept as {kept}, add_optimization_profile {answers[-1]}")
    except RuntimeError as err:
        answers.append(type(err).__name__)
        print(f"set_shape {words}: {answers[-1]}")
sys.exit(answers != [-1, -1, 0, "RuntimeError"])
PYTHON
