#!/usr/bin/env bash
# TensorRT-RTX 1.7.1.116: an engine whose weights can be replaced, or are left out, cannot be built without a GPU.
#
# One would guess: TensorRT-RTX builds on machines without a GPU, and BuilderFlag.REFIT, REFIT_IDENTICAL and STRIP_PLAN
# change what is written into the plan, not how it is compiled; so they work there too.
# What happens: build_serialized_network returns None with each of the three; its log ends in "graph_jit.cpp ...
# CHECK(status == CUDA_SUCCESS) failed", which names neither the flag nor the missing GPU. Without them it builds.
#
# Output seen, 2026-11-29, Linux x86-64, no GPU (with a GPU it says so and exits with 0: nothing to see there):
#   no flag: built
#   REFIT: None, MyelinCheckException: graph_jit.cpp:278: CHECK(status == CUDA_SUCCESS) failed.
#   REFIT_IDENTICAL: None, MyelinCheckException: graph_jit.cpp:278: CHECK(status == CUDA_SUCCESS) failed.
#   STRIP_PLAN: None, MyelinCheckException: graph_jit.cpp:278: CHECK(status == CUDA_SUCCESS) failed.
#
# Exits with 1 if that changes. Needs pip, Python 3.11 and 133 MB of downloads.
set -euo pipefail
if [ -e /dev/nvidia0 ]; then echo "there is a GPU; this is about machines without"; exit 0; fi
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m pip install --quiet --no-deps --target "$folder" \
    tensorrt-rtx-cu13-libs==1.7.1.116 tensorrt-rtx-cu13-bindings==1.7.1.116
python3 -m pip install --quiet --target "$folder" onnx==1.23.2
PYTHONPATH="$folder" python3 - <<'PYTHON'
import re
import sys

import numpy as np
import tensorrt_rtx_bindings as trt
from onnx import TensorProto, helper, numpy_helper

weights = numpy_helper.from_array(np.ones((8, 3, 3, 3), np.float32), "w")
info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, size, 8, 8]) for name, size in (("x", 3), ("y", 8))]
node = helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
graph = helper.make_graph([node], "g", info[:1], info[1:], [weights])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()
errors = []


class Logger(trt.ILogger):
    def __init__(self):
        trt.ILogger.__init__(self)

    def log(self, severity, message):
        if severity <= trt.ILogger.Severity.ERROR:
            errors.append(message)


logger = Logger()
answers = []
for flags in ([], ["REFIT"], ["REFIT_IDENTICAL"], ["STRIP_PLAN"]):
    errors.clear()
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse(model), errors
    config = builder.create_builder_config()
    for flag in flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    plan = builder.build_serialized_network(network, config)
    words = re.search(r"\w+Exception: .*?failed\.", " ".join(errors))
    answers.append(plan is not None)
    print(f"{', '.join(flags) or 'no flag'}: {'built' if plan is not None else f'None, {words and words[0]}'}")
sys.exit(answers != [True, False, False, False])
PYTHON
